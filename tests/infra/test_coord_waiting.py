"""What ``coord start``, ``submit`` and ``watch`` say while nothing happens, and when cut short."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from deployment import Deployment

from mabeam import Agent, Ballot, VoteRequest, on
from mabeam.core.client import Client
from mabeam.core.coordination import Coordination
from mabeam.core.errors import LogUnavailableError
from mabeam.core.keyring import Agent as Registered
from mabeam.core.keyring import Keyring
from mabeam.core.memory_transport import MemoryLog
from mabeam.infra.cli import coord_waiting
from mabeam.infra.cli.coord_waiting import state_of
from mabeam.infra.cli.invocation import Invocation
from mabeam.infra.cli.main import run

REPLICAS = ("r1", "r2", "r3", "r4")
SERVICE = ("byzantine_consensus", "-p", ",".join(REPLICAS), "-s", "mode=service")
BALLOT = ("simple_consensus", "-p", "a1", "-s", "proposal=x", "--id", "c-1")
Prepare = Callable[[Deployment], Awaitable[object]]


class Approving(Agent):
    """Agrees with everything."""

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        return Ballot.agree()


class Program:
    """Runs commands, each on a deployment of its own within this process.

    Args:
        directory: where journals are kept.
    """

    id = "client"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs = 0
        self._deployment: Deployment | None = None
        self._client: Client | None = None
        self._prepare: Prepare = _nobody

    def run(self, prepare: Prepare, *arguments: str) -> int:
        """Exit status of ``mabeam coord ARGUMENTS`` after ``prepare``."""
        self._prepare = prepare
        return run(["coord", *arguments, "--as", "client"])

    async def connect(self) -> Program:
        """Stands for the connection as well."""
        self._runs += 1
        directory = self._directory / str(self._runs)
        directory.mkdir()
        self._deployment = await Deployment(directory).__aenter__()
        self._client = await self._deployment.client()
        await self._prepare(self._deployment)
        return self

    def client(self, transport: Program, **options: Any) -> Client:
        """The client."""
        assert self._client is not None
        return self._client

    async def close(self) -> None:
        """End the deployment."""
        assert self._deployment is not None
        await self._deployment.__aexit__(None, None, None)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    it = Program(tmp_path)
    monkeypatch.setattr(Invocation, "wiring", lambda self, id: it)
    return it


async def _nobody(deployment: Deployment) -> None:
    pass


async def _voter(deployment: Deployment) -> None:
    await deployment.agent("a1", Approving())


async def _all(deployment: Deployment) -> None:
    await deployment.coordinator("coord-1")
    for id in REPLICAS:
        await deployment.agent(id, Agent())


async def _service(deployment: Deployment, *, silent: int = 0) -> None:
    """A service, with the last replicas gone once it is open."""
    await deployment.coordinator("coord-1")
    hosts = [await deployment.agent(id, Agent()) for id in REPLICAS]
    client = await deployment.client()
    await client.request("byzantine_consensus", {"mode": "service"}, REPLICAS, coordination="c-1")
    await client.until("c-1", lambda fold: fold.opened)
    for host in hosts[len(hosts) - silent :]:
        await deployment.kill(host)


async def _without_a_quorum(deployment: Deployment) -> None:
    await _service(deployment, silent=2)


def _signalled(monkeypatch: pytest.MonkeyPatch, received: signal.Signals = signal.SIGINT) -> None:
    """What it waits for is the last thing a command gets to say before the signal."""

    def spoken(fold: Coordination, keyring: Keyring) -> str:
        asyncio.get_running_loop().call_later(0, signal.raise_signal, received)
        return state_of(fold, keyring)

    monkeypatch.setattr(coord_waiting, "QUIET_WAIT_S", 0.3)
    monkeypatch.setattr(coord_waiting, "state_of", spoken)


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_a_request_that_nobody_waits_for_any_more_is_not_forgotten(
    received: signal.Signals,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _signalled(monkeypatch, received)
    assert program.run(_voter, "start", *BALLOT) == 130
    assert capsys.readouterr().err.split("\n")[:2] == [
        "c-1: no coordinator has claimed it yet; does one run?",
        "the request of client is stored in c-1 and may still be decided; "
        "see 'mabeam coord show c-1'",
    ]


def test_an_operation_that_nobody_waits_for_any_more_is_not_forgotten(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _signalled(monkeypatch)
    assert program.run(_without_a_quorum, "submit", "c-1", '{"deposit": 5}') == 130
    waits, left = capsys.readouterr().err.split("\n")[:2]
    assert waits.startswith("c-1: waiting for r")
    assert waits.endswith(" (active)")
    assert left == (
        "request 1 of client is stored in c-1 and may still execute; see 'mabeam coord show c-1'"
    )


def test_what_the_log_did_not_acknowledge_may_be_stored_all_the_same(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def unreachable(self: MemoryLog, submission: object) -> None:
        raise LogUnavailableError("the log did not answer")

    async def prepare(deployment: Deployment) -> None:
        await _voter(deployment)
        monkeypatch.setattr(MemoryLog, "append", unreachable)

    assert program.run(prepare, "start", *BALLOT) == LogUnavailableError.exit_code
    left, error = capsys.readouterr().err.splitlines()
    assert left.startswith("the request of client may be stored in c-1 and may still be decided")
    assert error.startswith("error[log_unavailable]: ")


def test_a_service_is_announced_as_soon_as_it_is_open(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(_all, "start", *SERVICE) == 0
    said = capsys.readouterr()
    name = said.err.removeprefix("asked for ").rstrip()
    assert said.out == f"{name}: open\n"
    assert program.run(_all, "start", *SERVICE, "--id", "ledger", "--json") == 0
    said = capsys.readouterr()
    assert said.out.startswith('{"coordination": "ledger", "opened_sequence": ')
    assert said.err == ""


def test_participants_that_start_late_are_waited_for(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = asyncio.Event()

    def echo(text: str, **options: Any) -> None:
        lines.append(text)
        said.set()

    async def late(deployment: Deployment) -> None:
        await said.wait()
        await deployment.agent("a1", Approving())

    async def prepare(deployment: Deployment) -> None:
        await deployment.coordinator("coord-1")
        await deployment.admit("a1", "agent")
        tasks.append(asyncio.create_task(late(deployment)))

    lines: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    monkeypatch.setattr(coord_waiting, "QUIET_REGISTRATION_S", 0)
    monkeypatch.setattr(click, "echo", echo)
    assert program.run(prepare, "start", *BALLOT) == 0
    assert lines == [
        "waiting up to 10 s for a1 to register; 'mabeam agent run' does that",
        "c-1: agree",
    ]


def test_nobody_waits_for_those_who_cannot_register(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare(deployment: Deployment) -> None:
        await deployment.coordinator("coord-1")
        await deployment.admit("a1", "agent")

    assert program.run(prepare, "start", *BALLOT, "-p", "ghost") == 1
    assert capsys.readouterr().err.startswith("error[coordination_failed]: c-1: agents_not_found")


def test_what_does_not_exist_cannot_be_watched(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(_nobody, "watch", "nosuch") == 4
    assert "error[not_found]: there is no coordination 'nosuch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"claim": None}, "no coordinator has claimed it yet; does one run?"),
        ({"config": None}, "waiting for coord-1 to open it"),
        ({}, "waiting for r0, r1, r2, r3, r4, r5, r6, r7 and 2 more (active); unreachable: r3"),
        ({"waiting_for": tuple}, "waiting (active); unreachable: r3"),
    ],
)
def test_what_is_waited_for(changes: dict[str, Any], said: str) -> None:
    ids = tuple(f"r{number}" for number in range(10))
    config = SimpleNamespace(participants=[SimpleNamespace(agent_id=id) for id in ids])
    fold: Any = SimpleNamespace(
        claim=True, coordinator="coord-1", config=config, phase="active", waiting_for=lambda: ids
    )
    fold.__dict__.update(changes)
    gone = Registered(health="unreachable")
    keyring: Any = SimpleNamespace(agent=lambda id: gone if id == "r3" else Registered())
    assert state_of(fold, keyring) == said
