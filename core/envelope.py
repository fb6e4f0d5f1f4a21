"""The event envelope: strict codec, identity and signature of one event.

On the wire an event is a msgpack array ``[header, signature, body]`` of byte strings; the header is
itself the msgpack encoding of a fixed-order array. The event id is SHA-256 of the header bytes and
the signature covers the id under a domain tag, so verification never re-encodes anything. Decoding
is strict: one value has exactly one encoding, hence exactly one id.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from .errors import PeerProtocolError, UsageError
from .hashing import sha256
from .names import AgentId, CoordinationId, TypeName

VERSION = 1
MAX_EVENT_BYTES = 256 * 1024
MAX_REFS = 1024
SIGNATURE_BYTES = 64
DOMAIN = b"mabeam/event/v1\0"

Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
KeyId = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is signed. Fields in wire order; see ``architecture`` in the documentation.

    Attributes:
        version: envelope version, 1.
        coordination: coordination id; names starting with ``_`` are global.
        epoch: SHA-256 of the ``coordination.opened`` body, empty before it exists.
        type: ``family.event_name``.
        author: id of the author.
        key_id: first 8 bytes of SHA-256 of the author's public key.
        author_seq: 0, 1, 2 … per (coordination, author).
        prev: id of the author's previous event here, 32 zero bytes for the first.
        refs: ids of the events this one answers or counts, at most 1,024.
        at_ns: the author's wall clock, nanoseconds since 1970, informative only.
        body_sha256: SHA-256 of the body bytes.
    """

    version: Natural
    coordination: CoordinationId
    epoch: Annotated[bytes, msgspec.Meta(max_length=32)]
    type: TypeName
    author: AgentId
    key_id: KeyId
    author_seq: Natural
    prev: Bytes32
    refs: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=MAX_REFS)]
    at_ns: Natural
    body_sha256: Bytes32


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    header: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    body: bytes


class Event(msgspec.Struct, frozen=True, gc=False):
    """One decoded event; its signature may not have been checked yet.

    Attributes:
        id: SHA-256 of the header bytes.
        header: the decoded header.
        header_bytes: the header as transported.
        signature: Ed25519 signature over :data:`DOMAIN` + id.
        body: the body bytes as transported.
        wire: the whole event as transported.
    """

    id: bytes
    header: Header
    header_bytes: bytes
    signature: bytes
    body: bytes
    wire: bytes


_header_decoder = msgspec.msgpack.Decoder(Header)
_wire_decoder = msgspec.msgpack.Decoder(_Wire)
_encoder = msgspec.msgpack.Encoder()


def malformed(message: str) -> PeerProtocolError:
    """The error for bytes that are not an event."""
    return PeerProtocolError("malformed", message)


def decode_event(wire: bytes) -> Event:
    """Decode ``wire`` strictly; signature and body content are not checked.

    Raises:
        PeerProtocolError: ``over_limit``, ``malformed``, ``unsupported_version`` or
        ``body_mismatch``.
    """
    if len(wire) > MAX_EVENT_BYTES:
        raise PeerProtocolError(
            "over_limit", f"event has {len(wire)} bytes, the limit is {MAX_EVENT_BYTES}"
        )
    try:
        parts = _wire_decoder.decode(wire)
        header = _header_decoder.decode(parts.header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"not an event: {error}") from None
    if header.version != VERSION:
        raise PeerProtocolError(
            "unsupported_version",
            f"envelope version {header.version}, this program knows {VERSION}",
        )
    if _encoder.encode(header) != parts.header or len(wire) != _wire_length(parts):
        raise malformed("the encoding is not canonical")
    if header.epoch and len(header.epoch) != 32:
        raise malformed(f"epoch has {len(header.epoch)} bytes, not 0 or 32")
    if sha256(parts.body) != header.body_sha256:
        raise PeerProtocolError("body_mismatch", "the body does not have the hash in the header")
    return Event(sha256(parts.header), header, parts.header, parts.signature, parts.body, wire)


def _wire_length(parts: _Wire) -> int:
    """Bytes of the canonical encoding: an array of three byte strings, shortest lengths.

    Any other encoding of the same parts is longer, so comparing lengths replaces encoding again.
    """
    header, body = len(parts.header), len(parts.body)
    heads = (2 if header < 1 << 8 else 3 if header < 1 << 16 else 5) + (
        2 if body < 1 << 8 else 3 if body < 1 << 16 else 5
    )
    return 3 + heads + header + SIGNATURE_BYTES + body


def signing_input(event_id: bytes) -> bytes:
    """The bytes an author signs."""
    return DOMAIN + event_id


def sign_event(header: Header, body: bytes, secret_key: bytes) -> Event:
    """Encode and sign an event.

    Args:
        header: complete header; ``body_sha256`` must belong to ``body``.
        body: encoded body.
        secret_key: 64-byte libsodium secret key (seed and public key).

    Raises:
        UsageError: the event would be larger than :data:`MAX_EVENT_BYTES`.
    """
    header_bytes = _encoder.encode(header)
    event_id = sha256(header_bytes)
    signature = crypto_sign(signing_input(event_id), secret_key)[:SIGNATURE_BYTES]
    wire = _encoder.encode(_Wire(header_bytes, signature, body))
    if len(wire) > MAX_EVENT_BYTES:
        raise UsageError(
            f"event {header.type} has {len(wire)} bytes, the limit is {MAX_EVENT_BYTES}",
            hint="Store the payload elsewhere and put its digest into the event.",
        )
    return Event(event_id, header, header_bytes, signature, body, wire)


def verify_signature(event_id: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether ``signature`` is ``public_key``'s signature of the event (releases the GIL)."""
    try:
        crypto_sign_open(signature + signing_input(event_id), public_key)
    except BadSignatureError:
        return False
    return True
