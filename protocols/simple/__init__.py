"""``simple_consensus``: a ballot among a few agents (specification, section 3)."""

from __future__ import annotations

from ...core.machine import ProtocolSpec
from .config import SimpleConfig
from .coordinator import SimpleCoordinator
from .events import SIMPLE_EVENT_TYPES, Ballot, VoteRequest
from .freezing import freeze
from .outcome import SimpleOutcome
from .participant import SimpleParticipant
from .weights import ReputationFigures

SPEC = ProtocolSpec(
    name="simple_consensus",
    family="simple",
    config_type=SimpleConfig,
    event_types=SIMPLE_EVENT_TYPES,
    coordinator=SimpleCoordinator,
    participant=SimpleParticipant,
    outcome_type=SimpleOutcome,
    freeze=freeze,
    default_timeout_ms=lambda config: 30_000,
)

__all__ = ["SPEC", "Ballot", "ReputationFigures", "SimpleConfig", "SimpleOutcome", "VoteRequest"]
