"""Voting weights: pure integer functions from frozen reputation figures (SIM-7, SIM-8).

Weights are micro-units, 1,000,000 = one. They are computed once, at opening, and never drift
(COM-22). No weight is below 1, because a frozen weight is a positive integer (COM-19): somebody
without standing weighs a millionth part of an ordinary vote, which is nothing in every ballot that
anybody else attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal

import msgspec

from ...core.hashing import PPM, ln_micro
from ...core.kernel_events import Ppm

UNIT = 1_000_000
"""The weight of one ordinary vote."""

MAX_LCB_PPM = 990_000
LOWEST_EXPERTISE = 100_000
_LINEAR_FROM, _LINEAR_UPTO = 500_000, 800_000
_AT_LINEAR_FROM, _AT_LINEAR_UPTO = 600_000, 1_710_775

_DECIMAL = Context(prec=28, rounding=ROUND_HALF_EVEN)


class ReputationFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One participant's lower confidence bounds (REP-7), ppm; 0 without history (COM-22).

    Attributes:
        accuracy_ppm: accuracy under topic ``general``.
        topic_accuracy_ppm: accuracy under the coordination's topic.
        calibration_ppm: calibration.
        reliability_ppm: reliability.
    """

    accuracy_ppm: Ppm = 0
    topic_accuracy_ppm: Ppm = 0
    calibration_ppm: Ppm = 0
    reliability_ppm: Ppm = 0


NO_HISTORY = ReputationFigures()


def log_odds_micro(lcb_ppm: int, options: int) -> int:
    """Log-odds weight of an accuracy bound among ``options`` answers, micro-nats (REP-8).

    Source: Nitzan and Paroush 1982, optimal weights of independent voters.
    """
    bound = min(max(lcb_ppm, 1), MAX_LCB_PPM)
    return max(0, ln_micro(bound * (options - 1), PPM - bound))


def expertise_raw_ppm(figures: ReputationFigures) -> int:
    """0.3 accuracy(general) + 0.2 calibration + 0.3 accuracy(topic) + 0.2 reliability (SIM-7)."""
    tenths = (
        3 * figures.accuracy_ppm
        + 2 * figures.calibration_ppm
        + 3 * figures.topic_accuracy_ppm
        + 2 * figures.reliability_ppm
    )
    return tenths // 10


def expertise_weight(raw_ppm: int) -> int:
    """The expertise curve of SIM-7: continuous, monotone, at least 0.1; micro-units."""
    if raw_ppm <= _LINEAR_FROM:
        return max(LOWEST_EXPERTISE, raw_ppm * 12 // 10)
    if raw_ppm <= _LINEAR_UPTO:
        rise = _AT_LINEAR_UPTO - _AT_LINEAR_FROM
        return _AT_LINEAR_FROM + (raw_ppm - _LINEAR_FROM) * rise // (_LINEAR_UPTO - _LINEAR_FROM)
    power = _DECIMAL.power(_DECIMAL.divide(Decimal(raw_ppm), Decimal(PPM)), Decimal("0.7"))
    return int(_DECIMAL.quantize(_DECIMAL.multiply(power, Decimal(2 * UNIT)), Decimal(1)))


def cap_shares(weights: Sequence[int], cap_ppm: int) -> list[int]:
    """Lower the largest weights until none exceeds ``cap_ppm`` of the new total (SIM-8).

    Lowering the largest again and again ends in the greatest fixed point, in which all lowered
    weights are equal. That common level is found directly: ``level <= cap * total(level)`` holds up
    to one point and nowhere after it, because the capped total is concave in the level.

    Args:
        weights: positive weights.
        cap_ppm: at least ``ceil(1,000,000 / len(weights))``, else no positive weights satisfy it.
    """
    low, high = 0, max(weights)
    while low < high:
        level = (low + high + 1) // 2
        if level * PPM <= cap_ppm * sum(min(weight, level) for weight in weights):
            low = level
        else:
            high = level - 1
    return [min(weight, low) for weight in weights]


def reputation_weights(figures: Sequence[ReputationFigures], options: int) -> list[int]:
    """Log-odds weights; nobody stands out when all are 0, so everybody weighs the same (SIM-7)."""
    odds = [log_odds_micro(figure.topic_accuracy_ppm, options) for figure in figures]
    return [max(1, weight) for weight in odds] if any(odds) else [UNIT] * len(odds)


def expertise_weights(figures: Sequence[ReputationFigures]) -> list[int]:
    """Expertise weights; equal when nobody has any."""
    raw = [expertise_raw_ppm(figure) for figure in figures]
    return [expertise_weight(each) for each in raw] if any(raw) else [UNIT] * len(raw)
