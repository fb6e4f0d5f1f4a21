"""The event log contract: what every implementation of the log promises.

A log is one totally ordered, immutable sequence of stored events. Positions are stream sequence
numbers starting at 1 and contiguous over the whole log; a hole is an error, never skipped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

import msgspec

from .envelope import MAX_EVENT_BYTES, Event
from .hashing import sha256
from .names import EventClass

MAX_RECORD_BYTES = MAX_EVENT_BYTES + 4096
"""Bytes a log takes at most as one message: those of a largest event and of its headers. A message
without headers may use them all, though it can be no event then."""

MAX_SUBJECT_LENGTH = 4096
"""Characters of the longest subject: a line of the NATS protocol has no more bytes."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One stored message, not yet verified.

    Attributes:
        sequence: position in the log, from 1.
        stored_ns: the log's storage time, nanoseconds since 1970.
        subject: the subject under which it is stored.
        wire: the stored bytes.
    """

    sequence: int
    stored_ns: int
    subject: str
    wire: bytes


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A stored record by which the log is known again: if it is there, all before it is.

    Attributes:
        sequence, stored_ns: as in the record; 0 before the first.
        digest: SHA-256 of what is stored there.
    """

    sequence: int = 0
    stored_ns: int = 0
    digest: bytes = b""

    @classmethod
    def of(cls, record: Record) -> Place:
        """The place of a record."""
        return cls(record.sequence, record.stored_ns, sha256(record.wire))

    async def is_in(self, log: EventLog) -> bool:
        """Whether the log still holds the very record."""
        if self.sequence == 0:
            return True
        record = await log.record_at(self.sequence)
        return record is not None and Place.of(record) == self


class Head(msgspec.Struct, frozen=True):
    """The state of a log.

    Attributes:
        created_ns: when the log was created; another value means another log.
        sequence: last stored sequence, 0 for an empty log.
    """

    created_ns: int
    sequence: int


class Submission(msgspec.Struct, frozen=True):
    """An event on its way into the log.

    Attributes:
        event: the signed event.
        event_class: class token of its subject.
        node: node token of its subject.
        expected_control: if given, the append succeeds only while this is the last sequence on the
            coordination's ``ctl`` subjects (0: none stored yet).
    """

    event: Event
    event_class: EventClass
    node: str
    expected_control: int | None = None


class Appended(msgspec.Struct, frozen=True):
    """Acknowledgement of one append.

    Attributes:
        sequence: where the event is stored.
        duplicate: the very same event had been stored before.
    """

    sequence: int
    duplicate: bool = False


class EventLog(Protocol):
    """The log. All methods may raise :class:`LogUnavailableError`."""

    async def append(self, submission: Submission) -> Appended:
        """Store one event durably.

        Safe to repeat with the same event. Raises :class:`SequenceConflictError` when
        ``expected_control`` no longer holds *and* the stored event is not this one, and
        :class:`AppendRefusedError` (or a subclass) when the log will never take it.
        """
        ...

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """Store all events, in order, or none of them (one atomic step).

        At most 500 events. Only the first event of each coordination may carry
        ``expected_control``; it guards the step for that coordination. Errors as for
        :meth:`append`.
        """
        ...

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """All stored events of one coordination with sequence > ``after``, in order, as the leader
        knows them now."""
        ...

    def read_all(self, after: int = 0) -> AsyncIterator[list[Record]]:
        """Every stored event with sequence > ``after`` up to the head at the time of the call, in
        contiguous batches. Raises :class:`SequenceGapError` on a hole."""
        ...

    def follow(self, coordination: str, after: int | None = 0) -> AsyncGenerator[Record, None]:
        """Stored events of one coordination, then new ones as they arrive, without end, each once,
        in order. Close the iterator (``aclose``) to stop. ``None`` says that nothing can be stored
        yet, because the caller has just made up the id: then nothing is read."""
        ...

    def follow_all(self, after: int | None = None) -> AsyncIterator[list[Record]]:
        """Like :meth:`follow` for the whole log, in contiguous non-empty batches; ``None`` starts
        at the present head. Raises :class:`SequenceGapError` when a hole cannot be filled."""
        ...

    async def record_at(self, sequence: int) -> Record | None:
        """The record stored at ``sequence`` as the leader has it, or ``None``."""
        ...

    async def head(self) -> Head:
        """The present state of the log."""
        ...
