"""A bug in the machine of one coordination ends that one, and no other (specification 1.12)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from deployment import Deployment
from faults import Faults, FaultyLog, HandedRequest, RecordingTelemetry
from stored import forks, reasons, stored, terminals
from voters import HeldVoter, Voter
from waiting import wait_until_async

from mabeam.core.client import CoordinationFailedError
from mabeam.core.errors import AppendRefusedError
from mabeam.core.log import Appended, Submission
from mabeam.core.machine import Intent, LogEvent
from mabeam.protocols.simple.coordinator import SimpleCoordinator

CONFIG = {"proposal": 1, "rule": "unanimous"}


def _break(
    monkeypatch: pytest.MonkeyPatch, method: str, breaks: Callable[[SimpleCoordinator], bool]
) -> None:
    if method == "apply":
        apply = SimpleCoordinator.apply

        def broken(self: SimpleCoordinator, event: LogEvent) -> None:
            if event.type == "simple.vote_cast" and breaks(self):
                raise ZeroDivisionError("a bug")
            apply(self, event)

        monkeypatch.setattr(SimpleCoordinator, "apply", broken)
        return
    intents = SimpleCoordinator.intents

    def broken_intents(self: SimpleCoordinator) -> Iterable[Intent]:
        if breaks(self) and self.phase() == "opening":
            raise ZeroDivisionError("a bug")
        return intents(self)

    monkeypatch.setattr(SimpleCoordinator, "intents", broken_intents)


@pytest.mark.parametrize("method", ["apply", "intents"])
async def test_a_bug_fails_only_its_coordination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The client's own fold is spared, as if it ran an older release."""
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        await deployment.agent("a-2", Voter())
        client = await deployment.client()

        def breaks(machine: SimpleCoordinator) -> bool:
            session = host.sessions.get("sick")
            return session is not None and session.coordination.machine is machine

        _break(monkeypatch, method, breaks)
        for name in ("sick", "well"):
            await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination=name)
        with pytest.raises(CoordinationFailedError) as failed:
            await asyncio.wait_for(client.result("sick"), 10)
        assert failed.value.failure == "internal_error"
        assert "ZeroDivisionError" in failed.value.message
        assert (await client.result("well")).outcome["decision"] == "agree"
        assert len(terminals(deployment, "sick")) == 1
        await wait_until_async(lambda: not host.sessions)


async def test_a_bug_met_on_takeover_is_reported_by_the_heir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history crashes the machine before the heir has claimed; no chain may fork by that."""
    async with Deployment(tmp_path) as deployment:
        first = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        await deployment.agent("a-2", held := HeldVoter())
        client = await deployment.client()
        await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination="sick")
        await wait_until_async(lambda: bool(stored(deployment, "sick", "simple.vote_cast")))
        await deployment.kill(first)
        second = await deployment.coordinator("coord-1")

        def breaks(machine: SimpleCoordinator) -> bool:
            session = second.sessions.get("sick")
            return session is not None and session.coordination.machine is machine

        _break(monkeypatch, "apply", breaks)
        deployment.broker.redeliver_now()
        with pytest.raises(CoordinationFailedError, match="internal_error"):
            await asyncio.wait_for(client.result("sick"), 10)
        held.go.set()
        assert forks(deployment) == []
        assert len(terminals(deployment, "sick")) == 1


class _Refusing(FaultyLog):
    """Refuses one type of event."""

    refused = "simple.ballot_opened"
    error: Exception = AppendRefusedError("refused by the test")
    refusals = 0

    async def append(self, submission: Submission) -> Appended:
        if submission.event.header.type == self.refused:
            type(self).refusals += 1
            raise self.error
        return await super().append(submission)


async def test_an_unforeseen_error_of_the_log_is_reported_once(tmp_path: Path) -> None:
    faults = Faults()
    async with Deployment(tmp_path, faults) as deployment:
        faults("coord-1").faults = log = _Refusing(faults("coord-1").faults)
        log.error = ArithmeticError("a bug in the transport")
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        await client.request("simple_consensus", CONFIG, ["a-1"], coordination="c1")
        with pytest.raises(CoordinationFailedError, match="ArithmeticError"):
            await asyncio.wait_for(client.result("c1"), 10)
        await wait_until_async(lambda: not host.sessions)


async def test_a_refused_append_gives_the_request_back(tmp_path: Path) -> None:
    faults = Faults()
    async with Deployment(tmp_path, faults) as deployment:
        deployment.broker = faults.broker
        faults("coord-1").faults = _Refusing(faults("coord-1").faults)
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        await client.request("simple_consensus", CONFIG, ["a-1"], coordination="c1")
        await wait_until_async(lambda: _Refusing.refusals > 0 and not host.sessions)
        await deployment.kill(host)
        await deployment.coordinator("coord-2")
        faults.broker.redeliver_now()
        assert (await client.result("c1")).outcome["decision"] == "agree"
        assert forks(deployment) == []


async def test_own_events_without_effect_do_not_flood_the_log(tmp_path: Path) -> None:
    """A coordinator is revoked with work in hand: what it goes on signing counts nowhere."""
    faults = Faults()
    async with Deployment(tmp_path, faults) as deployment:
        deployment.broker = faults.broker
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        await client.request("simple_consensus", CONFIG, ["a-1"], coordination="c1")
        await wait_until_async(lambda: held.asked == 1)
        await deployment.revoke("coord-1")
        held.go.set()
        await wait_until_async(lambda: not host.sessions)
        assert reasons(deployment, "c1") == ["revoked_key"]
        await deployment.kill(host)
        await deployment.coordinator("coord-2")
        faults.broker.redeliver_now()
        decision = await client.result("c1")
        assert decision.terminal.author == "coord-2"


async def test_events_the_fold_refuses_again_and_again_end_in_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator whose program opens ballots wrongly must stop, not try for ever."""
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        right = SimpleCoordinator.opening

        def wrong(self: SimpleCoordinator) -> object:
            append = right(self)
            if "c1" not in host.sessions or host.sessions["c1"].coordination.machine is not self:
                return append
            from msgspec.structs import replace

            return replace(append, body=replace(append.body, closes_after_ms=1))

        monkeypatch.setattr(SimpleCoordinator, "opening", wrong)
        await client.request("simple_consensus", CONFIG, ["a-1"], coordination="c1")
        with pytest.raises(CoordinationFailedError, match="LocalProtocolError"):
            await asyncio.wait_for(client.result("c1"), 10)
        assert len(stored(deployment, "c1", "simple.ballot_opened")) < 30


async def test_a_rejected_request_holds_no_slot(tmp_path: Path) -> None:
    """Nobody will ever coordinate it, so waiting for it to count would fill the coordinator."""
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        await deployment.admit("outsider", "agent")
        outsider = await deployment.client("outsider")
        name = await outsider.request("simple_consensus", CONFIG, ["a-1"])
        record = deployment.broker.by_coordination[name][0]
        handed = HandedRequest(record, redelivered=False)
        await asyncio.wait_for(deployment.hand(host, handed), 5)
        assert handed.answers == ["ack"]
