"""What makes a legal step: the rules every log implementation checks before it sends anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ..envelope import MAX_EVENT_BYTES
from ..errors import AppendRefusedError, LimitError, UsageError
from ..log import Submission
from ..names import TYPE_PATTERN, EventClass, check_id, event_subject

MAX_STEP_EVENTS = 500
"""Events in one atomic step."""


_TYPE = re.compile(TYPE_PATTERN)


def subject_of(submission: Submission) -> str:
    """Subject under which the event of ``submission`` is stored; its tokens are checked.

    Raises:
        UsageError: an identifier or the type is malformed.
    """
    header = submission.event.header
    return _checked_subject(
        header.coordination, submission.event_class, header.type, submission.node, header.author
    )


@lru_cache(maxsize=16_384)
def _checked_subject(
    coordination: str, event_class: EventClass, type_name: str, node: str, author: str
) -> str:
    if not _TYPE.match(type_name):
        raise UsageError(f"event type {type_name!r} is not of the form family.event_name")
    return event_subject(
        check_id(coordination, "coordination"),
        event_class,
        type_name,
        check_id(node, "node"),
        check_id(author, "author"),
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
