"""Tagged hashes and integer arithmetic shared by all folds (specification 1.2 and 1.4)."""

from __future__ import annotations

import hashlib
from decimal import ROUND_HALF_EVEN, Context, Decimal

PPM = 1_000_000
"""One, in parts per million."""

ZERO32 = bytes(32)

_DECIMAL = Context(prec=28, rounding=ROUND_HALF_EVEN)
_MICRO = Decimal("0.000001")


def sha256(data: bytes) -> bytes:
    """SHA-256 of ``data``, 32 bytes."""
    return hashlib.sha256(data).digest()


def tagged_hash(tag: str, *parts: str | int | bytes) -> bytes:
    """``h(tag, p1, …, pk)`` of COM-11: 32 bytes, injective in its parts.

    Strings enter as UTF-8 and integers as decimal text, each preceded by its length in 8 bytes.
    """
    digest = hashlib.sha256(b"mabeam/" + tag.encode("ascii") + b"\0")
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def merkle_root(leaves: list[bytes]) -> bytes:
    """Root over the sorted leaves (RFC 6962 hashing); 32 zero bytes for no leaves."""
    level = [sha256(b"\0" + leaf) for leaf in sorted(leaves)]
    if not level:
        return ZERO32
    while len(level) > 1:
        pairs = [sha256(b"\1" + a + b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return level[0]


def need(total: int, share_ppm: int) -> int:
    """``need(W, t)``: the smallest weight that is at least ``share_ppm`` of ``total``."""
    return -(-total * share_ppm // PPM)


def ln_micro(numerator: int, denominator: int) -> int:
    """``10^6 * ln(numerator / denominator)`` rounded half-even to an integer (COM-2)."""
    ratio = _DECIMAL.divide(Decimal(numerator), Decimal(denominator))
    return int((_DECIMAL.ln(ratio)).quantize(_MICRO, context=_DECIMAL) * PPM)


def power_micro(base_micro: int, exponent: str) -> int:
    """``base ^ exponent`` in micro-units, 28 digits, rounded half-even (COM-2)."""
    base = _DECIMAL.divide(Decimal(base_micro), Decimal(PPM))
    power = _DECIMAL.power(base, Decimal(exponent))
    return int(power.quantize(_MICRO, context=_DECIMAL) * PPM)


def tie_rank(beacon: bytes, coordination: str, item: str) -> bytes:
    """Tie rank of ``item`` (COM-12); the smallest value wins."""
    return tagged_hash("tie", beacon, coordination, item)
