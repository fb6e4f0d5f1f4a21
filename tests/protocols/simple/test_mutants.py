"""Named wrong versions of the rules, every one of which the checks must notice (TST-5).

A mutant is a textual change of one function, compiled and swapped in while the checks run. The
checks are those of the other modules, called directly: what survives them is a rule nobody tests.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest

from mabeam.core.errors import MabeamError
from mabeam.protocols.simple import freezing, outcome, tally, weights
from mabeam.protocols.simple.ballot import BallotBox
from mabeam.protocols.simple.fold import SimpleFold
from tests.protocols.simple import (
    test_brute_force,
    test_config,
    test_corrections,
    test_fold,
)
from tests.protocols.simple.test_brute_force import CASES
from tests.protocols.simple.test_examples import EXAMPLES


class Mutant(NamedTuple):
    """Replace ``right`` by ``wrong`` in the source of ``function``."""

    name: str
    function: Any
    right: str
    wrong: str


RECEIVED = (
    "__import__('msgspec').structs.replace(self._rules, total=self.tally.cast,"
    " needed=-(-self._rules.needed * self.tally.cast // self._rules.total))"
)
OVERWRITE = (
    "self.tally.annul(first.content.option, weight, first.content.confidence_ppm);"
    " self.tally.void -= weight; self.tally.cast -= weight"
)

# The first five names are those of specification 3.8.
MUTANTS = (
    Mutant(
        "W = received weight",
        BallotBox._judge,
        "decide(self._rules,",
        f"decide({RECEIVED},",
    ),
    Mutant(
        "second vote overwrites",
        BallotBox.cast,
        "self._vote_again(first, event, weight)",
        OVERWRITE,
    ),
    Mutant("tie picks first: plurality", tally._plurality, "weight > rival", "weight >= rival"),
    Mutant(
        "tie picks first: majority",
        tally._majority,
        "weight >= rules.needed",
        "2 * weight >= rules.total",
    ),
    Mutant("> instead of >=: threshold", tally._threshold, ">= rules.needed", "> rules.needed"),
    Mutant("> instead of >=: majority", tally._majority, ">= rules.needed", "> rules.needed"),
    Mutant("> instead of >=: plurality", tally._plurality, ">= rules.needed", "> rules.needed"),
    Mutant("> instead of >=: grade", tally._weighted, "PPM >= 2", "PPM > 2"),
    Mutant("> instead of >=: turnout", tally.decide, ">= rules.turnout", "> rules.turnout"),
    Mutant("< instead of <=: early stop", tally._weighted, "halves < 2", "halves <= 2"),
    Mutant(
        "equivocation counts first",
        BallotBox._vote_again,
        "self.tally.annul(vote.option, weight, vote.confidence_ppm)",
        "pass",
    ),
    Mutant(
        "equivocator is not waited for less",
        BallotBox._vote_again,
        "self._judge(second)",
        "pass",
    ),
    Mutant("disagree too early", tally._threshold, "> rules.total", ">= rules.total"),
    Mutant("lead ignores who is not heard", tally._plurality, "second + tally.uncast", "second"),
    Mutant("abstention supports", tally.Tally._count, "return\n", "option = [*self.support][0]\n"),
    Mutant("abstention is turnout", tally.decide, "tally.chosen >=", "tally.cast >="),
    Mutant("turnout is ignored", tally.decide, "tally.chosen >= rules.turnout", "True"),
    Mutant("late votes count", BallotBox.cast, "not self.is_open", "False"),
    Mutant("any proposal will do", BallotBox.cast, "vote.proposal_digest != self._digest", "False"),
    Mutant("no full vote", tally.decide, "or tally.cast == rules.total", ""),
    Mutant("early exit is always on", tally.decide, "rules.early_exit or", "True or"),
    Mutant(
        "confidence is multiplied in",
        tally.Tally._count,
        "self.support[option] += weight\n",
        "self.support[option] += weight * confidence_ppm // 1_000_000\n",
    ),
    Mutant(
        "disagree reports 1 - agree",
        outcome._deciding_weight,
        "return tally.support[speaks_for]",
        "return tally.total - tally.support['agree']",
    ),
    Mutant("no revote", SimpleFold._settle, "box.number < self.config.max_ballots", "False"),
    Mutant("revotes never end", SimpleFold._settle, "and box.number < self.config.max_ballots", ""),
    Mutant("cap of the old total", weights.cap_shares, "min(weight, level)", "weight"),
    Mutant("curve has a step", weights.expertise_weight, "return _AT_LINEAR_FROM +", "return 1 +"),
    Mutant("log-odds of one option", weights.log_odds_micro, "(options - 1)", "options"),
    Mutant("duplicates are admitted", freezing.freeze, "len(set(ids)) != len(ids)", "False"),
)

CHECKS: tuple[Callable[[], None], ...] = (
    *EXAMPLES,
    *(value for name, value in vars(test_corrections).items() if name.startswith("test_")),
    test_fold.test_rejections_while_open,
    test_fold.test_votes_before_the_ballot_and_after_the_verdict,
    test_fold.test_an_equivocation_can_decide,
    test_fold.test_without_early_exit_only_the_deadline_decides,
    test_fold.test_plurality_at_the_deadline,
    test_fold.test_the_last_ballot_may_fail_too,
    test_fold.test_grades_at_their_bounds,
    test_config.test_errors_about_participants,
    *(partial(test_brute_force.compare, case, (2, 1, 1)) for case in CASES.values()),
)


def mutated_code(mutant: Mutant) -> CodeType:
    """The code of the mutated function."""
    source = textwrap.dedent(inspect.getsource(mutant.function))
    assert source.count(mutant.right) == 1, f"{mutant.name}: {mutant.right!r} is not unique"
    module = compile(
        source.replace(mutant.right, mutant.wrong),
        f"<{mutant.name}>",
        "exec",
        flags=annotations.compiler_flag,
        dont_inherit=True,
    )
    name = mutant.function.__name__
    return next(c for c in module.co_consts if isinstance(c, CodeType) and c.co_name == name)


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The mutant is in force, wherever the function is already referred to."""
    function = mutant.function
    assert isinstance(function, FunctionType)
    original = function.__code__
    function.__code__ = mutated_code(mutant)
    try:
        yield
    finally:
        function.__code__ = original


def killed_by() -> BaseException | None:
    """What the first check says that notices something."""
    for check in CHECKS:
        try:
            check()
        except (AssertionError, ValueError, MabeamError, pytest.fail.Exception) as error:
            return error
    return None


def test_the_right_version_survives() -> None:
    for check in CHECKS:
        check()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_mutant_is_killed(mutant: Mutant) -> None:
    with applied(mutant):
        assert killed_by() is not None, f"nothing notices: {mutant.name}"
    assert mutant.function.__code__.co_filename.endswith(".py")
