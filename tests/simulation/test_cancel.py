"""Cancelling where replicas decide: an ordered request like any other (BYZ-25)."""

from __future__ import annotations

import asyncio

import pytest
from voters import Voter

from mabeam import Agent, CoordinationFailedError, ProposalRequest, Verdict, on
from mabeam.testing import World, simulated

NAMES = ("r1", "r2", "r3", "r4")


class Objector(Agent):
    """Agrees to nothing."""

    @on(ProposalRequest)
    async def validate(self, request: ProposalRequest) -> Verdict:
        return Verdict.refuse("no")


async def group(world: World, agent: Agent) -> None:
    """A coordinator and four replicas."""
    await world.coordinator()
    for name in NAMES:
        await world.agent(name, agent)


async def cancel(world: World, name: str) -> None:
    """The requester's wish."""
    await (await world.client()).client.cancel(name, "changed our minds")


async def expect_cancelled(world: World, name: str) -> None:
    """It ends so for everybody, and nobody did anything wrong."""
    with pytest.raises(CoordinationFailedError) as ended:
        await world.result(name)
    assert ended.value.failure == "cancelled"
    await world.settle(90)
    world.verify()
    kinds = [verdict.event.type for verdict in world.verdicts(name) if verdict.event is not None]
    assert "byzantine.commit_sent" in kinds  # the replicas agreed to it


@simulated
async def test_proposal_that_everybody_refuses() -> None:
    async with World(1) as world:
        await group(world, Objector())
        name = await world.request("byzantine_consensus", {"proposal": "merge"}, NAMES)
        await world.until(lambda: len(world.verdicts(name)) >= 4)
        await cancel(world, name)
        await expect_cancelled(world, name)


@simulated
async def test_service_ends_by_cancel() -> None:
    async with World(2) as world:
        await group(world, Agent())
        name = await world.request("byzantine_consensus", {"mode": "service"}, NAMES)
        await world.until(lambda: len(world.verdicts(name)) >= 3)
        await cancel(world, name)
        await expect_cancelled(world, name)


@simulated
async def test_ballot_that_still_waits() -> None:
    async with World(3) as world:
        await group(world, Voter("agree"))
        await world.nodes["r4"].crash()
        config = {"proposal": 1, "threshold_ppm": 1_000_000, "vote_timeout_ms": 20_000}
        name = await world.request("simple_consensus", config, NAMES, ordering="bft")
        await asyncio.sleep(5)  # three votes are in, the fourth never comes
        await cancel(world, name)
        await expect_cancelled(world, name)


@simulated
async def test_too_late_after_the_decision() -> None:
    async with World(4) as world:
        await group(world, Agent())
        got = await world.decide("byzantine_consensus", {"proposal": "merge"}, NAMES)
        await cancel(world, got.coordination)
        await world.settle(60)
        await world.until(lambda: len(world.verdicts(got.coordination)) >= 13)
        rejected = [
            verdict.rejection.reason
            for verdict in world.verdicts(got.coordination)
            if verdict.rejection is not None
        ]
        assert rejected == ["already_decided"]
        world.verify()
