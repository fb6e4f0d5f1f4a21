"""Parameters of a ballot and their bounds (specification 3.2).

A configuration is checked where it is written: constructing or decoding a :class:`SimpleConfig`
checks
every bound that needs no participants and names the field, the bound and the value. The rest is
checked when it is frozen at opening.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...core.errors import InvalidFieldError
from ...core.hashing import PPM
from .proposal import MAX_PROPOSAL_BYTES, encode_proposal
from .weights import ReputationFigures

RULES = ("threshold", "majority", "unanimous", "plurality", "weighted")
WEIGHT_SOURCES = ("config", "equal", "reputation", "expertise")
AGREE_DISAGREE = ("agree", "disagree")
GRADED = ("agree", "neutral", "disagree")
RESERVED_OPTIONS = frozenset({"abstain", "no_consensus"})
MAX_OPTIONS = 64
MAX_OPTION_CHARS = 64
MAX_VOTE_TIMEOUT_MS = 30 * 86_400_000


class UnknownRuleError(InvalidFieldError):
    """``rule`` is none of the known ones."""

    code = "unknown_rule"


class InvalidThresholdError(InvalidFieldError):
    """``threshold_ppm`` is below one half or above one."""

    code = "invalid_threshold"


class SimpleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``simple_consensus``; all but ``proposal`` are optional.

    Attributes:
        proposal: what is voted on, at most 64 KiB encoded; a digest if it is stored elsewhere.
        rule: ``threshold``, ``majority``, ``unanimous``, ``plurality`` or ``weighted`` (graded).
        options: 2..64 distinct answers; empty stands for the rule's own.
        threshold_ppm: share of all weight that agreement needs, 500,000..1,000,000.
        min_share_ppm: ``plurality``: share of all weight that the winner needs.
        min_turnout_ppm: share of all weight that must be cast for options before anything but
            ``no_consensus`` can result; 0, or 500,000 for ``weighted``.
        weight_source: ``config``, ``equal``, ``reputation`` or ``expertise``.
        weight_share_cap_ppm: largest share of one agent; 1,000,000 (off), or 500,000 for expertise.
        early_exit: decide as soon as the result is fixed; else always wait for the deadline.
        vote_timeout_ms: how long a ballot is open; overall time-out / ``max_ballots`` if unset.
        max_ballots: 1..10; a ballot without consensus is followed by the next.
        grade_bounds_ppm: ``weighted``: lowest mean of strong_approve, approve and neutral.
        early_stop_ppm: ``weighted``: support at which at least ``approve`` is certain; 600,000, or
            the bound of ``approve`` if that is higher.
        reputation: frozen figures by agent id; whoever is missing has no history.
    """

    proposal: Any
    rule: str = "threshold"
    options: tuple[str, ...] = ()
    threshold_ppm: int = 700_000
    min_share_ppm: int = 0
    min_turnout_ppm: int | None = None
    weight_source: str = "config"
    weight_share_cap_ppm: int | None = None
    early_exit: bool = True
    vote_timeout_ms: int | None = None
    max_ballots: int = 1
    grade_bounds_ppm: tuple[int, int, int] = (700_000, 500_000, 300_000)
    early_stop_ppm: int | None = None
    reputation: dict[str, ReputationFigures] = {}

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownRuleError("rule", f"one of {', '.join(RULES)}", self.rule)
        if not _is_within(self.threshold_ppm, 500_000, PPM):
            bound = f"an integer from 500000 to {PPM}"
            raise InvalidThresholdError("threshold_ppm", bound, self.threshold_ppm)
        if self.weight_source not in WEIGHT_SOURCES:
            bound = f"one of {', '.join(WEIGHT_SOURCES)}"
            raise InvalidFieldError("weight_source", bound, self.weight_source)
        _check_proposal(self.proposal)
        _check_options(self.rule, self.options)
        check_bounds("min_share_ppm", self.min_share_ppm, 0, PPM)
        check_bounds("min_turnout_ppm", self.min_turnout_ppm, 0, PPM)
        check_bounds("weight_share_cap_ppm", self.weight_share_cap_ppm, 1, PPM)
        check_bounds("vote_timeout_ms", self.vote_timeout_ms, 1, MAX_VOTE_TIMEOUT_MS)
        check_bounds("max_ballots", self.max_ballots, 1, 10)
        _check_grades(self.grade_bounds_ppm, self.early_stop_ppm)


def _is_within(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def check_bounds(field: str, value: int | None, low: int, high: int) -> None:
    """Refuse an integer outside ``low`` .. ``high``; ``None`` is unset."""
    if value is not None and not _is_within(value, low, high):
        raise InvalidFieldError(field, f"an integer from {low} to {high}", value)


def _check_proposal(proposal: Any) -> None:
    bound = f"encodable in at most {MAX_PROPOSAL_BYTES} bytes"
    try:
        size = len(encode_proposal(proposal))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidFieldError("proposal", bound, f"not encodable: {error}") from None
    if size > MAX_PROPOSAL_BYTES:
        raise InvalidFieldError("proposal", bound, f"{size} bytes")


def _check_options(rule: str, options: tuple[str, ...]) -> None:
    if not options:
        return
    if rule in ("threshold", "unanimous") and set(options) != set(AGREE_DISAGREE):
        raise InvalidFieldError("options", f"{AGREE_DISAGREE} for rule {rule}", options)
    if rule == "weighted" and set(options) != set(GRADED):
        raise InvalidFieldError("options", f"{GRADED} for rule weighted", options)
    if not 2 <= len(options) <= MAX_OPTIONS or len(set(options)) != len(options):
        raise InvalidFieldError("options", f"2 to {MAX_OPTIONS} distinct names", options)
    for option in options:
        if not 1 <= len(option) <= MAX_OPTION_CHARS or option in RESERVED_OPTIONS:
            bound = f"names of 1 to {MAX_OPTION_CHARS} characters, not abstain or no_consensus"
            raise InvalidFieldError("options", bound, option)


def _check_grades(bounds: tuple[int, ...], early_stop_ppm: int | None) -> None:
    if len(bounds) != 3 or not all(_is_within(bound, 0, PPM) for bound in bounds):
        raise InvalidFieldError("grade_bounds_ppm", f"three integers from 0 to {PPM}", bounds)
    if not bounds[0] > bounds[1] > bounds[2]:
        raise InvalidFieldError("grade_bounds_ppm", "descending", bounds)
    # SIM-6: the mean is never below the support, so from here on the grade is at least `approve`.
    check_bounds("early_stop_ppm", early_stop_ppm, max(1, bounds[1]), PPM)
