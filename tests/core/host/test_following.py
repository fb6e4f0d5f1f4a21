"""An agent that follows its coordination: what it believes, what it remembers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from mabeam.core.agent import Agent
from mabeam.core.author import Author
from mabeam.core.client import CoordinationFailedError
from mabeam.core.errors import PeerProtocolError, VerificationError
from mabeam.core.hashing import sha256, tagged_hash
from mabeam.core.host import session
from mabeam.core.identity import KeyPair
from mabeam.core.journal import Journal, JournalError
from mabeam.core.kernel_events import (
    CoordinationOpened,
    CoordinationRequested,
    Invitee,
    Participant,
    RegistrySnapshot,
)
from mabeam.core.log import Submission
from mabeam.core.machine import LogEvent
from mabeam.core.memory_transport import MemoryTransport
from mabeam.core.opening import check_answer, open_request
from mabeam.core.transport import Invitation
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted
from mabeam.testing import World, simulate, simulated

NAMES = ("r1", "r2", "r3", "r4")
SPEC = PROTOCOLS["byzantine_consensus"]


def requested(**changes: Any) -> CoordinationRequested:
    """What a client asked for."""
    wanted = CoordinationRequested(
        SPEC.name, {"proposal": "merge"}, tuple(Invitee(name) for name in NAMES)
    )
    return msgspec.structs.replace(wanted, **changes)


def request(**changes: Any) -> LogEvent:
    """The same, signed."""
    event = Author("client", "n", KeyPair(bytes(32)), lambda: 1).sign(
        "c", b"", "coordination.requested", requested(**changes)
    )
    return LogEvent(1, 1, event, requested(**changes))


def opened(**changes: Any) -> CoordinationOpened:
    """What an honest coordinator makes of it."""
    members = tuple(Participant(name, bytes(8), name, name, 1_000_000) for name in NAMES)
    config = msgspec.convert({"proposal": "merge", "f": 1}, SPEC.config_type)
    frozen, members = SPEC.freeze(config, members)
    body = CoordinationOpened(
        request_id=request().id,
        protocol=SPEC.name,
        protocol_version=1,
        ordering="bft",
        fault_tolerance="low_fault",
        f=1,
        replicas=NAMES,
        participants=members,
        certificates=(),
        config=msgspec.to_builtins(frozen),
        overall_timeout_ms=60_000,
        topic="general",
        beacon=tagged_hash("opener", request().id),
        registry_snapshot=RegistrySnapshot(0, bytes(32)),
    )
    return msgspec.structs.replace(body, **changes)


def test_the_question_is_the_requesters() -> None:
    check_answer(request(), opened(), PROTOCOLS)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ({}, {"config": {**opened().config, "proposal": "revert"}}),
        ({}, {"config": {**opened().config, "view_timeout_ms": 100}}),
        ({}, {"config": {"mode": "nonsense"}}),
        ({"participants": (Invitee("r1"),)}, {}),
        ({"f": 0}, {}),
        ({}, {"f": 0, "config": {**opened().config, "f": 0}}),
        ({}, {"replicas": ("r1",)}),
        ({}, {"replicas": ("r1",), "f": 0, "config": {**opened().config, "f": 0}}),
        ({"replicas": ("r1", "r2")}, {}),
        ({"fault_tolerance": "high_fault"}, {}),
        ({}, {"ordering": "log", "f": 0, "replicas": ()}),
        ({}, {"overall_timeout_ms": 100}),
        ({"overall_timeout_ms": 1_000}, {}),
        ({}, {"topic": "another"}),
        ({"controller_cap_ppm": 1}, {}),
        ({}, {"beacon": bytes(32)}),
        ({"protocol": "simple_consensus"}, {}),
    ],
)
def test_a_coordinator_must_not_change_it(wanted: dict[str, Any], given: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError) as raised:
        check_answer(request(**wanted), opened(**given), PROTOCOLS)
    assert raised.value.reason == "digest_mismatch"


@simulated
async def test_restarted_replica_goes_on_without_an_invitation() -> None:
    async with World(1) as world:
        await world.coordinator()
        for name in NAMES:
            await world.agent(name, Agent())
        await world.nodes["r4"].crash()
        await world.nodes["r3"].crash()
        config = {"proposal": "merge", "view_timeout_ms": 60_000}
        name = await world.request("byzantine_consensus", config, NAMES)
        await world.until(lambda: len(world.verdicts(name)) >= 5)  # two of three votes are there
        await world.nodes["r2"].crash()
        await world.nodes["coord-1"].crash()  # nobody invites again
        for each in ("r2", "r3", "r4"):
            world.nodes[each].start()
        await world.until(lambda: len(world.verdicts(name)) >= 10)
        world.nodes["coord-1"].start()
        got = await world.result(name)
        assert got.outcome["view"] == 0
        await world.settle(60)
        world.verify()


@simulated
async def test_replica_whose_journal_is_gone_stays_mute() -> None:
    async with World(2) as world:
        await world.coordinator()
        nodes = [await world.agent(name, Agent()) for name in NAMES]
        await asyncio.sleep(1)  # their journals have begun
        await world.nodes["r3"].crash()
        await world.nodes["r4"].crash()
        name = await world.request("byzantine_consensus", {"proposal": "merge"}, NAMES)
        await world.until(lambda: len(world.verdicts(name)) >= 5)
        await nodes[1].crash()
        nodes[1].lose_journal()
        for node in nodes:
            node.start()
        got = await world.result(name)
        await world.settle(60)
        world.verify()
        authors = [
            verdict.event.author
            for verdict in world.verdicts(got.coordination)
            if verdict.event is not None and verdict.event.type == "byzantine.commit_sent"
        ]
        assert sorted(set(authors)) == ["r1", "r3", "r4"]


@simulated
async def test_without_replicas_the_coordinator_gives_up_alone() -> None:
    """Fewer than f + 1 replicas are there, so nobody can vouch for the time; still it ends."""
    async with World(3) as world:
        await world.coordinator()
        for name in NAMES:
            await world.agent(name, Agent())
        for name in NAMES[1:]:
            await world.nodes[name].crash()
        config = {"proposal": "merge"}
        name = await world.request("byzantine_consensus", config, NAMES, timeout_ms=5_000)
        with pytest.raises(CoordinationFailedError) as failed:
            await world.result(name)
        assert failed.value.failure == "timeout"
        assert failed.value.details["silent"] == ["r2", "r3", "r4"]
        await world.settle(90)
        world.verify()


def test_full_disk_silences_a_replica_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be journalled is not published; the membership fails and is tried again."""
    sign_all = Journal.sign_all
    refused: list[str] = []

    async def full(journal: Journal, id: str, entries: Any, keep_until_ns: int) -> None:
        given = tuple(entries)
        if journal.path.stem == "r2" and any(len(key) > 2 for key, _ in given):
            refused.append(id)
            raise JournalError("no space left on device")
        await sign_all(journal, id, given, keep_until_ns)

    @simulated
    async def run() -> None:
        async with World(4) as world:
            await world.coordinator()
            for name in NAMES:
                await world.agent(name, Agent())
            monkeypatch.setattr(Journal, "sign_all", full)
            got = await world.decide("byzantine_consensus", {"proposal": "merge"}, NAMES)
            assert got.outcome["view"] == 0
            await world.settle(60)
            await asyncio.sleep(5)
            world.verify()
            said = [verdict.event for verdict in world.verdicts(got.coordination)]
            assert "r2" not in {event.author for event in said if event is not None}

    run()
    assert len(refused) > 1


