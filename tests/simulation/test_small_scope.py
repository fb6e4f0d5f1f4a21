"""Every scenario within small bounds: n = 4, one twin, 2 slots, 3 views (specification 5.11)."""

from __future__ import annotations

from typing import get_args

import pytest
from click.testing import CliRunner

from mabeam.infra.cli.sim import sim_command
from mabeam.infra.simulation.byzantine.lockstep import Lies, Scope
from mabeam.infra.simulation.byzantine.small_scope import Bound, Explored, explore
from mabeam.infra.simulation.byzantine.splits import splits
from tests.protocols.byzantine.test_mutants import MUTANTS
from tests.protocols.simple.test_mutants import applied

TWO_DISTURBED_VIEWS = Bound("view", disturbed=2)
NAMES = ("r0", "r1", "r2", "r3", "r0'")
NOTICED = (
    "view change without certificates",
    "commit certificates of other views ignored",
    "view change wipes prepared state",
)


def test_a_network_of_five_bodies_has_sixteen_splits() -> None:
    """The whole, and 2^5 / 2 - 1 ways to part it in two; none is counted twice."""
    found = splits(NAMES)
    assert len(found) == 16
    assert len({split.hears for split in found}) == 16
    assert found[0].name == " ".join(NAMES)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lies", get_args(Lies))
def test_all_scenarios_hold(lies: Lies, late: bool) -> None:
    for traitor in range(4):
        found = explore(Scope(traitors=(traitor,), lies=lies, late=late), TWO_DISTURBED_VIEWS)
        assert found.broken is None, (traitor, found.broken)
        assert found.scenarios == sum(found.ends.values())
        assert found.scenarios > 200


def test_every_view_may_be_split() -> None:
    """At most 16 splits for each of three views; whatever decides earlier ends earlier."""
    found = explore(Scope(traitors=(1,), views=3), Bound("view"))
    assert found.broken is None
    assert 16**2 < found.scenarios <= 16**3
    assert max(ended.view for ended in found.ends) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lies", get_args(Lies))
def test_all_scenarios_of_all_views_hold(lies: Lies, late: bool) -> None:
    for traitor in range(4):
        found = explore(Scope(traitors=(traitor,), lies=lies, late=late), Bound("view"))
        assert found.broken is None, (traitor, found.broken)


def _first_broken(name: str) -> Explored | None:
    with applied(next(mutant for mutant in MUTANTS if mutant.name == name)):
        for traitor in range(4):
            scope = Scope(traitors=(traitor,), lies="view_changes", late=True)
            found = explore(scope, TWO_DISTURBED_VIEWS)
            if found.broken is not None:
                return found
    return None


@pytest.mark.parametrize("name", NOTICED)
def test_a_wrong_version_breaks_in_a_scenario_that_is_shown(name: str) -> None:
    found = _first_broken(name)
    assert found is not None
    assert found.broken is not None
    assert found.broken.scenario


def test_the_command_tells_what_was_explored() -> None:
    options = ["--traitor", "1", "--lies", "votes", "--lost", "--disturbed", "1"]
    done = CliRunner().invoke(sim_command, ["explore", *options])
    assert done.exit_code == 0, done.output
    assert "r1 has a twin that lies about votes, what is not heard is lost: " in done.output


def test_the_command_shows_the_scenario_that_breaks_a_promise() -> None:
    options = ["--lies", "view_changes", "--late", "--disturbed", "2", "--traitor", "0"]
    with applied(next(mutant for mutant in MUTANTS if mutant.name == NOTICED[0])):
        done = CliRunner().invoke(sim_command, ["explore", *options])
    assert done.exit_code == 1
    assert "broken: " in done.output
    assert "turn 2: " in done.output
