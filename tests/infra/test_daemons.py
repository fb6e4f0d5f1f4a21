"""Daemons in good and bad days: drained, killed, started too early, cut off, out of space."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from mabeam.core.client import Client
from mabeam.core.errors import NotFoundError
from mabeam.core.journal import Journal
from mabeam.infra.local import DaemonError, LocalDeployment
from mabeam.infra.membership import Applicant

pytestmark = pytest.mark.integration

Command = Callable[..., Any]
HERE = Path(__file__).parent


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[LocalDeployment]:
    """A running server, two coordinators and three agents admitted, nobody started."""
    with LocalDeployment(tmp_path / "home") as it:
        it.create(lease_ms=1000, drain_ms=500)
        it.start_server()
        it.provision()
        it.admit_many(
            [
                Applicant("client", ("client",)),
                *(Applicant(id, ("coordinator",)) for id in ("c1", "c2")),
                *(Applicant(id) for id in ("a1", "a2", "a3")),
                Applicant("p1", ("projector",)),
            ]
        )
        yield it


def _start(deployment: LocalDeployment, *ids: str, kind: str = "Approving") -> None:
    for id in ids:
        if id.startswith("c"):
            deployment.spawn_coordinator(id, wait=False)
        elif id.startswith("p"):
            deployment.spawn_projector(id, wait=False)
        else:
            deployment.spawn_agent(id, f"sample_agents:{kind}", HERE, wait=False)
    for id in ids:
        deployment.wait_ready(id)


def _events(deployment: LocalDeployment, id: str) -> list[str]:
    """Event names a daemon logged."""
    lines = deployment.home.log_path(id).read_text().splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{")]


def _holds(path: Path, text: str) -> bool:
    return text in path.read_text()


async def _request(client: Client, **options: Any) -> str:
    return await client.request(
        "simple_consensus",
        {"proposal": "x", "threshold_ppm": 1_000_000},
        ["a1", "a2", "a3"],
        timeout_ms=60_000,
        **options,
    )


async def _decide(deployment: LocalDeployment, count: int = 1) -> list[str]:
    client = await deployment.client()
    try:
        async with asyncio.timeout(30):
            names = [await _request(client) for _ in range(count)]
            results = [await client.result(name) for name in names]
    finally:
        await client.transport.close()
    return [result.outcome["decision"] for result in results]


async def test_every_daemon_drains_on_sigterm_and_ends_with_0(
    deployment: LocalDeployment,
) -> None:
    _start(deployment, "c1", "a1", "a2", "a3", "p1")
    assert await _decide(deployment, 3) == ["agree"] * 3
    for id in ("a1", "p1", "c1"):
        assert deployment.stop(id) == 0
        assert _events(deployment, id)[-1] == "ended"
        assert "draining" in _events(deployment, id)
    deployment.kill("a2", signal.SIGINT)
    assert deployment.wait_exit("a2") == 130


@pytest.mark.parametrize("id", ["c1", "a1"])
def test_a_second_process_under_one_key_is_refused(deployment: LocalDeployment, id: str) -> None:
    _start(deployment, id)
    kind = ["coordinator", "run"] if id == "c1" else ["agent", "run", "sample_agents:Approving"]
    path = [] if id == "c1" else ["--path", str(HERE)]
    home = ["--home", str(deployment.home.path)]
    ran = subprocess.run(
        [sys.executable, "-m", "mabeam.infra.cli", *home, *kind, "--id", id, *path],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ran.returncode, "journal_in_use" in ran.stderr) == (5, True)
    deployment.wait_ready(id)  # the first one goes on


async def test_a_command_says_that_it_waits_for_another_with_its_key(
    deployment: LocalDeployment,
) -> None:
    client = deployment.home.member("client")
    key = deployment.home.secrets("client").key_pair()
    journal = Journal(deployment.home.journal_path(client.id), client.id, key.key_id)
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mabeam.infra.cli", "--home", str(deployment.home.path)),
        *("coord", "cancel", "nowhere", "--as", "client"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert command.stderr is not None
    async with asyncio.timeout(30):
        said = await command.stderr.readline()
        assert said.decode().startswith("waiting for another command or daemon that signs as")
        await journal.close()
        assert b"not_found" in await command.stderr.read()
        assert await command.wait() == NotFoundError.exit_code


async def test_work_in_hand_is_finished_before_the_end(deployment: LocalDeployment) -> None:
    _start(deployment, "c1", "a1", "a2")
    _start(deployment, "a3", kind="Thinking")
    client = await deployment.client()
    try:
        name = await _request(client)
        await asyncio.to_thread(
            wait_until, lambda: "mabeam.protocol.started" in _events(deployment, "c1")
        )
        # The vote takes longer than drain_ms; the coordinator has 500 ms, so it hands over.
        deployment.kill("c1", signal.SIGTERM)
        assert await asyncio.to_thread(deployment.wait_exit, "c1") == 0
        await asyncio.to_thread(_start, deployment, "c2")
        async with asyncio.timeout(20):
            decision = await client.result(name)
        assert decision.outcome["decision"] == "agree"
    finally:
        await client.transport.close()


async def test_a_handler_that_never_returns_does_not_keep_the_daemon(
    deployment: LocalDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    _start(deployment, "c1", "a1", kind="Stuck")
    monkeypatch.setenv("MABEAM_DRAIN_MS", "60000")
    _start(deployment, "a2", kind="Stuck")
    _start(deployment, "a3")
    client = await deployment.client()
    try:
        await _request(client)
        for id in ("a1", "a2"):
            path = deployment.home.log_path(id)
            await asyncio.to_thread(wait_until, functools.partial(_holds, path, "stuck"))
    finally:
        await client.transport.close()
    deployment.kill("a1", signal.SIGTERM)
    assert deployment.wait_exit("a1", timeout_s=15) == 0
    assert "handing_over" in _events(deployment, "a1")
    deployment.kill("a2", signal.SIGTERM)
    wait_until(lambda: "draining" in _events(deployment, "a2"))
    with pytest.raises(DaemonError, match="did not end"):
        deployment.wait_exit("a2", timeout_s=0.5)
    deployment.kill("a2", signal.SIGTERM)
    assert deployment.wait_exit("a2", timeout_s=5) == 128 + signal.SIGTERM


async def test_daemons_wait_for_a_server_and_for_its_return(deployment: LocalDeployment) -> None:
    assert deployment.server is not None
    deployment.server.stop()
    ids = ("c1", "a1", "a2", "a3", "p1")
    for id in ids:
        if id in ("c1",):
            deployment.spawn_coordinator(id, wait=False)
        elif id == "p1":
            deployment.spawn_projector(id, wait=False)
        else:
            deployment.spawn_agent(id, "sample_agents:Approving", HERE, wait=False)
    for id in ids:
        path = deployment.home.log_path(id)
        wait_until(functools.partial(_holds, path, "waiting_for_server"), timeout_s=20)
    deployment.server.start()
    for id in ids:
        deployment.wait_ready(id)
        assert _events(deployment, id).count("waiting_for_server") == 1
    assert await _decide(deployment) == ["agree"]
    deployment.server.kill()
    deployment.server.start()
    for id in ids:
        deployment.wait_ready(id)
    assert await _decide(deployment) == ["agree"]
    deployment.stop("a1")
    deployment.server.stop()
    deployment.spawn_agent("a1", "sample_agents:Approving", HERE, wait=False)
    wait_until(lambda: _events(deployment, "a1").count("waiting_for_server") == 2, timeout_s=20)
    assert deployment.stop("a1") == 0, "an agent that still waits for the server ends at once"


async def test_an_invitation_survives_the_server_that_held_the_inbox(
    deployment: LocalDeployment,
) -> None:
    assert deployment.server is not None
    _start(deployment, "c1", "a1", "a2", "a3")
    deployment.stop("a3")
    client = await deployment.client()
    try:
        name = await _request(client)
        while (await client.read(name)).waiting_for() != ("a3",):
            await asyncio.sleep(0.05)
        deployment.server.kill()
        deployment.server.start()
        await asyncio.to_thread(_start, deployment, "a3")
        async with asyncio.timeout(20):
            assert (await client.result(name)).outcome["decision"] == "agree"
    finally:
        await client.transport.close()


def test_the_service_manager_is_told(
    deployment: LocalDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        deployment.spawn_coordinator("c1")
        assert manager.recv(1000).startswith(b"READY=1")
        deployment.stop("c1")
        assert manager.recv(1000) == b"STOPPING=1"


async def test_another_coordinator_goes_on_after_kill_9(deployment: LocalDeployment) -> None:
    _start(deployment, "c1", "a1", "a2", "a3", kind="Thinking")
    client = await deployment.client()
    try:
        async with asyncio.timeout(30):
            names = [await _request(client) for _ in range(4)]
            started = "mabeam.protocol.started"
            await asyncio.to_thread(
                wait_until, lambda: _events(deployment, "c1").count(started) == 4
            )
            deployment.kill("c1")
            await asyncio.to_thread(_start, deployment, "c2")
            for name in names:
                assert (await client.result(name)).outcome["decision"] == "agree"
                assert (await client.read(name)).term == 2
    finally:
        await client.transport.close()


async def test_an_agent_goes_on_with_rotated_keys(deployment: LocalDeployment) -> None:
    _start(deployment, "c1", "a1", "a2", "a3")
    assert await _decide(deployment) == ["agree"]
    await asyncio.to_thread(deployment.rotate, "a3")
    deployment.stop("a3")
    _start(deployment, "a3")
    assert await _decide(deployment) == ["agree"]


def test_a_full_log_is_one_clear_line(tmp_path: Path) -> None:
    with LocalDeployment(tmp_path / "home") as deployment:
        deployment.create(max_bytes=40_000)
        deployment.start_server()
        deployment.provision()
        deployment.admit("client", ("client",))
        parameters = tmp_path / "parameters.json"
        parameters.write_text(json.dumps({"proposal": "x" * 20_000}))
        start = ["coord", "start", "simple_consensus", "-p", "a1", "--no-wait"]
        for _ in range(10):
            found = _run(deployment, *start, "--config", str(parameters))
            if found.returncode:
                break
        assert found.returncode == 1
        assert found.stderr.startswith("error[log_full]: ")
        assert found.stderr.count("error[") == 1
        assert "Traceback" not in found.stderr


def test_a_database_that_may_only_be_read_is_one_clear_line(
    deployment: LocalDeployment,
) -> None:
    assert _run(deployment, "db", "upgrade").returncode == 0
    url = f"sqlite:///file:{deployment.home.path / 'mabeam.db'}?mode=ro&uri=true"
    found = _run(deployment, "--database", url, "projector", "run", "--id", "p1")
    assert found.returncode == 5
    errors = [line for line in found.stderr.splitlines() if line.startswith("error[")]
    assert len(errors) == 1
    assert errors[0].startswith("error[database_read_only]: ")


def test_a_second_process_of_one_daemon_is_refused(deployment: LocalDeployment) -> None:
    _start(deployment, "c1")
    with pytest.raises(DaemonError, match="running already"):
        deployment.spawn_coordinator("c1")


def test_the_development_setup_comes_up_and_ends(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "mabeam.infra.cli", "--home", str(home), "dev", "--once"]
    agent = ["--agent", "a1=sample_agents:Approving"]
    for arguments in ([], agent):
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=50,
            cwd=HERE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "running     coordinator-1, projector-1" in done.stdout
    assert (home / "mabeam.db").exists()


def _run(deployment: LocalDeployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mabeam.infra.cli", "--home", str(deployment.home.path)]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=40, check=False
    )