@pytest.mark.parametrize("later_s", [20, 900])
def test_a_second_opening_convicts_nobody_but_its_coordinator(later_s: int) -> None:
    """Both share one chain of every member. As long as the journals know of the first, nobody
    follows the second; later their chains go on behind it."""
    simulate(_second_opening(later_s))


async def _second_opening(later_s: int) -> None:
    async with World(3) as world:
        await world.coordinator()
        for name in NAMES:
            await world.agent(name, Agent())
        config = {"proposers": "participants", "proposal": "A"}
        got = await world.decide(SPEC.name, config, list(NAMES))
        await asyncio.sleep(later_s)  # the memberships are over
        raw = MemoryTransport(world.network.broker)
        head = got.opened.event.header
        coordinator = Author("coord-1", "coord-1", world.keys["coord-1"], world.loop.time_ns)
        coordinator.resume(got.coordination, head.author_seq, head.prev, head.at_ns)
        second = coordinator.sign(
            got.coordination,
            b"",
            head.type,
            msgspec.structs.replace(
                got.opened.content, registry_snapshot=RegistrySnapshot(1, bytes(32))
            ),
            head.refs,
        )
        at = await raw.log.append(Submission(second, "ctl", "coord-1"))
        record = await raw.log.record_at(at.sequence)
        assert record is not None
        before = len(world.verdicts(got.coordination))
        invitation = msgspec.msgpack.encode(Invitation(got.coordination, (record,)))
        for name in NAMES:
            await raw.invite(name, name, f"{got.coordination}-again", invitation)
        stranger = (await world.client("stranger")).client.author
        body = RequestSubmitted(1, "B")
        event = stranger.sign(got.coordination, sha256(second.body), REQUEST, body)
        await raw.log.append(Submission(event, "pub", "stranger"))
        await asyncio.sleep(40)
        after = [verdict.event for verdict in world.verdicts(got.coordination)[before:]]
        authors = {event.author for event in after if event is not None}
        assert authors == ({"stranger"} if later_s == 20 else {"stranger", *NAMES})
        accused = {str(found) for found in world.check() if "coord-1" not in str(found)}
        assert not [each for each in accused if "accused" in each]


@pytest.mark.parametrize(
    "change",
    [
        {"f": 0, "config": {"f": 0}},
        {"replicas": ("r1",), "f": 0, "config": {"f": 0}},
        {"fault_tolerance": "low_fault"},
    ],
)
def test_a_coordinator_that_chooses_the_replicas_is_not_believed(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by replicas, which take no part, nor by the client, whoever else does."""

    def rogue(*arguments: Any) -> CoordinationOpened:
        honest = open_request(*arguments)
        config = honest.config | change.get("config", {})
        return msgspec.structs.replace(honest, **(change | {"config": config}))

    async def play() -> None:
        async with World(3) as world:
            await world.coordinator()
            for name in NAMES:
                await world.agent(name, Agent())
            wanted: dict[str, Any] = {"timeout_ms": 5_000}
            if "fault_tolerance" in change:
                wanted["fault_tolerance"] = "high_fault"
            with pytest.raises(VerificationError, match="in its own way"):
                await world.decide(SPEC.name, {"proposal": "A"}, list(NAMES), **wanted)
            kinds = {verdict.record.subject for verdict in world.verdicts(world.requested[0])}
            assert not [kind for kind in kinds if "byzantine_prepare" in kind]

    monkeypatch.setattr(session, "open_request", rogue)
    simulate(play())
