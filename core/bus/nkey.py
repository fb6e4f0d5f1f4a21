"""NATS user keys in their textual form (NKEYS): base32 of prefix, key bytes and CRC-16."""

from __future__ import annotations

import base64
import binascii

from nacl.bindings import crypto_sign_seed_keypair

from ..errors import UsageError

_SEED_PREFIX = 18 << 3
_USER_PREFIX = 20 << 3


def encode_user_seed(seed: bytes) -> str:
    """The ``SU…`` text of a 32-byte Ed25519 seed; keep it secret."""
    if len(seed) != 32:
        raise UsageError(f"an nkey seed has 32 bytes, not {len(seed)}")
    prefix = bytes([_SEED_PREFIX | (_USER_PREFIX >> 5), (_USER_PREFIX & 31) << 3])
    return _encode(prefix + seed)


def user_public_key(seed: bytes) -> str:
    """The ``U…`` text of the public key that belongs to a 32-byte seed."""
    public_key, _ = crypto_sign_seed_keypair(seed)
    return _encode(bytes([_USER_PREFIX]) + public_key)


def _encode(raw: bytes) -> str:
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode("ascii").rstrip("=")
