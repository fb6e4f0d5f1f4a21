"""Named wrong versions of the host and of the machine, every one found by a few seeds (TST-5).

The seeds are those the right version passes in ``test_byzantine`` and ``seeds``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from mabeam import Agent
from mabeam.core.coordination import Coordination
from mabeam.core.host.membership import Membership
from mabeam.core.host.snapshots import Snapshots
from mabeam.core.journal import Journal
from mabeam.core.sim.run import Case, run_case
from mabeam.infra.simulation import simulation_of
from mabeam.infra.simulation.byzantine.runs import is_opened, submit
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted
from mabeam.protocols.byzantine.replica import ByzantineReplica
from mabeam.protocols.byzantine.view_change import check_new_view
from mabeam.testing import Fault, World, simulate
from tests.protocols.simple.test_mutants import Mutant, applied

PROTOCOL = "byzantine_consensus"
SIMULATION = simulation_of(PROTOCOL)


class Hunt(NamedTuple):
    """Changes that make one wrong version, and the schedules that find it.

    With ``operator`` the log loses its tail now and then.
    """

    name: str
    mutants: tuple[Mutant, ...]
    adversary: str
    replicas: int
    seeds: range
    operator: bool = False


def _one(name: str, function: object, right: str, wrong: str) -> tuple[Mutant, ...]:
    return (Mutant(name, function, right, wrong),)


HUNTS = (
    Hunt(
        "sign-once off",
        (
            Mutant(
                "nothing is found",
                Journal.find,
                "if place is None:",
                'if place is None or (key[0] == "followed" and len(key) > 2):',
            ),
            Mutant(
                "anything is written",
                Journal.sign_all,
                "if before.wire == entry.wire:",
                "if True:",
            ),
        ),
        "liar",
        4,
        range(12, 13),
        operator=True,
    ),
    Hunt(
        "own events not folded at once",
        _one(
            "own events not folded at once",
            Membership._fold_own,
            "self._folded.add(event.wire)",
            "return",
        ),
        "slow_primary",
        4,
        range(1, 12),
    ),
    Hunt(
        "journal not read at start",
        _one(
            "journal not read at start",
            Membership._join,
            "if key != slot]",
            "if not key]",
        ),
        "",
        4,
        range(92, 93),
        operator=True,
    ),
    Hunt(
        "own events above a snapshot not folded",
        _one(
            "own events above a snapshot not folded",
            Snapshots.is_over,
            "return machine.is_settled(intent_key(slot))",
            "return True",
        ),
        "liar",
        4,
        range(46, 47),
        operator=True,
    ),
    Hunt(
        "log not read from where a snapshot needs it",
        _one(
            "log not read from where a snapshot needs it",
            Snapshots.take,
            "after = min(place.sequence, needs)",
            "after = place.sequence",
        ),
        "",
        4,
        range(1, 25),
    ),
    Hunt(
        "votes across epochs counted",
        (
            Mutant(
                "host",
                Membership._is_of_here,
                "early_cancel or epoch == self.coordination.epoch",
                "True",
            ),
            Mutant(
                "fold",
                Coordination._is_of_epoch,
                "return epoch == self.epoch or",
                "return bool(self.epoch) or epoch == self.epoch or",
            ),
        ),
        "message_mutation",
        4,
        range(1, 8),
    ),
    Hunt(
        "timer that waits to read again spins",
        _one(
            "timer that waits to read again spins",
            Membership._pause,
            "else again",
            "else min(self._quiet_until, again)",
        ),
        "liar",
        4,
        range(5, 6),
    ),
    Hunt(
        "certificates not found again after a restart",
        (
            Mutant("commits", ByzantineReplica._restore, "and refs:", "and not refs:"),
            Mutant("view changes", ByzantineReplica._keep, "known is None or", "False and"),
        ),
        "liar",
        7,
        range(220, 221),
    ),
    Hunt(
        "NEW-VIEW slots trusted",
        _one(
            "NEW-VIEW slots trusted",
            check_new_view,
            "computed.slots == body.slots",
            "True",
        ),
        "liar",
        4,
        range(6, 14),
    ),
)


def _schedules(hunt: Hunt) -> Iterator[Case]:
    return (
        Case(PROTOCOL, seed, hunt.adversary, hunt.replicas, operator=hunt.operator)
        for seed in hunt.seeds
    )


@pytest.mark.parametrize("hunt", HUNTS, ids=lambda hunt: str(hunt.name))
def test_mutant_is_found(hunt: Hunt) -> None:
    with ExitStack() as stack:
        for mutant in hunt.mutants:
            stack.enter_context(applied(mutant))
        assert any(run_case(case, SIMULATION).failed for case in _schedules(hunt))


@pytest.mark.parametrize("hunt", HUNTS, ids=lambda hunt: str(hunt.name))
def test_right_version_survives(hunt: Hunt) -> None:
    for case in _schedules(hunt):
        assert not run_case(case, SIMULATION).failed, case


SLOTS = 14


async def _scattered(seed: int) -> bool:
    """Whether a replica that sees the log in a wild order ends up where the others are."""
    async with World(seed, stub_signatures=True) as world:
        await world.coordinator()
        names = ["r0", "r1", "r2", "r3"]
        for name in names:
            await world.agent(name, Agent())
        config = {"mode": "service", "checkpoint_interval": 1, "batch_delay_ms": 0}
        name = await world.request(PROTOCOL, config, names, timeout_ms=600_000)
        await world.until(lambda: is_opened(world, name))
        world.schedule(Fault("scatter", 0, "r3", 30_000, 9_000))
        for number in range(1, SLOTS + 1):
            await submit(world, name, "client", REQUEST, RequestSubmitted(number, number))
            await asyncio.sleep(0.2)
        witness = world.witnesses[PROTOCOL]
        return await world.until(
            lambda: dict(witness.lives(name))["r3"].executor.executed >= SLOTS, 60
        )


@pytest.mark.parametrize("seed", range(3))
def test_what_came_too_early_is_read_again(seed: int) -> None:
    assert simulate(_scattered(seed))


def test_wanted_events_never_read_again() -> None:
    mutant = Mutant(
        "never read again",
        Membership._look_again,
        "wanted = machine.wanted()",
        "wanted = frozenset()",
    )
    with applied(mutant):
        assert not all(simulate(_scattered(seed)) for seed in range(3))
