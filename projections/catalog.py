"""All read models, in the order in which they are written and listed."""

from __future__ import annotations

from .agents import AGENT, AGENT_HEALTH
from .coordinations import CHAIN_GAP, COORDINATION, PARTICIPANT
from .endings import OUTCOME, PROTOCOL_PERFORMANCE
from .misconduct import EVIDENCE, REJECTION
from .projection import Projection
from .votes import VOTE

PROJECTIONS: tuple[Projection, ...] = (
    AGENT,
    AGENT_HEALTH,
    COORDINATION,
    PARTICIPANT,
    VOTE,
    OUTCOME,
    PROTOCOL_PERFORMANCE,
    EVIDENCE,
    REJECTION,
    CHAIN_GAP,
)

MODEL_VERSIONS: dict[str, int] = {each.name: each.version for each in PROJECTIONS}
"""What a generation must hold for this program to write it."""
