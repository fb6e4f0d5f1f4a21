"""Ballots ordered by replicas, under faults and with liars among the voters."""

from __future__ import annotations

import random

import pytest
from voters import Voter

from mabeam.core.sim.faults import draw_faults
from mabeam.protocols.ordered import OrderedCoordinator
from mabeam.testing import Fault, World, simulated

NAMES = ("a-1", "a-2", "a-3", "a-4", "a-5")
CONFIG = {"proposal": "merge", "rule": "majority", "early_exit": False}


async def voters(world: World, *options: str) -> list[str]:
    """A coordinator and one voter per option."""
    await world.coordinator()
    names = list(NAMES[: len(options)])
    for name, option in zip(names, options, strict=True):
        await world.agent(name, Voter(option))
    return names


@simulated
async def test_every_vote_is_ordered_and_counted() -> None:
    async with World(1) as world:
        names = await voters(world, "agree", "agree", "disagree", "agree")
        got = await world.decide("simple_consensus", CONFIG, names, ordering="bft")
        assert got.outcome["decision"] == "agree"
        assert got.outcome["dissenters"] == ["a-3"]
        assert got.outcome["tolerance"]["f"] == 1
        await world.settle(60)
        world.verify()


@simulated
async def test_revote_after_no_consensus() -> None:
    async with World(2) as world:
        names = await voters(world, "agree", "agree", "disagree", "disagree")
        config = {"proposal": 1, "rule": "majority", "max_ballots": 2}
        got = await world.decide("simple_consensus", config, names, ordering="bft")
        assert got.outcome["decision"] == "no_consensus"
        assert got.outcome["ballot"] == 2
        await world.settle(60)
        world.verify()


@simulated
async def test_deadline_needs_f_plus_one_replicas() -> None:
    """One replica's word ends no ballot; a silent voter is silent in the outcome."""
    async with World(3) as world:
        names = await voters(world, "agree", "agree", "agree", "agree")
        await world.nodes["a-4"].crash()
        config = CONFIG | {"vote_timeout_ms": 3_000}
        got = await world.decide("simple_consensus", config, names, ordering="bft")
        assert got.outcome["decision"] == "agree"
        assert got.outcome["silent"] == ["a-4"]
        await world.settle(60)
        machine = (fold := world.observer().coordination(got.coordination)) and fold.machine
        assert isinstance(machine, OrderedCoordinator)
        copies = [e for e in machine.order.domain_events() if e.type == "deadline.passed"]
        assert len({event.author for event in copies}) >= 2
        world.verify()


@simulated
async def test_equivocating_voter_is_void_whoever_saw_which_vote_first() -> None:
    async with World(4) as world:
        names = await voters(world, "agree", "agree", "agree", "disagree")
        voices = (lambda: Voter("agree"), lambda: Voter("disagree"))
        await world.adversary("equivocating_voter", "mallory", *voices)
        config = CONFIG | {"vote_timeout_ms": 4_000}
        members = [*names, "mallory"]
        got = await world.decide("simple_consensus", config, members, ordering="bft")
        assert got.outcome["decision"] == "agree"
        assert "mallory" in (*got.outcome["void"], *got.outcome["silent"])
        await world.settle(60)
        world.verify()


@simulated
async def test_first_primary_never_speaks() -> None:
    async with World(5) as world:
        names = await voters(world, "agree", "agree", "agree", "agree")
        await world.nodes["a-1"].crash()
        got = await world.decide(
            "simple_consensus", CONFIG, names, ordering="bft", timeout_ms=8_000
        )
        assert got.outcome["decision"] == "agree"
        await world.settle(60)
        world.verify()


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_change_nothing(seed: int) -> None:
    @simulated
    async def run() -> None:
        rng = random.Random(seed)
        async with World(seed, stub_signatures=True) as world:
            options = [rng.choice(("agree", "disagree")) for _ in range(4 + seed % 2)]
            names = await voters(world, *options)
            faults = draw_faults(rng, names, names[:1], count=6, within_ms=4_000)
            kept = [each for each in faults if each.kind != "crash_losing_journal"]
            world.schedule(*kept, Fault("crash", rng.randrange(2_000), rng.choice(names), 1_000))
            await world.request(
                "simple_consensus",
                CONFIG | {"vote_timeout_ms": 15_000},
                names,
                ordering="bft",
                timeout_ms=20_000,
            )
            await world.settle(60)
            world.verify()

    run()
