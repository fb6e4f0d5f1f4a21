"""Byzantine consensus through the production hosts: every adversary and size within the bound."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from mabeam import Agent
from mabeam.core.errors import UsageError
from mabeam.core.host.membership import Membership
from mabeam.core.host.snapshots import Note, Snapshots
from mabeam.core.sim.adversaries import adversaries_against
from mabeam.core.sim.run import Case, run_case
from mabeam.infra.cli.sim import replay_command
from mabeam.infra.simulation import simulation_of
from mabeam.infra.simulation.byzantine.checks import fold_again
from mabeam.protocols.byzantine.fold import ByzantineFold
from mabeam.testing import Fault, World, check, simulated

PROTOCOL = "byzantine_consensus"
SIMULATION = simulation_of(PROTOCOL)
NAMES = ["", *adversaries_against(PROTOCOL)]
SIZES = (4, 5, 6, 7)
SEEDS = range(1, 6)
NIGHTLY = range(10_000, 12_000)

_DIGEST = """
from mabeam.core.sim.run import Case, run_case
from mabeam.infra.simulation import simulation_of
simulation = simulation_of("byzantine_consensus")
names = ("twins", "liar", "coalition", "adaptive", "message_mutation")
cases = [Case(simulation.protocol, 60 + at, name) for at, name in enumerate(names)]
print([run_case(case, simulation).digest for case in cases])
"""


def _hold(case: Case) -> int:
    result = run_case(case, SIMULATION)
    assert not result.failed, (replay_command(case), *map(str, result.violations))
    return sum(result.endings.values())


@pytest.mark.parametrize("adversary", NAMES, ids=lambda name: name or "nobody")
def test_promises_hold(adversary: str) -> None:
    ended = sum(_hold(Case(PROTOCOL, seed, adversary, n)) for n in SIZES for seed in SEEDS)
    assert ended == len(SEEDS) * len(SIZES)


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("adversary", NAMES, ids=lambda name: name or "nobody")
def test_promises_hold_over_many_seeds(adversary: str, count: int) -> None:
    for seed in NIGHTLY:
        _hold(Case(PROTOCOL, seed, adversary, count))


def test_a_truncated_log_forks_nothing() -> None:
    for seed in range(1, 13):
        _hold(Case(PROTOCOL, seed, NAMES[seed % len(NAMES)], operator=True))


@pytest.mark.parametrize("operator", [False, True])
def test_replicas_restart_from_snapshots(operator: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other runs prove about restarts, they prove about these."""
    restarts: list[int] = []
    dropped: list[int] = []
    restore, written = Membership._restore, Snapshots.written

    def counted(member: Membership, note: Note) -> None:
        restarts.append(note.after)
        restore(member, note)

    async def counted_too(taking: Snapshots) -> None:
        dropped.append(len(taking._settled))
        await written(taking)

    monkeypatch.setattr(Membership, "_restore", counted)
    monkeypatch.setattr(Snapshots, "written", counted_too)
    for seed in range(1, 31):
        _hold(Case(PROTOCOL, seed, "", 4, operator=operator))
    assert len(restarts) >= 5
    assert max(restarts) > 50, "all of the log is folded again"
    assert sum(dropped) > 150


def test_same_seed_same_trace_in_fresh_processes() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]


def test_fewer_than_four_replicas_cannot_be_drawn() -> None:
    with pytest.raises(UsageError, match="at least 4"):
        run_case(Case(PROTOCOL, 1, "", 3), SIMULATION)


@simulated
async def test_a_group_of_ones_own_withstands_a_liar() -> None:
    """What the documentation shows: own agents, own configuration, adversaries and faults."""
    async with World(11) as world:
        await world.coordinator()
        for name in ("r1", "r2", "r3"):
            await world.agent(name, Agent())
        await world.adversary("liar", "r0")
        world.schedule(
            Fault("crash", 300, "r1", 2_000), Fault("two_histories", 200, "r2", 3_000, 900)
        )
        names = ["r0", "r1", "r2", "r3"]
        got = await world.decide(
            PROTOCOL, {"proposal": "A", "view_timeout_ms": 500}, names, timeout_ms=600_000
        )
        assert got.outcome["proposal"] == "A"
        assert got.outcome["tolerance"]["q"] == 3
        await world.settle(60)
        world.verify()


@simulated
async def test_verify_finds_what_only_the_protocol_knows() -> None:
    """Too many liars and a blind half: the checkers see the fork that the outcome does not show."""
    async with World(5) as world:
        await world.coordinator()
        for name in ("r1", "r2", "r3"):
            await world.agent(name, Agent())
        await world.adversary("silent", "r0")
        name = await world.request(
            PROTOCOL,
            {"proposal": "A", "view_timeout_ms": 500},
            ["r0", "r1", "r2", "r3"],
            timeout_ms=600_000,
        )
        await world.result(name)
        await asyncio.sleep(5)
        fold = world.observer().coordination(name)
        assert fold is not None
        assert isinstance(fold.machine, ByzantineFold)
        world.verify()
        events = [v.event for v in world.verdicts(name) if v.event and v.event.event.header.epoch]
        again = fold_again(fold, reversed(events))
        assert [s.digest for s in again.executor.log] == [
            s.digest for s in fold.machine.executor.log
        ]
        machine = world.witnesses[PROTOCOL].replicas[name, "r1"][-1]
        lie = type(machine.executor.log[0])(1, bytes(32), (), bytes(32))
        machine.executor.log[0] = lie
        assert PROTOCOL in {violation.checker for violation in check(world)}


def test_no_coordinator_alone_can_end_a_service() -> None:
    for seed in range(1, 21):
        result = run_case(Case(PROTOCOL, seed, "rogue_coordinator", 4), SIMULATION)
        assert "failed" not in result.endings, replay_command(result.case)
