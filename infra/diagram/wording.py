"""What events say, in the words of their field: one line of a table a type.

A type without a line speaks for itself: its own name is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .model import Kind
from .template import Positions, fill, shortened

UNREADABLE = "left a record nobody can read"


class Wording(msgspec.Struct, frozen=True):
    """How a type of event is shown.

    Attributes:
        template: its sentence without the author; see ``template``.
        kind: how it stands out.
        answers: fields with ids of events it answers, besides its ``refs``.
    """

    template: str
    kind: Kind = "event"
    answers: tuple[str, ...] = ()


WORDINGS: Mapping[str, Wording] = {
    "coordination.requested": Wording("asks for {protocol}[: {config.proposal:json}]"),
    "coordination.claimed": Wording("claims it, term {term}", answers=("previous",)),
    "coordination.opened": Wording(
        "opens it for {participants:count} participants[, within {overall_timeout_ms:duration}]",
        answers=("request_id",),
    ),
    "coordination.decided": Wording(
        "decided[: {outcome.decision}][: {outcome.proposal:json}]"
        "[, {outcome.vote_ratio_ppm:percent} of the weight]"
        "[: handed over to {outcome.successor}][, view {outcome.view}, slot {outcome.sequence}]",
        "ending",
    ),
    "coordination.failed": Wording("failed: {code}[ ({final:final})][: {message}]", "ending"),
    "coordination.cancelled": Wording("cancelled[: {reason}]", "ending"),
    "coordination.cancel_requested": Wording("asks to cancel it[: {reason}]"),
    "coordination.input_rejected": Wording(
        "tells that {event_id:event} has no effect: {reason}", answers=("event_id",)
    ),
    "deadline.passed": Wording(
        "deadline {name}[ {round:positive}][ of {subject}] is over", "deadline"
    ),
    "evidence.submitted": Wording(
        "evidence {rule} against {accused}: {proof_ids:events}", "evidence", ("proof_ids",)
    ),
    "outcome.reported": Wording(
        "reports {kind} of {subject_event:event}: {value:json}", answers=("subject_event",)
    ),
    "simple.ballot_opened": Wording(
        "opens ballot {ballot}: {options:listed}; closes after {closes_after_ms:duration}"
    ),
    "simple.vote_cast": Wording(
        "votes {option}[ in ballot {ballot:later}][, confidence {confidence_ppm:percent}]"
        "[ (no answer: {failure})]"
    ),
    "simple.ballot_closed": Wording("closes ballot {ballot}: {decision}"),
    "byzantine.request_submitted": Wording("request {client_seq}: {operation:json}"),
    "byzantine.handover_requested": Wording("asks to hand it over to {successor}"),
    "byzantine.pre_prepare_sent": Wording(
        "pre-prepare v{view} s{sequence} {batch_digest:digest}, {request_ids:count} in the batch"
    ),
    "byzantine.prepare_sent": Wording("prepare v{view} s{sequence} {batch_digest:digest}"),
    "byzantine.commit_sent": Wording("commit v{view} s{sequence} {batch_digest:digest}"),
    "byzantine.checkpoint_taken": Wording("checkpoint s{sequence}, state {state_root:digest}"),
    "byzantine.view_change_sent": Wording(
        "view change to v{new_view}, stable s{stable_sequence}[, prepared {prepared:slots}]"
    ),
    "byzantine.new_view_sent": Wording(
        "NEW-VIEW v{new_view} over {view_change_ids:count} view changes[: {slots:slots}]",
        answers=("view_change_ids",),
    ),
    "byzantine.reply_sent": Wording(
        "replies to {client}'s request {client_seq}: {result_digest:digest}"
    ),
    "byzantine.proposal_refused": Wording(
        "refuses v{view} s{sequence} {batch_digest:digest}[: {reason}]"
    ),
}


def wording(type: str) -> Wording:
    """How a type of event is shown."""
    known = WORDINGS.get(type)
    return Wording(shortened(type) or UNREADABLE) if known is None else known


def words(type: str, body: Any, positions: Positions) -> str:
    """What an event says.

    Args:
        type: its type, empty if it is unreadable.
        body: its fields; ``None`` if it is unreadable.
        positions: sequences of events, by id in hexadecimal.
    """
    if type in WORDINGS and isinstance(body, dict):
        return fill(WORDINGS[type].template, body, positions)
    return shortened(type) or UNREADABLE


def answered(type: str, body: Any, refs: tuple[str, ...]) -> tuple[str, ...]:
    """Ids of the events it answers, without repetition."""
    named = list(refs)
    for field in wording(type).answers if isinstance(body, dict) else ():
        value = body.get(field, ())
        named.extend([value] if isinstance(value, str) else value)
    return tuple(dict.fromkeys(named))
