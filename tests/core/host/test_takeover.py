"""A coordinator dies between any two of its appends; another one ends the coordination, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from deployment import Deployment
from faults import Faults, HandedRequest, RecordingTelemetry
from stored import effective, forks, reasons, stored, terminals
from voters import Voter
from waiting import wait_until_async

from mabeam.core.host.coordinator import CoordinatorHost
from mabeam.core.log import Submission

CONFIG = {"proposal": 1, "rule": "majority", "options": ["a", "b"], "max_ballots": 2}
STEPS = [
    "coordination.claimed",
    "coordination.opened",
    "simple.ballot_opened",
    "simple.ballot_closed",
    "coordination.decided",
]


def _deployment(directory: Path, faults: Faults) -> Deployment:
    deployment = Deployment(directory, faults)
    deployment.broker = faults.broker
    return deployment


class _StopAt:
    """Holds a coordinator's n-th append for ever: before it is sent."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        self.reached = asyncio.Event()

    async def __call__(self, submission: Submission) -> None:
        if submission.event.header.type == self.type_name:
            self.reached.set()
            await asyncio.get_running_loop().create_future()


async def _start(deployment: Deployment) -> str:
    await deployment.agent("a-1", Voter("a"))
    await deployment.agent("a-2", Voter("b"))
    client = await deployment.client()
    return await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination="c1")


@pytest.mark.parametrize("survivor", ["coord-2", "coord-1"], ids=["another", "itself"])
@pytest.mark.parametrize("lost", STEPS)
async def test_killed_before_an_append(tmp_path: Path, lost: str, survivor: str) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        first = await deployment.coordinator("coord-1")
        faults["coord-1"].watcher = stop = _StopAt(lost)
        await _start(deployment)
        await asyncio.wait_for(stop.reached.wait(), 10)
        await deployment.kill(first)
        faults["coord-1"].watcher = None
        await deployment.coordinator(survivor)
        faults.broker.redeliver_now()
        await _check_ended(deployment, survivor)


@pytest.mark.parametrize("done", STEPS)
async def test_killed_after_an_append_it_never_heard_of(tmp_path: Path, done: str) -> None:
    """The event is stored, but neither its acknowledgement nor the feed reach the coordinator."""
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        first = await deployment.coordinator("coord-1")
        await _start(deployment)
        await wait_until_async(lambda: bool(stored(deployment, "c1", done)))
        await deployment.kill(first)
        await deployment.coordinator("coord-2")
        faults.broker.redeliver_now()
        await _check_ended(deployment, "coord-2")


async def _check_ended(deployment: Deployment, survivor: str) -> None:
    client = await deployment.client("client-2")
    decision = await asyncio.wait_for(client.result("c1"), 20)
    assert (decision.outcome["decision"], decision.outcome["tie"]) == ("no_consensus", True)
    assert decision.outcome["weights"]["silent"] == 0
    ends = terminals(deployment, "c1")
    assert [each.rejection for each in ends] == [None]
    counted = effective(deployment, "c1")
    assert counted.count("coordination.opened") == 1
    assert counted.count("simple.ballot_opened") == 2
    assert counted.count("simple.vote_cast") == 4
    assert forks(deployment) == []
    assert not set(reasons(deployment)) - {"duplicate", "late"}
    fold = await client.read("c1")
    assert fold.chains.gaps() == []


def _hand_over(deployment: Deployment, host: CoordinatorHost) -> None:
    """The lease has run out: the request is delivered to another coordinator."""
    deployment.hand(host, HandedRequest(deployment.broker.by_coordination["c1"][0]))


async def test_paused_past_its_lease_it_appends_nothing(tmp_path: Path) -> None:
    """It wakes up believing it is in force, with an append already decided."""
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        paused = await deployment.coordinator("coord-1")
        faults["coord-1"].watcher = stop = _StopAt("simple.ballot_opened")
        await _start(deployment)
        await asyncio.wait_for(stop.reached.wait(), 10)
        faults["coord-1"].showing.clear()
        faults["coord-1"].watcher = None
        session = paused.sessions["c1"]
        _hand_over(deployment, await deployment.coordinator("coord-2"))
        client = await deployment.client("client-2")
        decision = await client.result("c1")
        assert decision.terminal.author == "coord-2"

        appended = len(faults["coord-1"].appended)
        assert session._appending is not None
        session._appending.cancel()  # what was held is dropped; now it looks at the log again
        faults["coord-1"].showing.set()
        await wait_until_async(lambda: not paused.sessions)
        assert faults["coord-1"].appended[appended:] == []
        assert len(terminals(deployment, "c1")) == 1


async def test_resumed_in_the_middle_of_an_append_it_is_refused(tmp_path: Path) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        telemetry = RecordingTelemetry()
        paused = await deployment.coordinator("coord-1", telemetry=telemetry)
        opened = asyncio.Event()

        async def watch(submission: Submission) -> None:
            if submission.event.header.type == "simple.ballot_opened":
                faults["coord-1"].showing.clear()
                faults["coord-1"].flowing.clear()
                opened.set()

        faults["coord-1"].watcher = watch
        await _start(deployment)
        await asyncio.wait_for(opened.wait(), 10)
        _hand_over(deployment, await deployment.coordinator("coord-2"))
        client = await deployment.client("client-2")
        await client.result("c1")
        faults["coord-1"].flowing.set()
        await wait_until_async(lambda: telemetry.counters.get("sequence_conflicts") == 1)
        faults["coord-1"].showing.set()
        await wait_until_async(lambda: not paused.sessions)
        assert [e.header.author for e in stored(deployment, "c1", "simple.ballot_opened")] == [
            "coord-2",
            "coord-2",
        ]
        assert telemetry.names() == ["mabeam.protocol.started"]
