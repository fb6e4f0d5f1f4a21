"""From a requester's parameters to the frozen configuration.

:func:`freeze` fills the defaults that depend on other fields or on the participants and turns the
weight source into integers (SIM-7, SIM-8). What it returns goes into ``coordination.opened`` and
never changes again; freezing it once more changes nothing.
"""

from __future__ import annotations

import msgspec

from ...core.errors import ConfigError, InvalidFieldError
from ...core.hashing import PPM
from ...core.kernel_events import Participant
from .config import (
    AGREE_DISAGREE,
    GRADED,
    SimpleConfig,
    check_bounds,
)
from .weights import (
    NO_HISTORY,
    UNIT,
    ReputationFigures,
    cap_shares,
    expertise_raw_ppm,
    expertise_weights,
    log_odds_micro,
    reputation_weights,
)

DEFAULT_EARLY_STOP_PPM = 600_000
DEFAULT_EXPERTISE_CAP_PPM = 500_000
DEFAULT_GRADED_TURNOUT_PPM = 500_000


class EmptyParticipantsError(ConfigError):
    """Nobody is left to vote."""

    code = "empty_participants"


class DuplicateParticipantError(ConfigError):
    """Somebody would vote twice."""

    code = "duplicate_participant"


def freeze(
    config: SimpleConfig, participants: tuple[Participant, ...]
) -> tuple[SimpleConfig, tuple[Participant, ...]]:
    """Complete parameters and weights, as they go into ``coordination.opened``.

    ``vote_timeout_ms`` may stay unset: it follows from the overall time-out, which is not known
    here.

    Raises:
        ConfigError: ``empty_participants``, ``duplicate_participant`` or ``invalid_config``.
    """
    ids = [participant.agent_id for participant in participants]
    if not ids:
        raise EmptyParticipantsError("a ballot needs at least one participant")
    if len(set(ids)) != len(ids):
        twice = sorted({each for each in ids if ids.count(each) > 1})
        raise DuplicateParticipantError(f"participants are named twice: {', '.join(twice)}")
    strangers = sorted(set(config.reputation) - set(ids))
    if strangers:
        raise InvalidFieldError("reputation", "about participants only", strangers)
    completed = complete(config, len(ids))
    return completed, _weighed(completed, participants)


def complete(config: SimpleConfig, count: int) -> SimpleConfig:
    """Fill the defaults that depend on other fields or on the ``count`` of participants.

    Raises:
        ConfigError: ``invalid_config``: the cap is too low for so few participants.
    """
    graded = config.rule == "weighted"
    return msgspec.structs.replace(
        config,
        options=_own_options(config),
        threshold_ppm=PPM if config.rule == "unanimous" else config.threshold_ppm,
        min_turnout_ppm=_default(
            config.min_turnout_ppm, DEFAULT_GRADED_TURNOUT_PPM if graded else 0
        ),
        weight_share_cap_ppm=_share_cap(config, count),
        early_stop_ppm=_default(
            config.early_stop_ppm, max(DEFAULT_EARLY_STOP_PPM, config.grade_bounds_ppm[1])
        ),
    )


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


def _own_options(config: SimpleConfig) -> tuple[str, ...]:
    if config.rule in ("majority", "plurality"):
        return config.options or AGREE_DISAGREE
    return GRADED if config.rule == "weighted" else AGREE_DISAGREE


def _share_cap(config: SimpleConfig, count: int) -> int:
    """The cap in force; one that no positive weights can satisfy is refused if it was asked for."""
    least = -(-PPM // count)
    if config.weight_share_cap_ppm is None:
        return max(least, DEFAULT_EXPERTISE_CAP_PPM) if config.weight_source == "expertise" else PPM
    check_bounds("weight_share_cap_ppm", config.weight_share_cap_ppm, least, PPM)
    return config.weight_share_cap_ppm


def _figures(
    config: SimpleConfig, participants: tuple[Participant, ...]
) -> list[ReputationFigures]:
    return [config.reputation.get(each.agent_id, NO_HISTORY) for each in participants]


def _weighed(
    config: SimpleConfig, participants: tuple[Participant, ...]
) -> tuple[Participant, ...]:
    """The participants with weights by source (SIM-7), after the cap (SIM-8)."""
    if config.weight_source == "config":
        weights = [participant.weight for participant in participants]
    elif config.weight_source == "equal":
        weights = [UNIT] * len(participants)
    elif config.weight_source == "reputation":
        weights = reputation_weights(_figures(config, participants), len(config.options))
    else:
        weights = expertise_weights(_figures(config, participants))
    cap_ppm = _default(config.weight_share_cap_ppm, PPM)
    return tuple(
        msgspec.structs.replace(participant, weight=weight)
        for participant, weight in zip(participants, cap_shares(weights, cap_ppm), strict=True)
    )


def has_unverified_weights(config: SimpleConfig, participants: tuple[Participant, ...]) -> bool:
    """Whether weights were to follow reputation but nobody had any (SIM-7)."""
    figures = _figures(config, participants)
    if config.weight_source == "reputation":
        options = len(config.options)
        return not any(log_odds_micro(each.topic_accuracy_ppm, options) for each in figures)
    return config.weight_source == "expertise" and not any(map(expertise_raw_ppm, figures))
