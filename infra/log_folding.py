"""Folding the whole log for a listing, when there is no database to ask."""

from __future__ import annotations

from typing import Any

from ..core.coordination import Coordination
from ..core.log import EventLog
from ..core.replay import Replay
from ..protocols import PROTOCOLS

MAX_COORDINATIONS = 1_000_000
"""Coordinations a listing keeps in memory; a larger log is for the projector."""


async def coordinations_of(log: EventLog, root_public_key: bytes) -> list[dict[str, Any]]:
    """One row a coordination, the newest first, every signature verified."""
    replay = Replay(root_public_key, PROTOCOLS, capacity=MAX_COORDINATIONS)
    folds: dict[str, Coordination] = {}
    async for batch in log.read_all():
        for verdict in replay.feed(batch):
            fold = verdict.coordination
            if fold is not None and fold.request is not None:
                folds[fold.id] = fold
    rows = [_row(fold) for fold in folds.values()]
    return sorted(rows, key=lambda row: row["requested_sequence"], reverse=True)


def _row(fold: Coordination) -> dict[str, Any]:
    assert fold.request is not None
    outcome = getattr(fold.terminal.content, "outcome", None) if fold.terminal else None
    return {
        "coordination": fold.id,
        "protocol": fold.request.content.protocol,
        "status": fold.phase,
        "decision": outcome.get("decision") if outcome else None,
        "requester": fold.request.author,
        "coordinator": fold.coordinator or None,
        "term": fold.term,
        "requested_sequence": fold.request.sequence,
    }
