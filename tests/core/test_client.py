"""The client believes what it has folded itself, by the keys in force at that point of the log."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deployment import NODE, Deployment
from msgspec.msgpack import Ext
from stored import forks, reasons, stored
from voters import HeldVoter, Voter
from waiting import wait_until_async

from mabeam.core.agent import Agent
from mabeam.core.client import CoordinationFailedError
from mabeam.core.errors import NotFoundError, UsageError
from mabeam.core.kernel_events import CoordinationFailed, Invitee
from mabeam.core.log import Submission
from mabeam.core.sim.forger import Forger
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted


async def test_a_coordinator_that_changed_its_key_is_understood(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])
        await deployment.kill(host)
        await deployment.rotate("coord-1", "coordinator")
        await deployment.coordinator("coord-1")
        decision = await asyncio.wait_for(
            client.decide("simple_consensus", {"proposal": 2}, ["a-1"]), 10
        )
        assert decision.outcome["decision"] == "agree"
        assert reasons(deployment) == []


async def test_a_revoked_coordinator_ends_nothing_for_a_client_that_had_trusted_it(
    tmp_path: Path,
) -> None:
    async with Deployment(tmp_path) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", held := HeldVoter())
        client = await deployment.client()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        waiting = asyncio.create_task(client.result(name))
        await wait_until_async(lambda: held.asked == 1)
        await deployment.kill(host)
        fold = await client.read(name)
        rogue = Forger("coord-1", deployment.keys["coord-1"], time.time_ns)
        rogue.chains[name] = fold.chains.head("coord-1")[:2]
        await deployment.revoke("coord-1")
        body = CoordinationFailed("internal_error", "no")
        event = rogue.sign(name, fold.epoch, "coordination.failed", body)
        await deployment.connect("x").log.append(Submission(event, "ctl", NODE))
        await deployment.coordinator("coord-2")
        deployment.broker.redeliver_now()
        held.go.set()
        assert (await asyncio.wait_for(waiting, 10)).terminal.author == "coord-2"


@pytest.mark.parametrize("when", ["before", "crossing"])
async def test_cancelled_even_if_it_crosses_the_opening(tmp_path: Path, when: str) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.agent("a-1", HeldVoter())
        client = await deployment.client()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        if when == "before":
            await client.cancel(name, "why")
            await deployment.coordinator("coord-1")
        else:
            read = client.read

            async def opened_meanwhile(name: str) -> object:
                fold = await read(name)
                await deployment.coordinator("coord-1")
                await wait_until_async(
                    lambda: bool(stored(deployment, name, "simple.ballot_opened"))
                )
                return fold

            client.read = opened_meanwhile  # type: ignore[method-assign, assignment]
            await client.cancel(name, "why")
        with pytest.raises(CoordinationFailedError) as failed:
            await asyncio.wait_for(client.result(name), 10)
        assert (failed.value.failure, failed.value.code) == ("cancelled", "coordination_failed")
        assert forks(deployment) == []


async def test_unknown_coordination(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        client = await deployment.client()
        with pytest.raises(NotFoundError):
            await client.read("nothing")


async def test_watching_shows_every_step_and_nothing_is_kept(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        decision = await client.decide("simple_consensus", {"proposal": 1}, ["a-1"])
        steps = [step async for step in client.watch(decision.coordination)]
        assert [step.reason for step in steps] == [""] * 6
        assert steps[-1].coordination.phase == "decided"
        terminal = steps[-1].event
        assert terminal is not None
        assert msgspec.msgpack.encode(terminal.content.outcome) == msgspec.msgpack.encode(
            decision.outcome
        )
        assert not client.author.knows(decision.coordination)


@pytest.mark.parametrize(
    "options",
    [
        {"fault_tolerance": "bogus"},
        {"ordering": "bogus"},
        {"topic": "A B!"},
        {"participants": (Invitee("a-1", 0),)},
        {"f": -1},
        {"timeout_ms": 99},
    ],
)
async def test_what_nobody_would_read_is_refused_at_once(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    async with Deployment(tmp_path) as deployment:
        client = await deployment.client()
        options = {"participants": ["a-1"]} | options
        with pytest.raises(UsageError):
            await client.request("simple_consensus", {"proposal": 1}, **options)
        assert not [name for name in deployment.broker.by_coordination if name[0] != "_"]


@pytest.mark.parametrize("operation", [{1: 2}, Ext(5, b"x"), float("nan"), "x" * (64 * 1024)])
async def test_what_no_replica_would_take_is_not_signed(tmp_path: Path, operation: Any) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        replicas = ("r-1", "r-2", "r-3", "r-4")
        for name in replicas:
            await deployment.agent(name, Agent())
        client = await deployment.client()
        with pytest.raises(UsageError, match="proposal"):
            await client.request("byzantine_consensus", {"proposal": operation}, replicas)
        name = await client.request("byzantine_consensus", {"mode": "service"}, replicas)
        await client.until(name, lambda fold: fold.opened)
        number = client.author.next_number(name)
        with pytest.raises(UsageError, match="operation"):
            await client.submit(name, REQUEST, lambda at: RequestSubmitted(at, operation))
        assert client.author.next_number(name) == number
