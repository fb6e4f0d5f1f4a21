"""The log is unavailable for a while: nothing is lost, nothing is signed twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from deployment import Deployment
from faults import Faults, RecordingTelemetry
from stored import effective, forks, reasons, terminals
from voters import Voter
from waiting import wait_until_async

from mabeam.core.errors import LogUnavailableError
from mabeam.core.host import session as session_module
from mabeam.core.log import Submission

CONFIG = {"proposal": 1, "rule": "majority", "options": ["a", "b"], "max_ballots": 2}
EVERYBODY = ("coord-1", "a-1", "a-2")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RETRY_S", 0.02)


async def _start(deployment: Deployment) -> str:
    await deployment.coordinator("coord-1")
    await deployment.agent("a-1", Voter("a"))
    await deployment.agent("a-2", Voter("b"))
    client = await deployment.client()
    return await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination="c1")


async def _check(deployment: Deployment) -> None:
    decision = await asyncio.wait_for((await deployment.client("reader")).result("c1"), 20)
    assert decision.outcome["weights"]["silent"] == 0
    assert decision.outcome["decision"] == "no_consensus"
    assert forks(deployment) == []
    assert reasons(deployment) == []
    counted = effective(deployment, "c1")
    assert counted.count("simple.vote_cast") == 4
    assert len(counted) == 11
    assert len(terminals(deployment, "c1")) == 1


@pytest.mark.parametrize(
    "at",
    [
        "coordination.claimed",
        "coordination.opened",
        "simple.ballot_opened",
        "simple.ballot_closed",
        "coordination.decided",
    ],
)
@pytest.mark.parametrize("stored", [True, False], ids=["ack-lost", "not-sent"])
async def test_outage_at_every_append_of_the_coordinator(
    tmp_path: Path, at: str, stored: bool
) -> None:
    faults = Faults()
    async with Deployment(tmp_path, faults) as deployment:
        deployment.broker = faults.broker
        log, hits = faults["coord-1"], 0

        async def watch(submission: Submission) -> None:
            nonlocal hits
            if submission.event.header.type == at and hits < 3:
                hits += 1
                if not stored:
                    raise LogUnavailableError("cut off by the test")
                log.acks_to_lose = 1

        log.watcher = watch
        await _start(deployment)
        await _check(deployment)
        assert hits > 0


async def test_everybody_cut_off_for_a_while(tmp_path: Path) -> None:
    faults = Faults()
    async with Deployment(tmp_path, faults) as deployment:
        deployment.broker = faults.broker
        telemetry = RecordingTelemetry()
        await deployment.coordinator("coord-1", telemetry=telemetry)
        await deployment.agent("a-1", Voter("a"))
        await deployment.agent("a-2", Voter("b"))
        client = await deployment.client()
        await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination="c1")
        await wait_until_async(lambda: "simple.ballot_opened" in effective(deployment, "c1"))
        for id in EVERYBODY:
            faults[id].reachable = False
        for id in EVERYBODY:
            asyncio.get_running_loop().call_later(0.3, setattr, faults[id], "reachable", True)
        await _check(deployment)
        assert telemetry.names().count("mabeam.protocol.completed") == 1
