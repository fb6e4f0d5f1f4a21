"""One event, one publish, one acknowledgement, and what to make of every kind of answer."""

from __future__ import annotations

import asyncio
import hashlib
import re

import msgspec

from ..errors import (
    AppendRefusedError,
    LogFullError,
    LogUnavailableError,
    MabeamError,
    SequenceConflictError,
)
from ..log import Appended, Submission
from ..names import control_filter
from .counters import Counters
from .frames import header
from .lookup import Lookup
from .pipeline import BUDGET_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, Pipeline
from .step import subject_of
from .wire import CONFLICT_CODES, FULL_CODES, ApiError, PubAck

_ack_decoder = msgspec.json.Decoder(PubAck)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """An event ready to be sent.

    Attributes:
        subject: where it will be stored.
        wire: its bytes.
        id: its ``Nats-Msg-Id``.
        headers: header lines with the id and, if guarded, the expected control sequence.
        guard: the coordination whose control subjects guard it, or ``None``.
        expected: the control sequence the guard expects.
    """

    subject: str
    wire: bytes
    id: str
    headers: bytes
    guard: str | None
    expected: int


def message_id(signature: bytes) -> str:
    """``Nats-Msg-Id`` of an event: unguessable before it is sent, the same in every retry."""
    return hashlib.sha256(signature).hexdigest()[:32]


def outgoing(submission: Submission) -> Outgoing:
    """Address an event."""
    event = submission.event
    subject = subject_of(submission)
    id_ = message_id(event.signature)
    headers = header("Nats-Msg-Id", id_)
    expected = submission.expected_control
    if expected is None:
        return Outgoing(subject, event.wire, id_, headers, None, 0)
    coordination = event.header.coordination
    headers += header("Nats-Expected-Last-Subject-Sequence", str(expected))
    headers += header("Nats-Expected-Last-Subject-Sequence-Subject", control_filter(coordination))
    return Outgoing(subject, event.wire, id_, headers, coordination, expected)


def decode_ack(data: bytes) -> PubAck:
    """Decode the reply to a publish."""
    try:
        return _ack_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise LogUnavailableError(f"unreadable acknowledgement from the server: {error}") from None


def refusal(error: ApiError, what: str) -> MabeamError:
    """The typed error for a refused append of ``what``."""
    text = f"{what}: {error.description}"
    if error.err_code in CONFLICT_CODES:
        last = re.search(r"sequence: (\d+)$", error.description)
        return SequenceConflictError(text, last_sequence=int(last[1]) if last else None)
    if error.err_code in FULL_CODES:
        hint = "Raise max_bytes of the stream or give it more disk; nothing is ever discarded."
        return LogFullError(text, hint=hint)
    if error.code >= 500:
        return LogUnavailableError(text)
    return AppendRefusedError(text)


class Publisher:
    """Appends single events, any number at a time."""

    def __init__(self, pipeline: Pipeline, lookup: Lookup, counters: Counters) -> None:
        self._pipeline = pipeline
        self._lookup = lookup
        self._counters = counters

    async def publish(self, message: Outgoing) -> Appended:
        """Store one event; see :meth:`mabeam.core.log.EventLog.append`."""
        reply = await self._pipeline.request(message.subject, message.wire, message.headers)
        ack = decode_ack(reply.data)
        if ack.error is not None:
            return await self._refused(message, ack.error)
        if ack.duplicate:
            return await self._duplicate(message, ack.seq)
        return Appended(ack.seq)

    async def _refused(self, message: Outgoing, error: ApiError) -> Appended:
        """A conflict may be with this very event, stored by an attempt whose answer was lost."""
        if error.err_code in CONFLICT_CODES:
            found = await self._lookup.find(message.subject, message.wire, message.expected)
            if found is not None:
                return Appended(found, duplicate=True)
            self._counters.conflicts += 1
        raise refusal(error, f"append on {message.subject}")

    async def _duplicate(self, message: Outgoing, sequence: int) -> Appended:
        """Believe in a duplicate only after seeing it: anybody may have used the id first."""
        expires = asyncio.get_running_loop().time() + BUDGET_S
        pause = FIRST_PAUSE_S
        while (stored := await self._lookup.at(sequence)) is None:
            # A replica that lags behind the leader; only agents and clients read from one.
            if asyncio.get_running_loop().time() + pause > expires:
                raise LogUnavailableError(f"event {sequence} is acknowledged but cannot be read")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        if stored.wire == message.wire:
            self._counters.duplicates += 1
            return Appended(sequence, duplicate=True)
        raise AppendRefusedError(
            f"the Nats-Msg-Id of the event on {message.subject} is taken by {stored.subject}",
            hint="Somebody copied the id of an event that was not stored; sign it anew.",
        )
