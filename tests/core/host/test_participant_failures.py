"""Whatever an agent's own code or a hostile invitation does, the daemon goes on and reports."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deployment import NODE, Deployment
from faults import RecordingTelemetry
from stored import stored
from voters import Voter
from waiting import wait_until_async

from mabeam.core.agent import Agent, on
from mabeam.core.log import Record
from mabeam.core.names import event_subject
from mabeam.core.transport import Invitation
from mabeam.protocols.simple import Ballot, VoteRequest
from mabeam.protocols.simple.events import VoteCast


class Raising(Agent):
    """Raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Never an answer."""
        raise self.error


class RaisingInThread(Raising):
    """The same from a plain function."""

    @on(VoteRequest)
    def vote(self, request: VoteRequest) -> Ballot:  # type: ignore[override]
        """Never an answer."""
        raise self.error


class Answering(Agent):
    """Returns what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Perhaps an answer."""
        return self.answer  # type: ignore[no-any-return]


class Sleeping(Agent):
    """Takes for ever."""

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Never an answer."""
        await asyncio.get_running_loop().create_future()
        return Ballot.agree()


class Deaf(Agent):
    """Has no handler."""


async def _vote_of(directory: Path, agent: Agent, **config: Any) -> VoteCast:
    """What the agent's daemon reports; it has to serve a second coordination, too."""
    async with Deployment(directory) as deployment:
        await deployment.coordinator("coord-1")
        await deployment.agent("bad", agent)
        await deployment.agent("good", Voter())
        client = await deployment.client()
        parameters = {"proposal": 1, "rule": "majority", **config}
        votes = []
        for name in ("c1", "c2"):
            await client.request("simple_consensus", parameters, ["bad", "good"], coordination=name)
            outcome = (await client.result(name)).outcome
            assert outcome["weights"]["silent"] == 0
            votes += [
                msgspec.msgpack.decode(event.body, type=VoteCast)
                for event in stored(deployment, name, "simple.vote_cast")
                if event.header.author == "bad"
            ]
        assert len(votes) == 2
        assert votes[0] == votes[1]
        return votes[0]


@pytest.mark.parametrize(
    ("agent", "failure"),
    [
        (Raising(ValueError("no")), "handler_error"),
        (Raising(asyncio.CancelledError()), "handler_error"),
        (Raising(SystemExit(3)), "handler_error"),
        (Raising(TimeoutError()), "timeout"),
        (RaisingInThread(KeyError("x")), "handler_error"),
        (RaisingInThread(SystemExit(3)), "handler_error"),
        (Answering(None), "wrong_answer"),
        (Answering({"option": "agree"}), "wrong_answer"),
        (Answering(Ballot("maybe")), "wrong_answer"),
        (Answering(Ballot("agree", confidence_ppm=2_000_000)), "wrong_answer"),
        (Answering(Ballot("agree", rationale_digest=b"short")), "wrong_answer"),
        (Deaf(), "no_handler"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_failing_code_abstains_and_says_why(
    tmp_path: Path, agent: Agent, failure: str
) -> None:
    vote = await _vote_of(tmp_path, agent)
    assert (vote.option, vote.failure) == ("abstain", failure)


async def test_handler_that_never_returns_is_timed_out(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        telemetry = RecordingTelemetry()
        await deployment.agent("slow", Sleeping(), telemetry=telemetry)
        client = await deployment.client()
        decision = await client.decide(
            "simple_consensus", {"proposal": 1, "vote_timeout_ms": 150}, ["slow"]
        )
        assert decision.outcome["decision"] == "no_consensus"
        await wait_until_async(lambda: telemetry.counters.get("requests_answered:failed") == 1)


async def test_plain_function_does_not_block_other_requests(tmp_path: Path) -> None:
    release = threading.Event()
    threads = []

    class Blocking(Agent):
        @on(VoteRequest)
        def vote(self, request: VoteRequest) -> Ballot:
            threads.append(threading.current_thread())
            if request.proposal == "first":
                release.wait(10)
            return Ballot.agree()

    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Blocking())
        client = await deployment.client()
        try:
            first = await client.request("simple_consensus", {"proposal": "first"}, ["a-1"])
            await wait_until_async(lambda: bool(threads))
            second = await client.decide("simple_consensus", {"proposal": "second"}, ["a-1"])
            assert second.outcome["decision"] == "agree"
            assert not stored(deployment, first, "simple.vote_cast")
        finally:
            release.set()
        assert (await client.result(first)).outcome["decision"] == "agree"
        assert threading.main_thread() not in threads


def _truncated_utf8() -> bytes:
    good = msgspec.msgpack.encode(Invitation("abc", ()))
    return good.replace(b"abc", b"ab\xff")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02\x03",
        _truncated_utf8(),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        msgspec.msgpack.encode(Invitation("c-none", ())),
    ],
)
async def test_hostile_invitation_is_dropped(tmp_path: Path, payload: bytes) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        telemetry = RecordingTelemetry()
        await deployment.agent("a-1", Voter(), telemetry=telemetry)
        await deployment.connect("x").invite(NODE, "a-1", "c-none", payload)
        await wait_until_async(lambda: telemetry.counters.get("invitation_rejected") == 1)
        client = await deployment.client()
        decision = await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])
        assert decision.outcome["decision"] == "agree"


