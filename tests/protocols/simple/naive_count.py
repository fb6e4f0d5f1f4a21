"""A second, naive implementation of the counting rules, for comparison only.

It shares nothing with the code under test: it sees the whole ballot at once, works in fractions,
and follows the wording of SIM-2 to SIM-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class NaiveVote(NamedTuple):
    """One participant; ``option`` is ``None`` for silence and ``void`` for an equivocator."""

    weight: int
    option: str | None
    confidence: Fraction = Fraction(1, 2)


def naive_decision(
    rule: str,
    votes: Sequence[NaiveVote],
    *,
    options: Sequence[str] = ("agree", "disagree"),
    share: Fraction = Fraction(7, 10),
    turnout: Fraction = Fraction(0),
    bounds: Sequence[Fraction] = (Fraction(7, 10), Fraction(1, 2), Fraction(3, 10)),
) -> str:
    """The decision once no more votes can come; ``share`` is the threshold or minimum share."""
    everybody = sum(vote.weight for vote in votes)

    def shares_of(option: str) -> Fraction:
        return Fraction(sum(vote.weight for vote in votes if vote.option == option), everybody)

    supported = {option: shares_of(option) for option in options}
    if sum(supported.values()) < turnout:
        return "no_consensus"
    if rule in ("threshold", "unanimous"):
        needed = Fraction(1) if rule == "unanimous" else share
        if supported["agree"] >= needed:
            return "agree"
        best_agreement_can_get = 1 - supported["disagree"]
        return "disagree" if best_agreement_can_get < needed else "no_consensus"
    if rule == "weighted":
        return _grade(votes, bounds)
    most = max(supported.values())
    leaders = [option for option in options if supported[option] == most]
    if len(leaders) > 1:
        return "no_consensus"
    enough = most > Fraction(1, 2) if rule == "majority" else most >= share
    return leaders[0] if enough else "no_consensus"


def _grade(votes: Sequence[NaiveVote], bounds: Sequence[Fraction]) -> str:
    value = {"agree": Fraction(1), "neutral": Fraction(1, 2), "disagree": Fraction(0)}
    counted = [vote for vote in votes if vote.option in value]
    weight = sum((vote.weight * vote.confidence for vote in counted), Fraction(0))
    if weight == 0:
        return "no_consensus"
    total = sum((v.weight * v.confidence * value[v.option or ""] for v in counted), Fraction(0))
    mean = total / weight
    for grade, bound in zip(("strong_approve", "approve", "neutral"), bounds, strict=True):
        if mean >= bound:
            return grade
    return "reject"
