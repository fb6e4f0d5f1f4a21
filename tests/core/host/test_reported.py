"""Telemetry: every protocol event exactly once per coordination (TEL-2), and nothing is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from deployment import Deployment
from faults import HandedRequest, RecordingTelemetry
from stored import stored
from voters import HeldVoter, Voter
from waiting import wait_until_async

from mabeam.core.client import CoordinationFailedError

MANY = 300


async def test_events_of_a_decision(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        name = (await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])).coordination
        await wait_until_async(lambda: not host.sessions)
        assert telemetry.names() == [
            "mabeam.protocol.started",
            "mabeam.protocol.completed",
            "mabeam.protocol.performance",
            "mabeam.consensus.achieved",
        ]
        _, measured, labels = telemetry.events[1]
        assert measured["participants"] == 1
        assert measured["duration_us"] > 0
        assert (labels["result"], labels["protocol"]) == ("success", "simple_consensus")
        assert telemetry.events[2][1]["events"] == 6
        assert telemetry.events[3][1]["vote_ratio_ppm"] == 1_000_000

        record = deployment.broker.by_coordination[name][0]
        again = HandedRequest(record)  # the acknowledgement was lost
        await asyncio.wait_for(deployment.hand(host, again), 5)
        assert again.answers == ["ack"]
        assert len(telemetry.events) == 4


async def test_no_consensus_is_completed_without_result(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        await deployment.agent("a-1", Voter("abstain"))
        client = await deployment.client()
        await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])
        await wait_until_async(lambda: not host.sessions)
        assert telemetry.names()[1:] == ["mabeam.protocol.completed", "mabeam.protocol.performance"]
        assert telemetry.events[1][2]["result"] == "no_result"


async def test_cancelled_and_failed_are_told_apart(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        await client.cancel(name, "changed my mind")
        with pytest.raises(CoordinationFailedError, match="changed my mind"):
            await client.result(name)
        with pytest.raises(CoordinationFailedError, match="agents_not_found"):
            await client.decide("simple_consensus", {"proposal": 1}, ["nobody"])
        await wait_until_async(lambda: not host.sessions)
        ends = [labels for name, _, labels in telemetry.events if name == "mabeam.protocol.failed"]
        assert [(each["result"], each["reason"]) for each in ends] == [
            ("cancelled", "cancelled"),
            ("error", "agents_not_found"),
        ]
        assert telemetry.names().count("mabeam.protocol.started") == 1


async def test_takeover_reports_each_event_once_in_all(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        sinks = [RecordingTelemetry(), RecordingTelemetry()]
        first = await deployment.coordinator("coord-1", telemetry=sinks[0])
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        await wait_until_async(lambda: held.asked == 1)
        await deployment.kill(first)
        second = await deployment.coordinator("coord-2", telemetry=sinks[1])
        deployment.broker.redeliver_now()
        await wait_until_async(lambda: len(stored(deployment, name, "coordination.claimed")) == 2)
        held.go.set()
        await client.result(name)
        await wait_until_async(lambda: not second.sessions)
        assert sorted(sinks[0].names() + sinks[1].names()) == [
            "mabeam.consensus.achieved",
            "mabeam.protocol.completed",
            "mabeam.protocol.performance",
            "mabeam.protocol.started",
        ]


async def test_nothing_is_kept_of_coordinations_that_are_over(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        agent = await deployment.agent("a-1", Voter())
        client = await deployment.client()
        names = [
            await client.request("simple_consensus", {"proposal": number}, ["a-1"])
            for number in range(MANY)
        ]
        for name in names:
            await client.result(name)
        await wait_until_async(lambda: not host.sessions and not agent.tasks)
        assert telemetry.names().count("mabeam.protocol.completed") == MANY
        forgotten = await agent.journal.drop_expired(2**62)
        assert forgotten == set(names)
        for name in forgotten:
            agent._forget(name)
        for holder in (host, host.author, host.registry, agent, agent.author, agent.journal):
            assert [path for path in _mentions(holder) if path[1] in names] == []


def _mentions(holder: object) -> list[tuple[str, str]]:
    """Strings among the keys and items of the containers an object holds."""
    found = []
    for attribute, value in vars(holder).items():
        if isinstance(value, dict | set | list | tuple):
            for item in value:
                for each in item if isinstance(item, tuple) else (item,):
                    if isinstance(each, str):
                        found.append((attribute, each))
    return found
