"""What makes a legal step: the rules every log implementation checks before it sends anything."""

from __future__ import annotations

from collections.abc import Sequence

from ..envelope import MAX_EVENT_BYTES
from ..errors import AppendRefusedError, LimitError, UsageError
from ..log import Submission
from ..names import check_id, event_subject

MAX_STEP_EVENTS = 500
"""Events in one atomic step."""


def subject_of(submission: Submission) -> str:
    """Subject under which the event of ``submission`` is stored."""
    header = submission.event.header
    return event_subject(
        header.coordination,
        submission.event_class,
        header.type,
        check_id(submission.node, "node"),
        header.author,
    )


def check_step(submissions: Sequence[Submission]) -> None:
    """Check the rules of one atomic step.

    Raises:
        LimitError: more than :data:`MAX_STEP_EVENTS` events.
        AppendRefusedError: an event is larger than the log takes.
        UsageError: an event occurs twice, or ``expected_control`` stands on an event that is not
            the first of its coordination.
    """
    if len(submissions) > MAX_STEP_EVENTS:
        raise LimitError(
            f"a step of {len(submissions)} events, the limit is {MAX_STEP_EVENTS}",
            hint="Append independent events one by one; they need no common step.",
        )
    ids: set[bytes] = set()
    coordinations: set[str] = set()
    for submission in submissions:
        event = submission.event
        if len(event.wire) > MAX_EVENT_BYTES:
            raise AppendRefusedError(
                f"event {event.header.type} has {len(event.wire)} bytes, "
                f"the limit is {MAX_EVENT_BYTES}",
                hint="Store the payload elsewhere and put its digest into the event.",
            )
        if event.id in ids:
            raise UsageError(f"event {event.id.hex()} occurs twice in one step")
        if submission.expected_control is not None and event.header.coordination in coordinations:
            raise UsageError(
                f"expected_control on a later event of {event.header.coordination!r} in one step",
                hint="Only the first event of a coordination guards the step.",
            )
        ids.add(event.id)
        coordinations.add(event.header.coordination)
