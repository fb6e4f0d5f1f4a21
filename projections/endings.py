"""Read models of how coordinations ended: the terminal event in force, and its performance."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData, Table

from ..core.coordination import Coordination
from ..core.hashing import PPM
from ..core.kernel_events import TERMINAL_TYPES, CoordinationFailed
from ..core.machine import LogEvent
from .columns import bounded_integer, clean_text, integer, json_text, text, time_ns
from .projection import Change, Folded, Projection, Row
from .readable import json_of

NO_RESULT = frozenset({"no_consensus", "no_sale", "no_trade"})
"""Outcomes that are decided but empty (TEL-3)."""

_SORTED_TERMINALS = tuple(sorted(TERMINAL_TYPES))
_SUCCESS_PPM = {"success": PPM, "no_result": PPM // 2, "error": 0}
_metadata = MetaData()

outcome = Table(
    "outcome",
    _metadata,
    text("coordination", "Coordination id.", primary_key=True),
    integer("sequence", "Sequence of the terminal event."),
    text("event_id", "Id of the terminal event, hex."),
    time_ns("stored_ns", "Storage time of the terminal event."),
    text("type", "Type of the terminal event."),
    text("protocol", "Protocol name.", nullable=True),
    text("result", "success, no_result, error or cancelled."),
    text("decision", "What was decided; the result where that is no choice.", nullable=True),
    json_text("outcome", "The outcome, the failure or the reason, in full."),
    json_text("tolerance", "What the run could tolerate and assumed.", nullable=True),
    integer("inputs_upto", "Sequence of the event that fixed the result.", nullable=True),
    integer("cut_count", "Number of events the result was computed from.", nullable=True),
    text("cut_root", "Merkle root of their sorted ids, hex.", nullable=True),
    comment="The one terminal event in force of every ended coordination.",
    sqlite_with_rowid=False,
)

protocol_performance = Table(
    "protocol_performance",
    _metadata,
    text("coordination", "Coordination id.", primary_key=True),
    text("protocol", "Protocol name.", nullable=True),
    integer("terminal_sequence", "Sequence of the terminal event."),
    integer("participants", "Number of participants; null if never opened.", nullable=True),
    text("fault_level", "Fault level asked for.", nullable=True),
    text("result", "success, no_result, error or cancelled."),
    integer("duration_ms", "Opening to terminal event, milliseconds.", nullable=True),
    integer("quality_ppm", "Quality as the protocol defines it; 0 on failure."),
    integer("cost_micros", "Cost the outcome states, micro-credits.", nullable=True),
    integer("utility_ppm", "Utility (SEL-8); null if cancelled or never opened.", nullable=True),
    comment="One row per ended coordination, for comparing protocols (TEL-5).",
    sqlite_with_rowid=False,
)


def result_label(terminal: LogEvent) -> str:
    """``success``, ``no_result``, ``error`` or ``cancelled`` (TEL-3)."""
    if terminal.type == "coordination.failed":
        return "error"
    if terminal.type == "coordination.cancelled":
        return "cancelled"
    stated = terminal.content.outcome
    empty = NO_RESULT.intersection(map(str, (stated.get("result"), stated.get("decision"))))
    return "no_result" if empty else "success"


def ending_columns(terminal: LogEvent | None) -> Row:
    """``result`` to ``cancel_reason`` of the coordination table."""
    if terminal is None:
        return (None,) * 9
    content, label = terminal.content, result_label(terminal)
    if terminal.type == "coordination.decided":
        stated = content.outcome
        names = ("vote_ratio_ppm", "confidence_ppm", "quality_ppm")
        ratios = (bounded_integer(stated.get(name)) for name in names)
        return (label, _decision(stated), *ratios, None, None, None, None)
    if isinstance(content, CoordinationFailed):
        said = map(clean_text, (content.code, content.message, content.hint))
        return (label, None, None, None, None, *said, None)
    return (label, *(None,) * 7, clean_text(content.reason))


def _decision(stated: dict[str, Any]) -> str | None:
    decision = stated.get("decision", stated.get("result"))
    return clean_text(decision) if isinstance(decision, str) else None


def duration_ms(fold: Coordination) -> int | None:
    """Opening to terminal event by the log's clock, milliseconds (TEL-1)."""
    if fold.opened is None or fold.terminal is None:
        return None
    return (fold.terminal.stored_ns - fold.opened.stored_ns) // 1_000_000


def _endings(batch: Folded) -> list[tuple[Coordination, LogEvent]]:
    return [
        (verdict.coordination, verdict.event)
        for verdict in batch.of(*_SORTED_TERMINALS)
        if verdict.coordination is not None and verdict.event is not None
    ]


def _outcomes(batch: Folded) -> Change:
    rows: list[Row] = []
    for fold, event in _endings(batch):
        decided = event.type == "coordination.decided"
        stated = event.content.outcome if decided else {}
        rows.append(
            (
                fold.id,
                event.sequence,
                event.id.hex(),
                event.stored_ns,
                event.type,
                _protocol(fold),
                result_label(event),
                _decision(stated),
                json_of(stated if decided else event.content),
                json_of(stated["tolerance"]) if "tolerance" in stated else None,
                event.content.inputs_upto if decided else None,
                event.content.cut.count if decided else None,
                event.content.cut.root.hex() if decided else None,
            )
        )
    return Change(rows)


def _protocol(fold: Coordination) -> str | None:
    known = fold.config or (fold.request.content if fold.request else None)
    return clean_text(known.protocol) if known else None


def _performances(batch: Folded) -> Change:
    return Change([_performance_row(fold, event) for fold, event in _endings(batch)])


def _performance_row(fold: Coordination, event: LogEvent) -> Row:
    stated = event.content.outcome if event.type == "coordination.decided" else {}
    quality = bounded_integer(stated.get("quality_ppm")) or 0
    config = fold.config
    known = config or (fold.request.content if fold.request else None)
    label = result_label(event)
    return (
        fold.id,
        _protocol(fold),
        event.sequence,
        len(config.participants) if config else None,
        known.fault_tolerance if known else None,
        label,
        duration_ms(fold),
        quality,
        bounded_integer(stated.get("cost_micros")),
        _utility_ppm(fold, label, quality),
    )


def _utility_ppm(fold: Coordination, label: str, quality_ppm: int) -> int | None:
    """SEL-8 with the overall time-out as objective and no budget."""
    config, elapsed_ms = fold.config, duration_ms(fold)
    success_ppm = _SUCCESS_PPM.get(label)
    if config is None or elapsed_ms is None or success_ppm is None:
        return None
    speed_ppm = max(0, PPM - elapsed_ms * PPM // config.overall_timeout_ms)
    return (4 * quality_ppm + 3 * success_ppm + 2 * speed_ppm + PPM) // 10


OUTCOME = Projection(outcome, 1, _outcomes, "append")
PROTOCOL_PERFORMANCE = Projection(protocol_performance, 1, _performances, "append")
