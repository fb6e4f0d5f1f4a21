"""What replicas vote on: digests of batches, of the null batch, of operations and of the state.

A batch is the list of its requests' event ids, so its digest binds content that only the requests'
clients could have signed. Neither view nor slot is part of it: a batch keeps its digest when a
later view proposes it again. The null batch fills a gap after a view change; it belongs to one slot
and executes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from ...core.hashing import ZERO32, sha256, tagged_hash

GENESIS_ROOT = ZERO32
"""State root before the first slot of a service that goes on from no other."""

MAX_OPERATION_BYTES = 64 * 1024

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def encode_operation(operation: Any) -> bytes:
    """Canonical bytes of an operation: msgpack with sorted keys.

    Raises:
        TypeError, ValueError, OverflowError: the value has no msgpack form.
    """
    return _encoder.encode(operation)


def operation_digest(operation: Any) -> bytes:
    """SHA-256 of :func:`encode_operation`."""
    return sha256(encode_operation(operation))


def operation_fault(operation: Any) -> str:
    """Why a value can be no operation, or nothing.

    An operation is plain data: null, booleans, finite numbers, text, bytes, lists, and maps with
    text for keys, in at most ``MAX_OPERATION_BYTES`` encoded. So everybody can digest it, show it
    and put it into an outcome.
    """
    try:
        data = encode_operation(operation)
        if len(data) > MAX_OPERATION_BYTES:
            return f"{len(data)} bytes encoded, at most {MAX_OPERATION_BYTES} are allowed"
        is_plain = _is_plain(msgspec.msgpack.decode(data))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"not encodable: {error}"
    return "" if is_plain else "it holds extension types, keys that are no text or no finite number"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes)


def batch_digest(coordination: str, request_ids: Sequence[bytes]) -> bytes:
    """``h("batch", coordination, request_ids...)``."""
    return tagged_hash("batch", coordination, *request_ids)


def null_digest(coordination: str, sequence: int) -> bytes:
    """``h("null_batch", coordination, sequence)``."""
    return tagged_hash("null_batch", coordination, sequence)


def next_root(root: bytes, sequence: int, digest: bytes, executed: Sequence[bytes]) -> bytes:
    """State root after a slot: it binds all earlier slots and what really executed (BYZ-10)."""
    return tagged_hash("replica_state", root, sequence, digest, *executed)
