"""Read models of coordinations: where they stand, who takes part, what is missing."""

from __future__ import annotations

from sqlalchemy import MetaData, Table

from ..core.chain import ChainBook
from ..core.coordination import Coordination
from ..core.names import REGISTRY
from .columns import clean_text, integer, json_text, text, time_ns
from .endings import duration_ms, ending_columns
from .projection import Change, Folded, Projection, Row
from .readable import json_of

_metadata = MetaData()

coordination = Table(
    "coordination",
    _metadata,
    text("coordination", "Coordination id.", primary_key=True),
    text("protocol", "Protocol name; null while no request is known.", nullable=True),
    text("status", "requested, the protocol's phase, decided, failed or cancelled."),
    text("requester", "Client that asked for it.", nullable=True),
    text("coordinator", "Coordinator in force; null before the first claim.", nullable=True),
    integer("term", "Claims so far; more than 1 means that a coordinator was replaced."),
    text("parent", "Coordination that opened this one.", nullable=True),
    text("topic", "Topic under which accuracy is kept.", nullable=True),
    text("ordering", "log or bft; null before opening.", nullable=True),
    text("fault_tolerance", "Fault level asked for.", nullable=True),
    text("epoch", "SHA-256 of the frozen configuration, hex; empty before opening."),
    integer("participants", "Number of frozen participants; null before opening.", nullable=True),
    integer("requested_sequence", "Sequence of the request.", nullable=True),
    time_ns("requested_ns", "Storage time of the request.", nullable=True),
    integer("claimed_sequence", "Sequence of the claim in force.", nullable=True),
    integer("opened_sequence", "Sequence of the opening.", nullable=True),
    time_ns("opened_ns", "Storage time of the opening.", nullable=True),
    integer("terminal_sequence", "Sequence of the terminal event.", nullable=True),
    time_ns("terminal_ns", "Storage time of the terminal event.", nullable=True),
    integer("duration_ms", "Opening to terminal event, milliseconds (TEL-1).", nullable=True),
    text("result", "success, no_result, error or cancelled; null while it runs.", nullable=True),
    text("decision", "What was decided; the result where that is no choice.", nullable=True),
    integer("vote_ratio_ppm", "Weight of the decision by all weight, ppm.", nullable=True),
    integer("confidence_ppm", "Mean stated confidence in the decision, ppm.", nullable=True),
    integer("quality_ppm", "Quality as the protocol defines it, ppm.", nullable=True),
    text("failure_code", "Code of the failure.", nullable=True),
    text("failure_message", "The failure for people.", nullable=True),
    text("failure_hint", "What to do about the failure.", nullable=True),
    text("cancel_reason", "Why it was cancelled.", nullable=True),
    json_text("waiting_for", "Authors whose events would move it on, sorted."),
    integer("events", "Admitted events, rejected ones included."),
    integer("last_sequence", "Sequence of the last admitted event."),
    integer("open_gaps", "Gaps in author chains; more than 0 means the log is incomplete."),
    comment="One row per coordination: where it stands and how it ended.",
    sqlite_with_rowid=False,
)

participant = Table(
    "participant",
    _metadata,
    text("coordination", "Coordination id.", primary_key=True),
    text("agent", "Agent that takes part.", primary_key=True),
    integer("weight", "Frozen weight in micro-units, after caps."),
    text("controller", "Owner of the agent at opening."),
    text("node", "Node of the agent at opening."),
    text("key_id", "Key under which it takes part, hex."),
    integer("opened_sequence", "Sequence of the opening that froze it."),
    comment="Frozen participants of every opened coordination.",
    sqlite_with_rowid=False,
)

chain_gap = Table(
    "chain_gap",
    _metadata,
    text("coordination", "Coordination id, or _registry.", primary_key=True),
    text("author", "Author whose chain has the gap.", primary_key=True),
    integer("first", "Number of the first missing event.", primary_key=True, autoincrement=False),
    integer("last", "Number of the last missing event."),
    comment="Open gaps in author chains: events lost, withheld or not yet arrived. A filled gap "
    "disappears.",
    sqlite_with_rowid=False,
)


def _coordination_row(fold: Coordination, last_sequence: int) -> Row:
    request, claim, opened, terminal = fold.request, fold.claim, fold.opened, fold.terminal
    wanted = request.content if request else None
    config = fold.config
    known = config or wanted
    return (
        fold.id,
        clean_text(known.protocol) if known else None,
        fold.phase,
        request.author if request else None,
        claim.author if claim else None,
        fold.term,
        known.parent.coordination if known and known.parent else None,
        clean_text(known.topic) if known else None,
        config.ordering if config else None,
        known.fault_tolerance if known else None,
        fold.epoch.hex(),
        len(config.participants) if config else None,
        request.sequence if request else None,
        request.stored_ns if request else None,
        claim.sequence if claim else None,
        opened.sequence if opened else None,
        opened.stored_ns if opened else None,
        terminal.sequence if terminal else None,
        terminal.stored_ns if terminal else None,
        duration_ms(fold),
        *ending_columns(terminal),
        json_of(fold.waiting_for()) if terminal is None else "[]",
        fold.events,
        last_sequence,
        len(fold.chains.gaps()),
    )


def _coordinations(batch: Folded) -> Change:
    rows = [
        _coordination_row(fold, last)
        for fold, last in batch.coordinations.values()
        if fold.request is not None or fold.claim is not None
    ]
    return Change(rows, [row[0] for row in rows])


def _participants(batch: Folded) -> Change:
    return Change(
        [
            (
                verdict.event.coordination,
                member.agent_id,
                member.weight,
                member.controller,
                member.node,
                member.key_id.hex(),
                verdict.record.sequence,
            )
            for verdict in batch.of("coordination.opened")
            if verdict.event is not None
            for member in verdict.event.content.participants
        ]
    )


def _gaps(batch: Folded) -> Change:
    books = {id: fold.chains for id, (fold, _) in batch.coordinations.items()}
    if batch.registry_touched:
        books[REGISTRY] = batch.replay.registry_chains
    rows = [row for id, book in books.items() for row in _gap_rows(id, book)]
    return Change(rows, list(books))


def _gap_rows(id: str, book: ChainBook) -> list[Row]:
    return [(id, gap.author, gap.first, gap.last) for gap in book.gaps()]


COORDINATION = Projection(coordination, 1, _coordinations, "replace", "coordination")
PARTICIPANT = Projection(participant, 1, _participants, "append")
CHAIN_GAP = Projection(chain_gap, 1, _gaps, "replace", "coordination")
