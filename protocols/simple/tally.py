"""Counting votes and deciding: pure functions over integers (SIM-2 to SIM-6).

A :class:`Tally` is kept up to date vote by vote; :func:`decide` looks at it after each event and
costs O(options). W is the weight of everybody eligible, heard or not (SIM-2). Each rule is one
function ``winner(rules, tally, open_)`` that names what has won, or ``None``:

============ ===================================== ==============================================
rule         while votes may still come            when none can come any more
============ ===================================== ==============================================
threshold    agree >= T; disagree > W - T          the same
majority     an option > W / 2                     the same
plurality    lead beats every other + uncast       lead beats every other
weighted     support >= early_stop                 always a grade, if anybody was confident
============ ===================================== ==============================================

The middle column is monotone: more votes never undo it (SIM-5), so the first prefix that satisfies
it decides. Ratios are compared by cross-multiplication and floored only when they are reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from ...core.hashing import PPM, need
from .config import SimpleConfig
from .events import ABSTAIN, NO_CONSENSUS, Weights

DecidedBy = Literal["threshold", "impossibility", "deadline", "all_voted"]

MISSING_CONFIDENCE_PPM = 500_000
VALUE_IN_HALVES = {"agree": 2, "neutral": 1, "disagree": 0}
GRADES = ("strong_approve", "approve", "neutral", "reject")


class Rules(msgspec.Struct, frozen=True):
    """A frozen configuration as absolute numbers; weights in micro-units.

    Attributes:
        rule: name of the rule.
        options: in the order of the configuration.
        total: W.
        needed: weight an option needs to win: T; for ``weighted`` the turnout.
        turnout: weight that must be cast for options before anything is decided.
        grade_bounds_ppm: lowest means of the first three grades.
        early_stop_ppm: support that ends a graded ballot.
        early_exit: whether a fixed result ends the ballot.
    """

    rule: str
    options: tuple[str, ...]
    total: int
    needed: int
    turnout: int
    grade_bounds_ppm: tuple[int, int, int]
    early_stop_ppm: int
    early_exit: bool

    @classmethod
    def of(cls, config: SimpleConfig, total: int) -> Rules:
        """The numbers of a frozen ``config`` for ``total`` eligible weight."""
        turnout = need(total, config.min_turnout_ppm or 0)
        needed = {
            "threshold": need(total, config.threshold_ppm),
            "unanimous": total,
            "majority": total // 2 + 1,
            "plurality": max(1, need(total, config.min_share_ppm)),
            "weighted": max(1, turnout),
        }[config.rule]
        return cls(
            config.rule,
            config.options,
            total,
            needed,
            turnout,
            config.grade_bounds_ppm,
            config.early_stop_ppm or PPM,
            config.early_exit,
        )


class Verdict(msgspec.Struct, frozen=True):
    """How a ballot ended: the decision, what made it final, and whether a tie prevented one."""

    decision: str
    decided_by: DecidedBy
    tie: bool = False


class Tally:
    """Running sums of one ballot.

    Attributes:
        support: weight per option.
        conviction: sum of weight * confidence per option, micro-units * ppm (SIM-6).
        chosen: weight cast for options: the turnout.
        cast: weight of everybody heard: options, abstentions and void votes.
        void: weight of equivocators.
        total: W.
    """

    __slots__ = ("cast", "chosen", "conviction", "support", "total", "void")

    def __init__(self, options: tuple[str, ...], total: int) -> None:
        self.support = dict.fromkeys(options, 0)
        self.conviction = dict.fromkeys(options, 0)
        self.chosen = 0
        self.cast = 0
        self.void = 0
        self.total = total

    def add(self, option: str, weight: int, confidence_ppm: int | None) -> None:
        """Count the first vote of a participant."""
        self.cast += weight
        self._count(option, weight, confidence_ppm)

    def annul(self, option: str, weight: int, confidence_ppm: int | None) -> None:
        """Void a counted vote: its author was heard but supports nothing (COM-17)."""
        self.void += weight
        self._count(option, -weight, confidence_ppm)

    def _count(self, option: str, weight: int, confidence_ppm: int | None) -> None:
        if option == ABSTAIN:
            return
        if confidence_ppm is None:
            confidence_ppm = MISSING_CONFIDENCE_PPM
        self.chosen += weight
        self.support[option] += weight
        self.conviction[option] += weight * confidence_ppm

    @property
    def uncast(self) -> int:
        """Weight of everybody not heard."""
        return self.total - self.cast

    def weights(self) -> Weights:
        """The sums as they are reported."""
        return Weights(
            options=dict(self.support),
            abstain=self.cast - self.chosen - self.void,
            void=self.void,
            silent=self.uncast,
            total=self.total,
        )


def lead(tally: Tally) -> tuple[str, int, int]:
    """The leading option, its weight and the weight of the second; equal weights are a tie."""
    option = max(tally.support, key=tally.support.__getitem__)
    ranked = sorted(tally.support.values(), reverse=True)
    return option, ranked[0], ranked[1]


def is_tied(rules: Rules, tally: Tally) -> bool:
    """Whether two options share the lead under a rule that elects a leader (SIM-4)."""
    if rules.rule not in ("majority", "plurality"):
        return False
    _, first, second = lead(tally)
    return first == second > 0


def _threshold(rules: Rules, tally: Tally, open_: bool) -> str | None:
    """SIM-3; at exactly T agree wins, and disagree only where that has become impossible."""
    if tally.support["agree"] >= rules.needed:
        return "agree"
    if tally.support["disagree"] > rules.total - rules.needed:
        return "disagree"
    return None


def _majority(rules: Rules, tally: Tally, open_: bool) -> str | None:
    """SIM-4: strictly more than half of W."""
    option, weight, _ = lead(tally)
    return option if weight >= rules.needed else None


def _plurality(rules: Rules, tally: Tally, open_: bool) -> str | None:
    """SIM-4: ahead of every other option, whatever those not yet heard may say."""
    option, weight, second = lead(tally)
    rival = second + tally.uncast if open_ else second
    return option if weight >= rules.needed and weight > rival else None


def _weighted(rules: Rules, tally: Tally, open_: bool) -> str | None:
    """SIM-6; early only when the support alone guarantees a grade of at least ``approve``."""
    if open_ and not rules.early_exit:
        return None
    halves, conviction = contribution_in_halves(tally), sum(tally.conviction.values())
    if conviction == 0 or (open_ and halves < 2 * rules.early_stop_ppm * rules.total):
        return None
    for grade, bound_ppm in zip(GRADES, rules.grade_bounds_ppm, strict=False):
        if halves * PPM >= 2 * bound_ppm * conviction:
            return grade
    return GRADES[-1]


WINNER: dict[str, Callable[[Rules, Tally, bool], str | None]] = {
    "threshold": _threshold,
    "unanimous": _threshold,
    "majority": _majority,
    "plurality": _plurality,
    "weighted": _weighted,
}


def contribution_in_halves(tally: Tally) -> int:
    """Twice the sum of weight * confidence * value, micro-units * ppm (SIM-6)."""
    return sum(VALUE_IN_HALVES[option] * sum_ for option, sum_ in tally.conviction.items())


def decide(rules: Rules, tally: Tally, deadline_passed: bool) -> Verdict | None:
    """The verdict after the latest event, or ``None`` while the ballot goes on (SIM-5)."""
    if not (rules.early_exit or deadline_passed):
        return None
    ended = deadline_passed or tally.cast == rules.total
    if tally.chosen >= rules.turnout:
        winner = WINNER[rules.rule]
        decision = winner(rules, tally, True)
        if decision is not None:
            negative = winner is _threshold and decision == "disagree"
            return Verdict(decision, "impossibility" if negative else "threshold")
        decision = winner(rules, tally, False) if ended else None
        if decision is not None:
            return Verdict(decision, "deadline" if deadline_passed else "all_voted")
    if not ended:
        return None
    by: DecidedBy = "deadline" if deadline_passed else "all_voted"
    return Verdict(NO_CONSENSUS, by, is_tied(rules, tally))
