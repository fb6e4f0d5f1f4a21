"""The outcome of a ballot (specification 3.5): a pure function of configuration and ballot box.

Under a graded rule the grade is not itself an option. The option it speaks for (``agree`` for both
approvals, ``neutral``, ``disagree`` for ``reject``) stands in wherever the specification says "the
deciding option", and those who voted at the other end of the scale are its dissenters.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ...core.hashing import PPM
from ...core.kernel_events import CoordinationOpened, Ppm
from ..tolerance import Assumption, Tolerance, tolerance
from .ballot import BallotBox
from .config import SimpleConfig
from .events import ABSTAIN, NO_CONSENSUS, VoteCast, Weights
from .freezing import has_unverified_weights
from .tally import (
    MISSING_CONFIDENCE_PPM,
    DecidedBy,
    Rules,
    Tally,
    Verdict,
    contribution_in_halves,
    lead,
)

GRADE_SPEAKS_FOR = {
    "strong_approve": "agree",
    "approve": "agree",
    "neutral": "neutral",
    "reject": "disagree",
}
GRADE_IS_OPPOSED_BY = {
    "strong_approve": {"disagree"},
    "approve": {"disagree"},
    "neutral": {"agree", "disagree"},
    "reject": {"agree"},
}


class SimpleOutcome(msgspec.Struct, frozen=True):
    """What ``coordination.decided`` carries for ``simple_consensus``.

    Attributes:
        protocol: ``simple_consensus``.
        result: whether there is a decision.
        decision: ``agree``, ``disagree``, an option, a grade, or ``no_consensus``.
        rule: the rule applied.
        threshold_ppm: threshold of ``threshold`` and ``unanimous``; none under other rules.
        ballot: number of the ballot that decided.
        weights: its tally, micro-units.
        vote_ratio_ppm: weight of the deciding option / W; without consensus that of ``agree`` or,
            where a leader is elected, of the leading option.
        confidence_ppm: mean stated confidence of the votes for the decision, unstated ones taken as
            500,000; none without consensus or without such votes.
        mean_ppm, support_ppm: the graded mean and support, rule ``weighted`` only.
        dissenters: who voted for something else than what was decided, sorted; likewise the next
            two.
        silent: who was not heard before the verdict.
        void: who equivocated before the verdict.
        tie: no consensus because two options share the lead.
        decided_by: what made the decision final.
        tolerance: the label (COM-27).
        quality_ppm: ``vote_ratio_ppm``, 0 without consensus.
    """

    protocol: str
    result: Literal["decided", "no_consensus"]
    decision: str
    rule: str
    threshold_ppm: Ppm | None
    ballot: int
    weights: Weights
    vote_ratio_ppm: Ppm
    confidence_ppm: Ppm | None
    mean_ppm: Ppm | None
    support_ppm: Ppm | None
    dissenters: tuple[str, ...]
    silent: tuple[str, ...]
    void: tuple[str, ...]
    tie: bool
    decided_by: DecidedBy
    tolerance: Tolerance
    quality_ppm: Ppm


def label(config: SimpleConfig, rules: Rules, opened: CoordinationOpened) -> Tolerance:
    """The tolerance label of a ballot under this configuration."""
    assumes: list[Assumption] = []
    if rules.rule == "weighted":
        assumes.append("stated_confidence")  # SIM-6
    if has_unverified_weights(config, opened.participants):
        assumes.append("unverified_weights")  # SIM-7
    return tolerance(opened, rules.needed, *assumes)


def outcome(
    config: SimpleConfig, rules: Rules, opened: CoordinationOpened, box: BallotBox, verdict: Verdict
) -> SimpleOutcome:
    """The outcome of a ballot that ended with ``verdict``."""
    tally, decision = box.tally, verdict.decision
    agreed = decision != NO_CONSENSUS
    votes = box.counted()
    speaks_for = GRADE_SPEAKS_FOR.get(decision, decision) if rules.rule == "weighted" else decision
    ratio_ppm = _deciding_weight(rules, tally, speaks_for) * PPM // tally.total
    mean_ppm, support_ppm = _graded(tally) if rules.rule == "weighted" else (None, None)
    return SimpleOutcome(
        protocol=opened.protocol,
        result="decided" if agreed else "no_consensus",
        decision=decision,
        rule=rules.rule,
        threshold_ppm=config.threshold_ppm if rules.rule in ("threshold", "unanimous") else None,
        ballot=box.number,
        weights=tally.weights(),
        vote_ratio_ppm=ratio_ppm,
        confidence_ppm=_mean_confidence(votes, speaks_for),
        mean_ppm=mean_ppm,
        support_ppm=support_ppm,
        dissenters=_dissenters(rules, decision, votes) if agreed else (),
        silent=box.unheard(),
        void=tuple(sorted(box.void)),
        tie=verdict.tie,
        decided_by=verdict.decided_by,
        tolerance=label(config, rules, opened),
        quality_ppm=ratio_ppm if agreed else 0,
    )


def _deciding_weight(rules: Rules, tally: Tally, speaks_for: str) -> int:
    if speaks_for in tally.support:
        return tally.support[speaks_for]
    if rules.rule in ("majority", "plurality"):
        return lead(tally)[1]
    return tally.support["agree"]


def _mean_confidence(votes: dict[str, VoteCast], option: str) -> int | None:
    """Reported, never multiplied in (SIM-10)."""
    stated = [vote.confidence_ppm for vote in votes.values() if vote.option == option]
    if not stated:
        return None
    return sum(MISSING_CONFIDENCE_PPM if c is None else c for c in stated) // len(stated)


def _graded(tally: Tally) -> tuple[int | None, int]:
    halves, conviction = contribution_in_halves(tally), sum(tally.conviction.values())
    mean_ppm = halves * PPM // (2 * conviction) if conviction else None
    return mean_ppm, halves // (2 * tally.total)


def _dissenters(rules: Rules, decision: str, votes: dict[str, VoteCast]) -> tuple[str, ...]:
    if rules.rule == "weighted":
        opposed = GRADE_IS_OPPOSED_BY[decision]
        return tuple(author for author, vote in votes.items() if vote.option in opposed)
    return tuple(a for a, vote in votes.items() if vote.option not in (decision, ABSTAIN))
