"""Read model of votes: what every participant answered, and whether it counts."""

from __future__ import annotations

from sqlalchemy import MetaData, Table, Update, bindparam

from ..core.replay import Verdict
from ..protocols.simple.events import VOTE_CAST
from ..protocols.simple.fold import SimpleFold
from .columns import clean_text, integer, text, time_ns
from .projection import Change, Folded, Projection, Row

COUNTED, VOID = "counted", "void"

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
    text("status", "counted, void (the author equivocated), or the reason it was rejected for."),
    text("failure", "Why the agent's own code gave no answer.", nullable=True),
    text("rationale_digest", "SHA-256 of a rationale kept elsewhere, hex.", nullable=True),
    comment="Every vote whose signature is good, whether it counts or not. The tally of a ballot "
    "is the weight of its counted votes.",
    sqlite_with_rowid=False,
)


def _void(table: Table) -> Update:
    return (
        table.update()
        .where(
            table.c.coordination == bindparam("of_coordination"),
            table.c.ballot == bindparam("of_ballot"),
            table.c.agent == bindparam("of_agent"),
            table.c.status == COUNTED,
        )
        .values(status=VOID)
    )


def _votes(batch: Folded) -> Change:
    rejected = [
        verdict
        for verdict in batch.rejected
        if verdict.event is not None and verdict.event.type == VOTE_CAST
    ]
    rows = [_row(verdict) for verdict in (*batch.of(VOTE_CAST), *rejected)]
    voided = [
        {
            "of_coordination": verdict.event.coordination,
            "of_ballot": verdict.event.content.ballot,
            "of_agent": verdict.event.author,
        }
        for verdict in rejected
        if verdict.event is not None and _voids_an_earlier_vote(verdict)
    ]
    return Change(rows, amendments=voided)


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
        verdict.rejection.reason if verdict.rejection else COUNTED,
        clean_text(content.failure) if content.failure else None,
        content.rationale_digest.hex() if content.rationale_digest else None,
    )


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


VOTE = Projection(vote, 1, _votes, "append", amendment=_void)
