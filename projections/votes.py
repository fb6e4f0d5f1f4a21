"""Read model of votes: what every participant answered, and whether it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import MetaData, String, Table, Update, bindparam, or_

from ..core.kernel_events import TERMINAL_TYPES
from ..core.machine import LogEvent
from ..core.replay import Verdict
from ..protocols.ordered import OrderedCoordinator
from ..protocols.simple.events import VOTE_CAST
from ..protocols.simple.fold import SimpleFold
from .columns import clean_text, integer, text, time_ns
from .projection import Change, Folded, Projection, Row

COUNTED, VOID, LATE, SUBMITTED = "counted", "void", "late", "submitted"

vote = Table(
    "vote",
    MetaData(),
    text("coordination", "Coordination id.", primary_key=True),
    integer("ballot", "Number of the ballot, from 1.", primary_key=True, autoincrement=False),
    text("agent", "Verified author of the vote.", primary_key=True),
    integer("sequence", "Sequence of the vote.", primary_key=True, autoincrement=False),
    text("event_id", "Id of the vote, hex."),
    time_ns("stored_ns", "Storage time of the vote."),
    text("option", "Option voted for, or abstain."),
    integer("confidence_ppm", "Stated confidence, ppm.", nullable=True),
    integer("weight", "Frozen weight in micro-units; null for outsiders.", nullable=True),
    text(
        "status",
        "counted, void (the author equivocated), late, or the reason it was rejected for; "
        "submitted while replicas are still to order it.",
    ),
    text("failure", "Why the agent's own code gave no answer.", nullable=True),
    text("rationale_digest", "SHA-256 of a rationale kept elsewhere, hex.", nullable=True),
    comment="Every vote whose signature is good, whether it counts or not. The tally of a ballot "
    "is the weight of its counted votes.",
    sqlite_with_rowid=False,
)


def _amend(table: Table) -> Update:
    """One author's vote in one ballot (or, with an event id, that vote) gets another status."""
    only = bindparam("of_event", type_=String)
    return (
        table.update()
        .where(
            table.c.coordination == bindparam("of_coordination"),
            table.c.ballot == bindparam("of_ballot"),
            table.c.agent == bindparam("of_agent"),
            table.c.status == bindparam("old_status"),
            or_(only == "", table.c.event_id == only),
        )
        .values(status=bindparam("new_status"))
    )


def _amendment(event: LogEvent, old: str, new: str, *, only: bool = False) -> dict[str, Any]:
    return {
        "of_coordination": event.coordination,
        "of_ballot": event.content.ballot,
        "of_agent": event.author,
        "of_event": event.id.hex() if only else "",
        "old_status": old,
        "new_status": new,
    }


def _votes(batch: Folded) -> Change:
    rejected = [
        verdict
        for verdict in batch.rejected
        if verdict.event is not None and verdict.event.type == VOTE_CAST
    ]
    rows = [_row(verdict) for verdict in (*batch.of(VOTE_CAST), *rejected)]
    amendments = [
        _amendment(verdict.event, COUNTED, VOID)
        for verdict in rejected
        if verdict.event is not None and _voids_an_earlier_vote(verdict)
    ]
    for ending in batch.of(*TERMINAL_TYPES):
        amendments += _settled(ending)
    return Change(rows, amendments=amendments)


def _settled(ending: Verdict) -> Iterator[dict[str, Any]]:
    """What became of the votes that replicas had to order, once the result is announced."""
    fold = ending.coordination
    machine = fold.machine if fold is not None else None
    if not isinstance(machine, OrderedCoordinator) or not isinstance(machine.judge, SimpleFold):
        return
    assert ending.event is not None
    if ending.event.type == "coordination.failed" and not ending.event.content.final:
        return  # a certificate may still surface
    is_decided = ending.event.type == "coordination.decided"
    counted = {each for box in machine.judge.boxes for each in box.cut()} if is_decided else set()
    void = {(box.number, author) for box in machine.judge.boxes for author in box.void}
    for event in machine.order.domain_events():
        if event.type != VOTE_CAST or event.sequence > ending.event.sequence:
            continue
        status = COUNTED if event.id in counted else machine.order.rejected.get(event.id, LATE)
        if (event.content.ballot, event.author) in void:
            status = VOID
        yield _amendment(event, SUBMITTED, status, only=True)


def _row(verdict: Verdict) -> Row:
    event, fold = verdict.event, verdict.coordination
    assert event is not None
    content, header = event.content, event.event.header
    member = fold.participant(header.author) if fold is not None else None
    return (
        header.coordination,
        content.ballot,
        header.author,
        event.sequence,
        event.event.id.hex(),
        event.stored_ns,
        clean_text(content.option),
        content.confidence_ppm,
        member.weight if member else None,
        verdict.rejection.reason if verdict.rejection else _first_status(verdict),
        clean_text(content.failure) if content.failure else None,
        content.rationale_digest.hex() if content.rationale_digest else None,
    )


def _first_status(verdict: Verdict) -> str:
    fold, event = verdict.coordination, verdict.event
    if fold is None or event is None or not fold.is_ordered:
        return COUNTED
    is_over = fold.terminal is not None and event.sequence > fold.terminal.sequence
    return LATE if is_over else SUBMITTED


def _voids_an_earlier_vote(verdict: Verdict) -> bool:
    """Only while the ballot is open does a second vote void the first (COM-17)."""
    event, fold = verdict.event, verdict.coordination
    assert event is not None
    machine = fold.machine if fold is not None else None
    if not isinstance(machine, SimpleFold):
        return False
    return any(
        box.number == event.content.ballot and event.author in box.void for box in machine.boxes
    )


VOTE = Projection(vote, 2, _votes, "append", amendment=_amend)
