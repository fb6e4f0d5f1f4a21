"""Requests in every order and number, early or late, hostile or not, and what is done once only."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from deployment import NODE, Deployment
from faults import Faults, HandedRequest, RecordingTelemetry
from stored import effective, forks, reasons, stored, terminals
from voters import HeldVoter, Voter
from waiting import wait_until_async

from mabeam.core.audit.verify import audit_records
from mabeam.core.kernel_events import CoordinationRequested, Invitee
from mabeam.core.log import Record, Submission
from mabeam.core.memory_transport import MemoryTransport
from mabeam.core.sim.forger import Forger
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST, VoteCast
from mabeam.protocols.simple.proposal import proposal_digest

CONFIG = {"proposal": 1, "rule": "unanimous"}


def _vote(option: str, digest: bytes = proposal_digest(1)) -> VoteCast:
    return VoteCast(1, digest, option)


def _padded(body: msgspec.Struct, size: int) -> bytes:
    """An encoding of ``body`` of about ``size`` bytes: its first field over and over."""
    fields = msgspec.structs.asdict(body)
    name = next(iter(fields))
    pair = msgspec.msgpack.encode(name) + msgspec.msgpack.encode(fields[name])
    rest = b"".join(
        msgspec.msgpack.encode(key) + msgspec.msgpack.encode(value) for key, value in fields.items()
    )
    repeats = size // len(pair)
    return b"\xdf" + (repeats + len(fields)).to_bytes(4, "big") + pair * repeats + rest


async def test_delivered_before_the_feed_shows_who_asks(tmp_path: Path) -> None:
    """Client and request are both newer than anything the coordinator has seen."""
    faults = Faults()
    async with Deployment(tmp_path, faults) as deployment:
        deployment.broker = faults.broker
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        await wait_until_async(lambda: host.position == len(faults.broker.records))
        faults["coord-1"].showing.clear()
        client = await deployment.client("newcomer")
        name = await client.request("simple_consensus", CONFIG, ["a-1"])
        await wait_until_async(lambda: name in host.sessions)
        assert host.position < len(faults.broker.records)
        faults["coord-1"].showing.set()
        assert (await client.result(name)).outcome["decision"] == "agree"


async def test_votes_stored_before_the_request_mislead_nobody(tmp_path: Path) -> None:
    """A participant that guesses the id takes number 0 of its chain before anybody looks."""
    async with Deployment(tmp_path) as deployment:
        key = await deployment.admit("a-1", "agent")
        early = Forger("a-1", key, time.time_ns).sign("daily", b"", VOTE_CAST, _vote("disagree"))
        await deployment.connect("a-1").log.append(Submission(early, "pub", NODE))
        await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        await deployment.agent("a-2", Voter())
        client = await deployment.client()
        config = {"proposal": 1, "vote_timeout_ms": 300}
        name = await client.request(
            "simple_consensus", config, ["a-1", "a-2"], coordination="daily"
        )
        decision = await asyncio.wait_for(client.result(name), 10)
        assert decision.outcome["decision"] == "no_consensus"
        assert [each.rejection for each in terminals(deployment, name)] == [None]


async def test_second_request_for_a_finished_coordination(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        await client.decide("simple_consensus", CONFIG, ["a-1"], coordination="c1")
        await wait_until_async(lambda: not host.sessions)
        again = await deployment.client("second")
        body = CoordinationRequested("simple_consensus", {"proposal": 1}, (Invitee("a-1"),))
        event = again.author.sign("c1", b"", "coordination.requested", body)
        appended = await again.transport.log.append(Submission(event, "req", NODE))
        record = await again.transport.log.record_at(appended.sequence)
        assert record is not None
        handed = HandedRequest(record, redelivered=False)
        await asyncio.wait_for(deployment.hand(host, handed), 5)
        assert handed.answers == ["ack"]
        assert len(terminals(deployment, "c1")) == 1
        assert effective(deployment, "c1").count("coordination.claimed") == 1


@pytest.mark.parametrize("name", ["BAD", "_registry", "_market", "", "x" * 33])
async def test_a_request_nobody_can_coordinate_is_dismissed(tmp_path: Path, name: str) -> None:
    """Released, it would come back for ever, and enough of them would let no other one through."""
    async with Deployment(tmp_path) as deployment:
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        subject = f"mabeam.v1.evt.{name}.req.coordination_requested.{NODE}.client"
        handed = HandedRequest(Record(1, 1, subject, b"junk"), redelivered=False)
        await asyncio.wait_for(deployment.hand(host, handed), 5)
        assert handed.answers == ["ack"]
        assert telemetry.counters["inputs_rejected:none:wrong_coordination"] == 1


async def test_the_registry_cannot_be_requested(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        body = CoordinationRequested("simple_consensus", {"proposal": 1}, (Invitee("a-1"),))
        for number, name in enumerate(("_registry", "_market")):
            author = deployment.author(await _admitted(deployment, f"evil-{number}"))
            event = author.sign(name, b"", "coordination.requested", body)
            await deployment.connect(author.id).log.append(Submission(event, "req", NODE))
        await client.decide("simple_consensus", CONFIG, ["a-1"])
        await wait_until_async(lambda: not host.sessions)
        assert not stored(deployment, "_registry", "coordination.claimed")
        assert reasons(deployment, "_registry") == ["wrong_phase"]
        assert reasons(deployment, "_market") == ["wrong_coordination"]
        assert not deployment.broker.requests._ready
        assert not deployment.broker.requests._outstanding
        report = audit_records(deployment.broker.records, deployment.root.public_key, PROTOCOLS)
        assert report.clean
        assert report.coordinations == 1


async def _admitted(deployment: Deployment, id: str) -> str:
    await deployment.admit(id, "client")
    return id


@pytest.mark.parametrize("copies", [2, 5])
async def test_one_request_delivered_many_times(tmp_path: Path, copies: int) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        name = await client.request("simple_consensus", CONFIG, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        record = deployment.broker.by_coordination[name][0]
        handed = [HandedRequest(record) for _ in range(copies)]
        for each in handed:
            await deployment.hand(host, each)
        held.go.set()
        assert (await client.result(name)).outcome["decision"] == "agree"
        await wait_until_async(lambda: handed[-1].answers == ["ack"])
        assert len(terminals(deployment, name)) == 1
        assert forks(deployment) == []
        assert effective(deployment, name).count("coordination.claimed") == 1


async def test_a_second_request_does_not_unseat_a_coordinator_at_work(tmp_path: Path) -> None:
    """Any client may store one; it must neither end the first one's lease nor start a takeover."""
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        name = await client.request("simple_consensus", CONFIG, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        body = CoordinationRequested("simple_consensus", {"proposal": 1}, (Invitee("a-1"),))
        await deployment.client("jester")
        event = deployment.author("jester").sign(name, b"", "coordination.requested", body)
        await deployment.connect("jester").log.append(Submission(event, "req", NODE))
        record = deployment.broker.records[-1]
        other = await deployment.coordinator("coord-2")
        first = host.sessions[name].delivery
        for each in (host, other):
            handed = HandedRequest(record, redelivered=False)
            await asyncio.wait_for(deployment.hand(each, handed), 5)
            assert handed.answers == ["ack"]
        assert host.sessions[name].delivery is first
        held.go.set()
        assert (await client.result(name)).outcome["decision"] == "agree"
        assert len(stored(deployment, name, "coordination.claimed")) == 1


async def test_drained_coordinator_ends_what_it_has_and_takes_no_more(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        first = await client.request("simple_consensus", CONFIG, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        host.drain()
        for _ in range(5):  # the loop's turns until the queue is let go
            await asyncio.sleep(0)
        second = await client.request("simple_consensus", CONFIG, ["a-1"])
        held.go.set()
        await deployment.finished(host)
        assert (await client.result(first)).outcome["decision"] == "agree"
        assert len(stored(deployment, second)) == 1
        await deployment.coordinator("coord-2")
        assert (await client.result(second)).terminal.author == "coord-2"


async def _hostile_participant(
    deployment: Deployment, vote_timeout_ms: int = 20_000
) -> tuple[Forger, str]:
    """A coordination whose ballot is open, with a hostile participant ``bad``."""
    await deployment.agent("good", HeldVoter())
    await deployment.kill(await deployment.agent("bad", Voter()))
    client = await deployment.client()
    config = {**CONFIG, "vote_timeout_ms": vote_timeout_ms}
    name = await client.request("simple_consensus", config, ["bad", "good"])
    await wait_until_async(lambda: bool(stored(deployment, name, "simple.ballot_opened")))
    return Forger("bad", deployment.keys["bad"], time.time_ns), name


async def _epoch(deployment: Deployment, name: str) -> bytes:
    return (await (await deployment.client("reader")).read(name)).epoch


async def test_at_most_ten_answers_to_a_participant_that_babbles(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        first = await deployment.coordinator("coord-1")
        bad, name = await _hostile_participant(deployment)
        epoch, log = await _epoch(deployment, name), deployment.connect("bad").log
        for number in range(20):
            event = bad.sign(name, epoch, VOTE_CAST, _vote("agree", bytes([number]) * 32))
            await log.append(Submission(event, "pub", NODE))
        await wait_until_async(
            lambda: len(stored(deployment, name, "coordination.input_rejected")) == 10
        )
        await deployment.kill(first)
        await deployment.coordinator("coord-2")
        deployment.broker.redeliver_now()
        client = await deployment.client()
        await wait_until_async(lambda: len(stored(deployment, name, "coordination.claimed")) == 2)
        agree = bad.sign(name, epoch, VOTE_CAST, _vote("disagree"))
        await log.append(Submission(agree, "pub", NODE))
        assert (await client.result(name)).outcome["decision"] == "disagree"
        answered = stored(deployment, name, "coordination.input_rejected")
        assert len({event.header.refs for event in answered}) == len(answered) == 10


async def test_evidence_too_large_for_an_event_stops_nothing(tmp_path: Path) -> None:
    """Two different votes, each padded to 200 kB: together they fit into no proof."""
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        bad, name = await _hostile_participant(deployment, 500)
        epoch, log = await _epoch(deployment, name), deployment.connect("bad").log
        for option in ("agree", "disagree"):
            body = _padded(_vote(option), 200_000)
            assert msgspec.msgpack.decode(body, type=VoteCast) == _vote(option)
            await log.append(Submission(bad.sign(name, epoch, VOTE_CAST, body), "pub", NODE))
        client = await deployment.client()
        decision = await asyncio.wait_for(client.result(name), 10)
        assert decision.outcome["decision"] == "no_consensus"
        assert decision.outcome["void"] == ["bad"]
        found = reasons(deployment, name)
        assert [reason for reason in found if reason != "late"] == ["equivocation"]


async def test_proofs_do_not_swell_invitations(tmp_path: Path) -> None:
    """Each proof carries two padded votes; five of them are more than a server takes."""
    async with Deployment(tmp_path) as deployment:
        sizes: list[tuple[int, int]] = []
        proof = "evidence.submitted"

        class Sizing(MemoryTransport):
            async def invite(
                self, node: str, agent: str, coordination: str, payload: bytes
            ) -> None:
                sizes.append((len(stored(deployment, coordination, proof)), len(payload)))
                await super().invite(node, agent, coordination, payload)

        deployment.connect = lambda _: Sizing(deployment.broker)
        await deployment.coordinator("coord-1")
        await deployment.agent("good", held := HeldVoter())
        liars = [f"bad-{number}" for number in range(5)]
        for liar in liars:
            await deployment.kill(await deployment.agent(liar, Voter()))
        client = await deployment.client()
        config = {"proposal": 1, "rule": "majority", "vote_timeout_ms": 2000}
        name = await client.request("simple_consensus", config, ["good", *liars])
        await wait_until_async(lambda: held.asked == 1)
        epoch = (await client.read(name)).epoch
        for liar in liars:
            bad = Forger(liar, deployment.keys[liar], time.time_ns)
            for option in ("disagree", "agree"):
                event = bad.sign(name, epoch, VOTE_CAST, _padded(_vote(option), 115_000))
                await deployment.connect(liar).log.append(Submission(event, "pub", NODE))
        await wait_until_async(lambda: any(proofs == 5 for proofs, _ in sizes))
        held.go.set()
        await client.result(name)
        assert max(size for _, size in sizes) < 10_000
