"""A service gets other replicas: in steps, again after a crash, and whoever interferes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from deployment import Deployment

from mabeam import Agent
from mabeam.core.audit.verify import audit_log
from mabeam.core.client import Client, CoordinationFailedError, Effect
from mabeam.core.coordination import Coordination
from mabeam.core.errors import UsageError, VerificationError
from mabeam.core.kernel_events import Invitee
from mabeam.core.succession import predecessor_of
from mabeam.infra.reconfiguration import Change, following_id, reconfigure
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.byzantine import ByzantineFold
from mabeam.protocols.byzantine.events import (
    HANDOVER,
    REQUEST,
    HandoverRequested,
    RequestSubmitted,
)
from mabeam.protocols.byzantine.execution import Executed as Slot

OLD = ("r1", "r2", "r3", "r4")
NEW = ("r1", "r2", "r3", "r5")
CHANGE = Change(tuple(map(Invitee, NEW)))


class Service:
    """A deployment with five agents, and a service of the first four."""

    def __init__(self, deployment: Deployment, client: Client) -> None:
        self.deployment = deployment
        self.client = client

    async def execute(self, operation: str, name: str = "ledger") -> Effect[Slot]:
        """Submit an operation and wait until it executed, wherever."""
        return await asyncio.wait_for(
            self.client.execute(
                name, REQUEST, lambda number: RequestSubmitted(number, operation), executed
            ),
            30,
        )

    async def reconfigure(self, name: str = "ledger", change: Change = CHANGE) -> str:
        """Hand over; the successor's id."""
        done = await asyncio.wait_for(reconfigure(self.client, name, change), 30)
        assert done.coordination == name
        return done.successor

    async def operations(self, name: str) -> list[object]:
        """What a coordination executed, in order, but for handovers."""
        machine = (await self.client.read(name)).machine
        assert isinstance(machine, ByzantineFold)
        executor = machine.executor
        done = (executor.operation(each) for slot in executor.log for each in slot.requests)
        return [each for each in done if not isinstance(each, HandoverRequested)]


def executed(fold: Coordination, request_id: bytes) -> Slot | None:
    """The slot a request executed in."""
    machine = fold.machine
    return machine.slot_of(request_id) if isinstance(machine, ByzantineFold) else None


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        for name in (*OLD, "r5"):
            await deployment.agent(name, Agent())
        client = await deployment.client()
        config = {"mode": "service", "view_timeout_ms": 1_000}
        await client.request("byzantine_consensus", config, OLD, coordination="ledger")
        await client.until("ledger", lambda fold: fold.opened)
        yield Service(deployment, client)


async def test_clients_follow_a_chain_of_successors(service: Service) -> None:
    first = await service.execute("a")
    assert (first.coordination, first.result.sequence) == ("ledger", 1)
    assert await service.reconfigure() == "ledger-2"
    second = await service.execute("b")
    assert (second.coordination, second.result.sequence) == ("ledger-2", 1)
    back = Change(tuple(map(Invitee, OLD)), {"checkpoint_interval": 8}, 1, "ledger-of-july")
    assert await service.reconfigure("ledger-2", back) == "ledger-of-july"
    third = await service.execute("c")
    assert third.coordination == "ledger-of-july"
    assert (await service.execute("d", "ledger-2")).coordination == "ledger-of-july"
    assert [await service.operations(each) for each in ("ledger", "ledger-2")] == [["a"], ["b"]]
    fold = await service.client.latest("ledger")
    assert fold.config is not None
    claim = predecessor_of(fold.config)
    assert claim is not None
    machine = (await service.client.read("ledger-2")).machine
    assert isinstance(machine, ByzantineFold)
    assert (claim.sequence, claim.state_root) == (machine.executor.executed, machine.executor.root)
    assert fold.config.config["checkpoint_interval"] == 8
    assert fold.config.config["view_timeout_ms"] == 1_000
    root = service.deployment.root.public_key
    report = await audit_log(service.client.transport.log, root, PROTOCOLS)
    assert report.clean, report.findings


