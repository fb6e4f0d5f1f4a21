"""What the server says, parsed: acknowledgement subjects, time stamps, JetStream API replies."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec
from nats.aio.msg import Msg

from ..log import Record

CONFLICT_CODES = frozenset({10071, 10164})
"""Error codes of an expected-last-sequence that does not hold."""

FULL_CODES = frozenset({10077, 10023, 10028, 10047})
"""Error codes of a stream or an account that takes no more bytes."""

NO_MESSAGE_CODE = 10037
STREAM_NOT_FOUND_CODE = 10059
CONSUMER_NOT_FOUND_CODE = 10014
CONSUMER_EXISTS_CODE = 10148
BATCH_DUPLICATE_CODE = 10201
"""An atomic batch holds a message whose ``Nats-Msg-Id`` is stored already."""

BATCH_RETRY_CODES = frozenset({BATCH_DUPLICATE_CODE, 10176, 10210})
"""Refused batches worth another try: duplicate known by now, abandoned, too many under way."""


class ApiError(msgspec.Struct, frozen=True):
    """``error`` of a JetStream reply."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """Reply to a publish; with ``error`` set nothing was stored."""

    seq: int = 0
    duplicate: bool = False
    count: int = 0
    error: ApiError | None = None


class StreamState(msgspec.Struct, frozen=True):
    """The part of a stream's state we read."""

    last_seq: int = 0
    first_seq: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    """Reply to ``STREAM.INFO`` and ``STREAM.CREATE``; ``config`` as the server spells it."""

    created: str = ""
    config: dict[str, object] = {}
    state: StreamState = StreamState()
    error: ApiError | None = None


class StoredMessage(msgspec.Struct, frozen=True):
    """``message`` of ``STREAM.MSG.GET``."""

    subject: str
    seq: int
    time: str
    data: bytes = b""


class MessageReply(msgspec.Struct, frozen=True):
    """Reply to ``STREAM.MSG.GET``."""

    message: StoredMessage | None = None
    error: ApiError | None = None


class ApiReply(msgspec.Struct, frozen=True):
    """Any other reply of the JetStream API."""

    error: ApiError | None = None


class AckTokens(NamedTuple):
    """What the reply subject of a consumed message tells."""

    deliveries: int
    sequence: int
    stored_ns: int


def parse_ack_subject(reply: str) -> AckTokens:
    """Parse ``$JS.ACK.…`` in its short form and in the form with domain and account.

    Raises:
        ValueError: ``reply`` is neither.
    """
    tokens = reply.split(".")
    if len(tokens) == 9:
        deliveries, sequence, _, stored_ns = tokens[4:8]
    elif len(tokens) >= 11:
        deliveries, sequence, _, stored_ns = tokens[6:10]
    else:
        raise ValueError(f"not an acknowledgement subject: {reply!r}")
    return AckTokens(int(deliveries), int(sequence), int(stored_ns))


def parse_time_ns(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with up to nine decimals, in UTC."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds + "+00:00").timestamp())
    return whole * 10**9 + int(fraction.ljust(9, "0") or "0")


def record_from_headers(message: Msg) -> Record:
    """The record in a direct-get reply or in a message of the republished feed."""
    headers = message.headers or {}
    return Record(
        int(headers["Nats-Sequence"]),
        parse_time_ns(headers["Nats-Time-Stamp"]),
        headers["Nats-Subject"],
        message.data,
    )


def status_of(message: Msg) -> str | None:
    """The status code of a reply that is no stored message (``404``, ``503`` …), else ``None``.

    A stored message may carry a ``Status`` header of its author's making, but the server adds
    ``Nats-Sequence`` to every stored message it sends with headers.
    """
    headers = message.headers
    if message.data or not headers or "Nats-Sequence" in headers:
        return None
    return headers.get("Status")