async def test_invitation_with_a_forged_record_is_refused(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        coordinator = await deployment.coordinator("coord-1")
        telemetry = RecordingTelemetry()
        await deployment.agent("a-1", Voter(), telemetry=telemetry)
        client = await deployment.client()
        done = await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])
        await deployment.kill(coordinator)
        records = [
            record
            for record in deployment.broker.by_coordination[done.coordination]
            if ".ctl." in record.subject
        ][1:3]
        forged = msgspec.structs.replace(records[1], wire=records[1].wire[:-1] + b"\x00")
        before = len(deployment.broker.records)
        payload = msgspec.msgpack.encode(Invitation(done.coordination, (records[0], forged)))
        await deployment.connect("x").invite(NODE, "a-1", done.coordination, payload)
        await wait_until_async(
            lambda: telemetry.counters.get("invitation_rejected:invalid_invitation") == 1
        )
        assert len(deployment.broker.records) == before


@pytest.mark.parametrize("name", ["_market", "_registry"])
async def test_nobody_takes_part_in_a_reserved_coordination(tmp_path: Path, name: str) -> None:
    """A hostile coordinator needs no request to sign an opening there."""
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        telemetry = RecordingTelemetry()
        await deployment.agent("a-1", Voter(), telemetry=telemetry)
        client = await deployment.client()
        done = await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])
        author = deployment.author("coord-1")
        event = author.sign(name, b"", "coordination.opened", done.opened.content)
        subject = event_subject(name, "ctl", "coordination.opened", NODE, "coord-1")
        record = Record(done.opened.sequence, time.time_ns(), subject, event.wire)
        payload = msgspec.msgpack.encode(Invitation(name, (record,)))
        await deployment.connect("x").invite(NODE, "a-1", name, payload)
        await wait_until_async(
            lambda: telemetry.counters.get("invitation_rejected:invalid_invitation") == 1
        )


async def test_expired_invitation_is_not_answered(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        coordinator = await deployment.coordinator("coord-1")
        host = await deployment.agent("a-1", Voter())
        await deployment.kill(host)
        client = await deployment.client()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        await wait_until_async(lambda: bool(stored(deployment, name, "simple.ballot_opened")))
        await deployment.kill(coordinator)
        telemetry = RecordingTelemetry()
        await deployment.agent(
            "a-1", Voter(), telemetry=telemetry, clock_ns=lambda: time.time_ns() + 86_400 * 10**9
        )
        await wait_until_async(lambda: telemetry.counters.get("invitation_rejected:expired") == 1)
        assert not stored(deployment, name, "simple.vote_cast")
