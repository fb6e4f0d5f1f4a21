"""What is voted on: its canonical bytes, its digest and its limit.

Every vote names the digest of the proposal it answers (SIM-1), so a vote can never be counted for a
text its author has not seen. A proposal too large for the configuration is stored elsewhere and its
digest is proposed instead.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...core.hashing import sha256

MAX_PROPOSAL_BYTES = 64 * 1024

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def encode_proposal(proposal: Any) -> bytes:
    """Canonical bytes of a proposal: msgpack with sorted keys.

    Raises:
        TypeError, ValueError, OverflowError: the value has no msgpack form.
    """
    return _encoder.encode(proposal)


def proposal_digest(proposal: Any) -> bytes:
    """SHA-256 of :func:`encode_proposal`, 32 bytes."""
    return sha256(encode_proposal(proposal))
