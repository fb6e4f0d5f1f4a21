"""Read models of what went wrong: rejected records, and proofs of misbehaviour."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import MetaData, Table

from ..core.evidence import check_evidence, uniqueness_key
from ..core.kernel_events import EvidenceSubmitted
from ..core.machine import LogEvent
from ..core.replay import Verdict
from .columns import clean_text, flag, integer, json_text, text, time_ns
from .projection import Change, Folded, Projection, Row
from .readable import json_of
from .schema import REFUSED, REJECTED

SUBMITTED = "evidence.submitted"

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
    text(
        "offence",
        "Uniqueness key of the offence; for a proof that does not hold, unproven: and its event.",
        primary_key=True,
    ),
    text("coordination", "Coordination in which it was found."),
    text("source", "fold (found by every reader) or submitted (as an event)."),
    text("submitter", "Author of the submission; null if every reader finds it.", nullable=True),
    flag("valid", "The proof holds; false is an accusation without effect."),
    integer(
        "honesty_weight",
        "Weight with which reputation counts honesty 0 for the accused, once per rule, accused and "
        "offence (REP-9); 0 if nothing is proven, and for E9, which an audit has to confirm.",
    ),
    text(
        "offence_coordination",
        "Coordination in which the accused signed it; null unless valid.",
        nullable=True,
    ),
    integer("sequence", "Sequence of the record that completed or submitted the proof."),
    time_ns("stored_ns", "Storage time of that record."),
    json_text("event_ids", "Ids of the events that make the proof, hex."),
    comment="Proofs of misbehaviour, once per rule, accused and offence, and submissions without "
    "proof. What reputation needs: accused, offence, honesty_weight and sequence.",
)

HONESTY_WEIGHT = 50
"""Weight of a proof in the honesty of its accused (specification, REP-9)."""


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
    proofs = [v for v in batch.rejected if v.evidence or _is_unproven(v)]
    proofs += batch.of(SUBMITTED)
    rows = []
    for verdict in sorted(proofs, key=lambda each: each.record.sequence):
        event = verdict.event
        if event is None:
            continue
        if event.type == SUBMITTED:
            rows.append(_submitted(verdict, event, batch))
        else:
            rows.extend(_found(verdict, event, batch))
    return Change(rows)


def _is_unproven(verdict: Verdict) -> bool:
    return (
        verdict.event is not None
        and verdict.event.type == SUBMITTED
        and verdict.rejection is not None
        and verdict.rejection.reason == "invalid_proof"
    )


def _submitted(verdict: Verdict, event: LogEvent, batch: Folded) -> Row:
    proof: EvidenceSubmitted = event.content
    offence = ""
    if verdict.rejection is None:
        context = verdict.coordination.context if verdict.coordination else None
        keys = batch.replay.keyring.public_key
        offence = check_evidence(proof, keys, batch.replay.protocols, context)
    return (
        proof.rule,
        proof.accused,
        clean_text(offence) or f"unproven:{event.id.hex()}",
        event.coordination,
        "submitted",
        event.author,
        bool(offence),
        HONESTY_WEIGHT if offence else 0,
        offence.partition(":")[0] or None,
        event.sequence,
        event.stored_ns,
        json_of(proof.proof_ids),
    )


def _found(verdict: Verdict, event: LogEvent, batch: Folded) -> Iterator[Row]:
    found = _offence(verdict, event, batch)
    if found is None:
        return
    rule, offence = found
    yield (
        rule,
        event.author,
        clean_text(offence),
        event.coordination,
        "fold",
        None,
        True,
        0 if rule == "E9" else HONESTY_WEIGHT,
        event.coordination,
        event.sequence,
        event.stored_ns,
        json_of(verdict.evidence),
    )


def _offence(verdict: Verdict, event: LogEvent, batch: Folded) -> tuple[str, str] | None:
    """Rule and uniqueness key, the same as a submitted proof of the offence would have.

    One event that shows a fault is a coordinator's (E9), or needs others to prove it, and then its
    proof is submitted.
    """
    header = event.event.header
    if len(verdict.evidence) == 1:
        fold = verdict.coordination
        is_coordinator = fold is not None and fold.coordinator == event.author
        return ("E9", header.coordination) if is_coordinator else None
    book = verdict.coordination.chains if verdict.coordination else batch.replay.registry_chains
    if book.find(header.author, header.author_seq) != event.id:
        return "E7", f"{header.coordination}:{header.author_seq}"
    for kind in (each for spec in batch.replay.protocols.values() for each in spec.event_types):
        if kind.name == event.type and (key := uniqueness_key(event.event, kind)):
            return kind.contradiction, ":".join((header.coordination, *map(str, key)))
    return None


REJECTION = Projection(rejection, 1, _rejections, "append")
EVIDENCE = Projection(evidence, 2, _evidence, "keep")
