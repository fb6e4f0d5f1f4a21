"""Read models of what went wrong: rejected records, and proofs of misbehaviour."""

from __future__ import annotations

from sqlalchemy import MetaData, Table

from ..core.evidence import check_evidence, uniqueness_key
from ..core.machine import LogEvent
from ..core.replay import Verdict
from .columns import clean_text, flag, integer, json_text, text, time_ns
from .projection import Change, Folded, Projection, Row
from .readable import json_of
from .schema import REFUSED, REJECTED

_metadata = MetaData()

rejection = Table(
    "rejection",
    _metadata,
    integer("sequence", "Sequence of the record.", primary_key=True, autoincrement=False),
    time_ns("stored_ns", "Storage time of the record."),
    text("subject", "Subject under which it is stored."),
    text("stage", "refused (by admission) or rejected (by the fold)."),
    text("reason", "Rejection reason."),
    text("message", "The reason for people."),
    text("coordination", "Coordination it claims to belong to; may be empty.", index=True),
    text("author", "Author it claims to have; may be empty."),
    text("type", "Type it claims to have; empty if unreadable."),
    text("event_id", "Id of the event, hex; empty if unreadable."),
    flag("proven", "The signature was good, so the author is accountable for it."),
    comment="Every stored record that has no effect, and why.",
)

evidence = Table(
    "evidence",
    _metadata,
    text("rule", "Rule of the specification, E1 to E9.", primary_key=True),
    text("accused", "Author whose signatures prove it.", primary_key=True),
    text("offence", "Uniqueness key of the offence.", primary_key=True),
    text("coordination", "Coordination in which it was found."),
    text("source", "fold (found by every reader) or submitted (as an event)."),
    integer("sequence", "Sequence of the record that completed or submitted the proof."),
    time_ns("stored_ns", "Storage time of that record."),
    json_text("event_ids", "Ids of the events that make the proof, hex."),
    comment="Proofs of misbehaviour, once per rule, accused and offence.",
)


def _rejections(batch: Folded) -> Change:
    rows: list[Row] = []
    for verdict in batch.rejected:
        rejected = verdict.rejection
        assert rejected is not None
        rows.append(
            (
                rejected.sequence,
                rejected.stored_ns,
                clean_text(rejected.subject),
                REFUSED if verdict.event is None else REJECTED,
                rejected.reason,
                clean_text(rejected.message),
                clean_text(rejected.coordination),
                clean_text(rejected.author),
                rejected.type,
                rejected.event_id.hex(),
                rejected.proven,
            )
        )
    return Change(rows)


def _evidence(batch: Folded) -> Change:
    """In log order, because the first proof of an offence is the one that is kept."""
    proofs = [v for v in batch.rejected if v.evidence] + batch.of("evidence.submitted")
    rows = []
    for verdict in sorted(proofs, key=lambda each: each.record.sequence):
        event = verdict.event
        if event is None:
            continue
        rows.append(
            _submitted(event, batch) if verdict.rejection is None else _found(verdict, event, batch)
        )
    return Change(rows)


def _submitted(event: LogEvent, batch: Folded) -> Row:
    proof = event.content
    offence = check_evidence(proof, batch.replay.keyring.public_key, batch.replay.protocols)
    return (
        proof.rule,
        proof.accused,
        clean_text(offence),
        event.coordination,
        "submitted",
        event.sequence,
        event.stored_ns,
        json_of(proof.proof_ids),
    )


def _found(verdict: Verdict, event: LogEvent, batch: Folded) -> Row:
    rule, offence = _offence(verdict, event, batch)
    return (
        rule,
        event.author,
        clean_text(offence),
        event.coordination,
        "fold",
        event.sequence,
        event.stored_ns,
        json_of(verdict.evidence),
    )


def _offence(verdict: Verdict, event: LogEvent, batch: Folded) -> tuple[str, str]:
    """Rule and uniqueness key, the same as a submitted proof of the offence would have."""
    header = event.event.header
    book = verdict.coordination.chains if verdict.coordination else batch.replay.registry_chains
    if book.find(header.author, header.author_seq) != event.id:
        return "E7", f"{header.coordination}:{header.author_seq}"
    for kind in (each for spec in batch.replay.protocols.values() for each in spec.event_types):
        if kind.name == event.type and (key := uniqueness_key(event.event, kind)):
            return "E1", ":".join((header.coordination, *map(str, key)))
    return "E9", header.coordination


REJECTION = Projection(rejection, 1, _rejections, "append")
EVIDENCE = Projection(evidence, 1, _evidence, "keep")
