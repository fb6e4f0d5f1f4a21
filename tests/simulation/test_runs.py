"""Runs from seeds: the production hosts keep their promises, and the same seed does the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mabeam.core.sim.adversaries import adversaries_against
from mabeam.core.sim.run import REAL_SIGNATURES_EVERY, Case, run_case
from mabeam.infra.cli.sim import draw_cases, replay_command
from mabeam.infra.simulation.simple import SimulatedSimple

SIMPLE = SimulatedSimple()
ADVERSARY_NAMES = ["", *adversaries_against(SIMPLE.protocol)]
SEEDS = range(1, 44)
"""Per adversary; with all of them 300 schedules."""

_DIGEST = """
import sys
from mabeam.core.sim.run import run_case
from mabeam.infra.cli.sim import draw_cases
from mabeam.infra.simulation.simple import SimulatedSimple
cases = draw_cases("simple_consensus", "all", range(50, 64))
print([run_case(case, SimulatedSimple()).digest for case in cases])
"""


@pytest.mark.parametrize("adversary", ADVERSARY_NAMES, ids=lambda name: name or "nobody")
def test_promises_hold_under_faults(adversary: str) -> None:
    ended = 0
    for seed in SEEDS:
        case = Case(SIMPLE.protocol, seed, adversary)
        result = run_case(case, SIMPLE)
        assert not result.failed, (replay_command(case), *map(str, result.violations))
        ended += sum(result.endings.values())
    assert ended > 2 * len(SEEDS)


def test_a_log_that_breaks_promises_convicts_nobody() -> None:
    for case in draw_cases(SIMPLE.protocol, "all", range(1, 50), operator=True):
        result = run_case(case, SIMPLE)
        assert not result.failed, (replay_command(case), *map(str, result.violations))


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
    assert digests[0].count(",") == 13


def test_other_seed_other_trace() -> None:
    cases = [Case(SIMPLE.protocol, seed, "forger") for seed in (1, 1, 2)]
    one, again, other = [run_case(case, SIMPLE).digest for case in cases]
    assert one == again
    assert one != other


def test_a_drawn_schedule_runs_again_from_its_result() -> None:
    result = run_case(Case(SIMPLE.protocol, 13, "replayer"), SIMPLE)
    assert result.case.faults
    assert run_case(result.case, SIMPLE).digest == result.digest


def test_some_runs_sign_for_real() -> None:
    assert REAL_SIGNATURES_EVERY <= 100
    result = run_case(
        Case(SIMPLE.protocol, 100 * REAL_SIGNATURES_EVERY, "equivocating_voter"), SIMPLE
    )
    assert not result.failed