async def test_what_is_under_way_executes_exactly_once_somewhere(service: Service) -> None:
    """Twelve operations while the service is handed over: each in one of the two, and only once."""
    others = await asyncio.gather(
        service.reconfigure(), *(service.execute(f"op-{number}") for number in range(12))
    )
    done = [each for each in others if isinstance(each, Effect)]
    assert {each.coordination for each in done} <= {"ledger", "ledger-2"}
    both = [*await service.operations("ledger"), *await service.operations("ledger-2")]
    assert sorted(map(str, both)) == sorted(f"op-{number}" for number in range(12))


async def test_the_same_call_goes_on_after_a_crash(service: Service) -> None:
    """The handover submitted, executed, the successor asked for, and all of it done."""
    client = service.client
    await client.submit("ledger", HANDOVER, lambda number: HandoverRequested("ledger-x"))
    assert await service.reconfigure() == "ledger-x"
    assert await service.reconfigure() == "ledger-x"
    fold = await client.read("ledger-x")
    events = await client.transport.log.read("ledger")
    assert sum("handover_requested" in each.subject for each in events) == 1
    requests = [
        each for each in await client.transport.log.read("ledger-x") if ".req." in each.subject
    ]
    assert len(requests) == 1
    assert fold.opened is not None
    with pytest.raises(UsageError, match="before, with r1, r2, r3, r5"):
        await service.reconfigure(change=Change(tuple(map(Invitee, OLD))))
    await client.submit("ledger-x", HANDOVER, lambda number: HandoverRequested("ledger-y"))
    await client.result("ledger-x")
    assert await service.reconfigure("ledger-x") == "ledger-y"


@pytest.mark.parametrize(
    ("members", "parameters", "f", "said"),
    [
        (("r1", "r2", "r3"), {}, None, "3 replicas take part, 4 are needed"),
        (NEW, {}, 2, "7 are needed"),
        (("r1", "r2", "r3", "r9"), {}, None, "r9"),
        (NEW, {"checkpoint_interval": 0}, None, "checkpoint_interval"),
        (NEW, {"colour": "red"}, None, "colour"),
    ],
)
async def test_a_successor_that_could_not_be_opened_stops_nothing(
    service: Service,
    members: tuple[str, ...],
    parameters: dict[str, object],
    f: int | None,
    said: str,
) -> None:
    with pytest.raises(UsageError, match=said):
        await service.reconfigure(change=Change(tuple(map(Invitee, members)), parameters, f))
    assert (await service.execute("a")).coordination == "ledger"


async def test_nobody_else_hands_it_over(service: Service) -> None:
    rival = await service.deployment.client("rival")
    with pytest.raises(UsageError, match="only 'client' may"):
        await reconfigure(rival, "ledger", CHANGE)
    await rival.submit("ledger", HANDOVER, lambda number: HandoverRequested("mine"))
    assert (await service.execute("a")).coordination == "ledger"
    await service.client.cancel("ledger")
    with pytest.raises(CoordinationFailedError):
        await service.client.result("ledger")
    with pytest.raises(UsageError, match="has ended"):
        await service.reconfigure()


async def test_whoever_takes_the_successors_name_is_not_believed(service: Service) -> None:
    rival = await service.deployment.client("rival")
    config = {"mode": "service"}
    await rival.request("byzantine_consensus", config, NEW, coordination="ledger-2")
    with pytest.raises(UsageError, match="there is a coordination 'ledger-2' already"):
        await service.reconfigure()
    await service.client.submit("ledger", HANDOVER, lambda number: HandoverRequested("ledger-2"))
    with pytest.raises(VerificationError, match="does not claim to go on"):
        await service.reconfigure()
    with pytest.raises(VerificationError, match="does not claim to go on"):
        await service.execute("a")
    assert await service.operations("ledger-2") == []


def test_successors_are_numbered() -> None:
    assert following_id("ledger") == "ledger-2"
    assert following_id("ledger-9") == "ledger-10"
    assert following_id("ledger-0") == "ledger-0-2"
    assert following_id("x" * 32) == "x" * 30 + "-2"
    assert following_id("x" * 30 + "-9") == "x" * 29 + "-10"
