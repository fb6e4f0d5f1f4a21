"""What a participant's journal keeps, and under which keys."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from ..machine import AskFailed, Key, LogEvent

EXPIRY_GRACE_MS = 120_000
"""How long after its overall time-out an agent still acts in a coordination; journal entries are
kept twice as long, so nothing is ever forgotten that could still be asked again."""

FOLLOWED = "followed"
"""First part of the keys of a coordination that is followed, not answered once."""


def expiry_ns(opened: LogEvent) -> int:
    """Wall clock after which an agent no longer acts in the coordination opened by this event."""
    allowed_ms: int = opened.content.overall_timeout_ms + EXPIRY_GRACE_MS
    return opened.stored_ns + allowed_ms * 1_000_000


@lru_cache(maxsize=1024)
def _text(epoch: bytes) -> str:
    return epoch.hex()  # one string for all keys of a coordination that a journal remembers


def slot_of(epoch: bytes, key: Key) -> Key:
    """Journal key of an intent: one per frozen configuration, so that an opening which is not in
    the log (positions in an invitation are not signed) cannot use up the slot of the true one."""
    return (epoch.hex(), *key)


def followed_slot(epoch: bytes, key: Key = ()) -> Key:
    """The same for a coordination that is followed; without a key, the note that it is."""
    return (FOLLOWED, _text(epoch), *key)


def intent_key(slot: Key) -> Key:
    """The intent behind a key made by :func:`followed_slot`."""
    return slot[2:]


def snapshot_slot(epoch: bytes, milestone: int | None = None) -> Key:
    """Journal key of a snapshot; without its milestone, what all of them begin with."""
    return ("snapshot", _text(epoch), *(() if milestone is None else (milestone,)))


def over_slot(epoch: bytes) -> Key:
    """The note that a coordination which was followed is over for this author."""
    return ("over", epoch.hex())


def encode_answer(result: Any) -> bytes:
    """An answer of the agent's own code, or its failure."""
    tag = b"\0" if isinstance(result, AskFailed) else b"\1"
    return tag + msgspec.msgpack.encode(result)


def decode_answer(encoded: bytes, answer_type: Any) -> Any:
    """Inverse of :func:`encode_answer`."""
    return msgspec.msgpack.decode(encoded[1:], type=AskFailed if encoded[0] == 0 else answer_type)
