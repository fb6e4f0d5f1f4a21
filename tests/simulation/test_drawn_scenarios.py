"""Random scenarios of twins in groups of seven to thirteen (specification, TST-3)."""

from __future__ import annotations

from collections import Counter

import pytest

from mabeam.infra.cli.main import run
from mabeam.infra.simulation.byzantine.drawn_scenarios import Played, play
from tests.protocols.byzantine.test_mutants import MUTANTS
from tests.protocols.simple.test_mutants import applied

NOTICED = (
    (9, "quorum 2f + 1"),
    (7, "view change without certificates"),
    (7, "votes not matched on digest"),
    (7, "votes counted per message"),
    (7, "commit certificates of other views ignored"),
    (7, "view change wipes prepared state"),
)


@pytest.mark.parametrize(("replicas", "runs"), [(7, 400), (8, 200), (10, 150), (13, 60)])
def test_drawn_scenarios_hold(replicas: int, runs: int) -> None:
    views: Counter[int] = Counter()
    executed: Counter[tuple[int, int]] = Counter()
    for seed in range(runs):
        played = play(seed, replicas)
        assert played.ended is not None, (seed, played.broken)
        assert len(played.scope.traitors) == (replicas - 1) // 3
        views[played.ended.view] += 1
        executed[played.ended.least, played.ended.most] += 1
    assert set(views) >= {0, 1, 2}, "every way out is drawn"
    assert set(executed) >= {(0, 0), (0, 2), (2, 2)}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("replicas", "runs"), [(7, 20_000), (10, 5_000), (13, 2_000)])
def test_many_drawn_scenarios_hold(replicas: int, runs: int) -> None:
    for seed in range(10_000, 10_000 + runs):
        assert play(seed, replicas).broken is None, seed


def _first_broken(replicas: int, name: str) -> Played | None:
    with applied(next(mutant for mutant in MUTANTS if mutant.name == name)):
        return next((p for seed in range(150) if (p := play(seed, replicas)).broken), None)


@pytest.mark.parametrize(("replicas", "name"), NOTICED)
def test_a_wrong_version_breaks_in_a_drawn_scenario(replicas: int, name: str) -> None:
    found = _first_broken(replicas, name)
    assert found is not None
    assert found.broken is not None
    assert len(found.broken.scenario) == found.turns


def test_a_seed_draws_the_same_scenario_again() -> None:
    assert [play(seed, 7) for seed in range(5)] == [play(seed, 7) for seed in range(5)]


@pytest.mark.parametrize("replicas", [3, 14])
def test_other_groups_are_refused(replicas: int) -> None:
    with pytest.raises(ValueError, match="4 to 13"):
        play(1, replicas)


def test_the_command_tells_how_the_scenarios_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "draw", "--replicas", "7", "--runs", "20"]) == 0
    shown = capsys.readouterr().out
    assert "20 scenarios of 7 replicas, " in shown
    assert "both slots executed everywhere in " in shown
    assert "nothing broken" in shown


def test_the_command_shows_a_scenario_that_breaks_a_promise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = next(mutant for mutant in MUTANTS if mutant.name == "view change wipes prepared state")
    with applied(wrong):
        assert run(["sim", "draw", "--seed", "1", "--runs", "1"]) == 1
    shown = capsys.readouterr().out
    assert "seed 1 broken: r2 is honest and accused under E2; again with: " in shown
    assert "have twins that lie about" in shown
    assert "    turn 1: " in shown
