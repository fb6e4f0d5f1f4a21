"""A reader's position in the log: it may lag behind the end, never be ahead of it."""

from __future__ import annotations

from ..errors import SequenceGapError


def check_position(position: int, head: int) -> None:
    """Check a stored position against the last sequence of the log.

    Raises:
        SequenceGapError: the reader is ahead: the log was truncated or replaced.
    """
    if position > head:
        raise SequenceGapError(
            f"position {position} is beyond the end of the log at {head}",
            hint="The log was truncated or replaced; compare its identity, then rebuild from it.",
        )
