"""An agent that restarts says what it said before, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from faults import Faults, RecordingTelemetry
from stored import forks, reasons, stored
from voters import HeldVoter, Voter
from waiting import wait_until_async

from mabeam.core.envelope import Event
from mabeam.core.host.participant import ParticipantHost
from mabeam.core.identity import KeyPair
from mabeam.core.journal import Journal


def _deployment(directory: Path, faults: Faults) -> Deployment:
    deployment = Deployment(directory, faults)
    deployment.broker = faults.broker
    return deployment


async def _last_signed(deployment: Deployment, id: str, coordination: str) -> Event | None:
    """What the journal of somebody who is dead says."""
    journal = deployment.journal(id)
    try:
        return journal.last_event(coordination)
    finally:
        await journal.close()


async def test_signed_before_the_crash_is_published_after_it(tmp_path: Path) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        await deployment.coordinator("coord-1")
        host = await deployment.agent("a-1", Voter("agree"))
        client = await deployment.client()
        faults["a-1"].flowing.clear()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        await wait_until_async(lambda: faults["a-1"].waiting == 1)
        await deployment.kill(host)
        signed = await _last_signed(deployment, "a-1", name)
        assert signed is not None
        assert not stored(deployment, name, "simple.vote_cast")

        faults["a-1"].flowing.set()
        changed_mind = Voter("disagree")
        await deployment.agent("a-1", changed_mind)
        faults.broker.redeliver_now()
        assert (await client.result(name)).outcome["decision"] == "agree"
        assert changed_mind.asked == 0
        assert [event.wire for event in stored(deployment, name, "simple.vote_cast")] == [
            signed.wire
        ]


async def test_a_lost_acknowledgement_makes_no_second_vote(tmp_path: Path) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        await deployment.coordinator("coord-1")
        agent = Voter()
        await deployment.agent("a-1", agent)
        await deployment.agent("a-2", held := HeldVoter())
        client = await deployment.client()
        faults["a-1"].acks_to_lose = 2
        config = {"proposal": 1, "rule": "unanimous"}
        name = await client.request("simple_consensus", config, ["a-1", "a-2"])
        await wait_until_async(lambda: faults["a-1"].acks_to_lose == 0)
        held.go.set()
        assert (await client.result(name)).outcome["decision"] == "agree"
        assert agent.asked == 1
        assert len(stored(deployment, name, "simple.vote_cast")) == 2


async def test_without_its_journal_it_is_mute_where_it_may_have_voted(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        host = await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        config = {"proposal": 1, "vote_timeout_ms": 1500}
        old = await client.request("simple_consensus", config, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        await deployment.kill(host)
        (tmp_path / "a-1.journal").unlink()

        telemetry = RecordingTelemetry()
        await deployment.agent("a-1", again := Voter(), telemetry=telemetry)
        deployment.broker.redeliver_now()
        await wait_until_async(
            lambda: telemetry.counters.get("invitation_rejected:not_vouched", 0) >= 1
        )
        later = await client.decide("simple_consensus", {"proposal": 2}, ["a-1"])
        assert later.outcome["decision"] == "agree"
        assert again.asked == 1
        assert (await client.result(old)).outcome["silent"] == ["a-1"]


async def test_a_vote_nobody_asks_for_any_more_leaves_no_gap(tmp_path: Path) -> None:
    """Signed in ballot 1 while cut off; ballot 2 follows, and the chain has to be whole."""
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        faults["a-1"].reachable = False
        config = {"proposal": 1, "vote_timeout_ms": 1500, "max_ballots": 2}
        name = await client.request("simple_consensus", config, ["a-1"])
        await wait_until_async(lambda: len(stored(deployment, name, "simple.ballot_opened")) == 2)
        faults["a-1"].reachable = True
        faults.broker.redeliver_now()
        got = await client.result(name)
        assert (got.outcome["decision"], got.outcome["ballot"]) == ("agree", 2)
        fold = await client.read(name)
        assert fold.chains.gaps() == []
        assert len(stored(deployment, name, "simple.vote_cast")) == 2
        assert reasons(deployment, name) == ["late"]


async def test_invited_by_a_coordinator_it_has_not_heard_of(tmp_path: Path) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        await deployment.agent("a-1", Voter())
        faults["a-1"].showing.clear()  # the agent's view of the registry stands still
        await deployment.coordinator("coord-new")
        client = await deployment.client()
        got = await client.decide(
            "simple_consensus", {"proposal": 1, "vote_timeout_ms": 3000}, ["a-1"]
        )
        assert got.outcome["decision"] == "agree"


async def test_restart_registers_only_when_something_changed(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        for voter in (Voter(), Voter()):
            await deployment.kill(await deployment.agent("a-1", voter))

        class Dearer(Voter):
            cost_per_request_micros = 20_000

        await deployment.agent("a-1", Dearer())
        await wait_until_async(
            lambda: len(stored(deployment, "_registry", "agent.registered")) == 2
        )
        assert forks(deployment) == []
        assert reasons(deployment) == []


@pytest.mark.parametrize("wrong", ["author", "key"])
async def test_another_ones_journal_is_refused(tmp_path: Path, wrong: str) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.agent("a-1", Voter())
        await deployment.kill(host)
        key = KeyPair.generate() if wrong == "key" else deployment.keys["a-1"]
        author = "a-2" if wrong == "author" else "a-1"
        with pytest.raises(Exception, match="belongs to 'a-1'"):
            Journal(tmp_path / "a-1.journal", author, key.key_id)


async def test_drained_agent_finishes_what_it_has_in_hand(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        host: ParticipantHost = await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        config: dict[str, Any] = {"proposal": 1}
        name = await client.request("simple_consensus", config, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        host.drain()
        held.go.set()
        await deployment.finished(host)
        assert (await client.result(name)).outcome["decision"] == "agree"
        assert host.tasks == set()
