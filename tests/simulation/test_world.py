"""A world of one's own: virtual time, chosen faults, adversaries by name, checks that bite."""

from __future__ import annotations

import asyncio
import time

import pytest
from voters import Voter

from mabeam.core.errors import UsageError
from mabeam.core.log import Submission
from mabeam.core.sim.clock import SimulationStuckError
from mabeam.core.sim.nodes import AgentNode
from mabeam.protocols.simple.events import VoteCast
from mabeam.testing import (
    ADVERSARIES,
    Adversary,
    BrokenPromiseError,
    DishonestAgent,
    Fault,
    World,
    check,
    register,
    simulate,
    simulated,
)


def test_time_is_virtual() -> None:
    started = time.perf_counter()

    async def sleep() -> float:
        await asyncio.gather(*(asyncio.sleep(hours * 3600) for hours in range(1, 1000)))
        return asyncio.get_running_loop().time()

    assert simulate(sleep()) == pytest.approx(999 * 3600)
    assert time.perf_counter() - started < 60


def test_waiting_for_nothing_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(SimulationStuckError, match="everything waits"):
        simulate(wait())


async def test_a_world_needs_virtual_time() -> None:
    with pytest.raises(UsageError, match="virtual time"):
        async with World(1):
            pass


@simulated
async def test_equivocator_is_void_and_convicted() -> None:
    async with World(7) as world:
        await world.coordinator()
        for name in ("a-1", "a-2", "a-3"):
            await world.agent(name, Voter("agree"))
        voices = (lambda: Voter("agree"), lambda: Voter("disagree"))
        await world.adversary("equivocating_voter", "mallory", *voices)
        config = {"proposal": 1, "rule": "majority", "early_exit": False, "vote_timeout_ms": 5000}
        got = await world.decide("simple_consensus", config, ["a-1", "a-2", "a-3", "mallory"])
        assert got.outcome["decision"] == "agree"
        await world.settle(10)
        world.verify()
        accused = [
            verdict.event.content.accused
            for verdict in world.verdicts(got.coordination)
            if verdict.event and verdict.event.type == "evidence.submitted"
        ]
        assert accused in (["mallory"], [])  # a fork of its chain proves itself


@simulated
async def test_crashed_agent_says_the_same_again() -> None:
    async with World(3) as world:
        await world.coordinator()
        options = iter(["agree", "disagree"])
        node = await world.agent("a-1", lambda: Voter(next(options)))
        name = await world.request("simple_consensus", {"proposal": 1}, ["a-1"])
        world.network.link("a-1").set("lose_ack", 100)
        assert await world.until(lambda: _votes(world, name) == 1)
        world.network.link("a-1").set("lose_ack", 0)
        await node.crash()
        node.start()
        assert (await world.result(name)).outcome["decision"] == "agree"
        await world.settle(30)
        world.verify()


def _votes(world: World, name: str) -> int:
    found = [verdict.event for verdict in world.verdicts(name) if verdict.event]
    return sum(isinstance(event.content, VoteCast) for event in found)


@simulated
async def test_cut_off_coordinator_is_replaced() -> None:
    async with World(5) as world:
        await world.coordinator("coord-1")
        await world.agent("a-1", Voter())
        world.schedule(Fault("cut", 300, "coord-1", 20_000), Fault("redeliver", 9000))
        await asyncio.sleep(0.25)
        name = await world.request(
            "simple_consensus", {"proposal": 1, "vote_timeout_ms": 2000}, ["a-1"]
        )
        await asyncio.sleep(0.5)
        await world.coordinator("coord-2")
        got = await world.result(name)
        assert got.terminal.author == "coord-2"
        assert world.loop.time() < 20
        await world.settle(60)
        world.verify()


@simulated
async def test_checkers_bite() -> None:
    """An honest agent whose journal is ignored, and a client that saw something else."""
    async with World(9) as world:
        await world.coordinator()
        node = await world.agent("a-1", Voter())
        await world.agent("a-2", Voter())
        got = await world.decide("simple_consensus", {"proposal": 1}, ["a-1", "a-2"])
        await world.settle(10)
        world.verify()
        assert isinstance(node, AgentNode)
        body = VoteCast(1, bytes(32), "disagree")
        epoch = got.opened.event.header.epoch
        fork = node.author().sign(got.coordination, epoch, "simple.vote_cast", body)
        await node.transport().log.append(Submission(fork, "pub", "a-1"))
        world.readers()[0].seen[got.coordination] = bytes(32), 0.0
        broken = {violation.checker for violation in check(world)}
        assert broken == {"nobody_honest_accused", "readers_agree"}
        with pytest.raises(BrokenPromiseError, match="signed two events 0"):
            world.verify()


@simulated
async def test_protocols_add_adversaries() -> None:
    class Mumbler(DishonestAgent):
        """Answers every invitation with an empty body."""

        name = "mumbler"

        async def invited(self, coordination: str) -> None:
            fold = self.participant(coordination)
            event = self.forger.sign(coordination, fold.epoch, "simple.vote_cast", b"\x80")
            await self.publish(event)

    register(Mumbler)
    try:
        async with World(2) as world:
            await world.coordinator()
            await world.agent("a-1", Voter())
            await world.adversary("mumbler", "mallory")
            config = {"proposal": 1, "rule": "unanimous", "vote_timeout_ms": 1000}
            got = await world.decide("simple_consensus", config, ["a-1", "mallory"])
            assert got.outcome["silent"] == ["mallory"]
            reasons = [v.rejection.reason for v in world.verdicts(got.coordination) if v.rejection]
            assert "malformed_body" in reasons
    finally:
        del ADVERSARIES["mumbler"]


def test_adversary_names_are_unique() -> None:
    class Nameless(Adversary):
        """Has no name."""

    class Taken(Adversary):
        """Has another's name."""

        name = "forger"

    for wrong in (Nameless, Taken):
        with pytest.raises(UsageError, match="missing or taken"):
            register(wrong)
