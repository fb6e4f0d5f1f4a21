"""The lines of a bundle: their fields, their one encoding and the description of a damaged one."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal

import msgspec

from ..envelope import Natural, decode_event
from ..errors import PeerProtocolError
from ..hashing import sha256
from ..identity import MAX_CERTIFICATE_BYTES
from ..log import MAX_RECORD_BYTES, MAX_SUBJECT_LENGTH
from ..names import CoordinationId

MAX_LINE_BYTES = 2 * MAX_RECORD_BYTES
"""A third more than a largest record for base64, and its subject with every byte escaped."""

Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Registry = Literal["complete", "partial"]


class Header(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="header", tag_field="line"
):
    """First line.

    Attributes:
        format, version: what this file is.
        coordination: the coordination exported.
        root: SHA-256 of the root public key it verifies under.
        log_created_ns: when the log was created; another value means another log.
        position: head of the log when it was exported.
        registry: whether all registry events up to the coordination's last are included.
        sha256: over the line without this field.
    """

    format: Literal["mabeam-bundle"]
    version: Literal[1]
    coordination: CoordinationId
    root: Hex32
    log_created_ns: Natural
    position: Natural
    registry: Registry
    sha256: str = ""


class Entry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="record", tag_field="line"
):
    """A record as stored, junk included: whatever a log can hold; ``wire`` in base64."""

    sequence: Natural
    stored_ns: Natural
    subject: Annotated[str, msgspec.Meta(max_length=MAX_SUBJECT_LENGTH)]
    wire: Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)]
    sha256: str = ""


class Manifest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="manifest", tag_field="line"
):
    """Last line.

    Attributes:
        records: number of record lines.
        digest: SHA-256 of all bytes before this line.
        exporter: id that signed, or empty.
        certificate: its certificate, or empty.
        signature: Ed25519 over :data:`DOMAIN` + digest, or empty.
        sha256: over the line without this field.
    """

    records: Natural
    digest: Hex32
    exporter: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{0,32}\Z")] = ""
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)] = b""
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    sha256: str = ""


Line = Header | Entry | Manifest


class Damage(msgspec.Struct, frozen=True):
    """A line that is not what it must be.

    Attributes:
        line: its number, from 1.
        where: ``header``, ``manifest`` or the record's position, type and author, if readable.
        message: what is wrong with it.
        sequence: the record's position if readable, else 0.
    """

    line: int
    where: str
    message: str
    sequence: int = 0


_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_MANIFEST = re.compile(rb'"line":"manifest"|"digest":"|"exporter":"')
_SEQUENCE = re.compile(rb'"sequence":([0-9]{1,19})[,}]')
_SUBJECT = re.compile(rb'"subject":"([a-z0-9_.-]{1,256})"')
_WIRE = re.compile(rb'"wire":"([A-Za-z0-9+/=]+)"')


def seal(line: Line) -> bytes:
    """The bytes of a line, checksum and line feed included."""
    unsealed = msgspec.json.encode(msgspec.structs.replace(line, sha256=""))
    sealed = msgspec.structs.replace(line, sha256=sha256(unsealed).hex())
    return msgspec.json.encode(sealed) + b"\n"


def read_line(raw: bytes) -> tuple[Line | None, str]:
    """The line, or ``None`` and what is wrong with it."""
    if len(raw) > MAX_LINE_BYTES:
        return None, "the line is too long"
    try:
        line = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return None, f"unreadable: {error}"
    if seal(line) == raw + b"\n":
        return line, ""
    if msgspec.json.encode(line) == raw:
        return None, "the content does not have the checksum of the line"
    return None, "the encoding is not canonical"


def describe(number: int, raw: bytes, message: str) -> Damage:
    """Name a damaged line by whatever of it is still readable."""
    if number == 1 or _MANIFEST.search(raw):
        return Damage(number, "header" if number == 1 else "manifest", message)
    sequence = _SEQUENCE.search(raw)
    place = int(sequence[1]) if sequence else 0
    return Damage(number, f"record {place or '?'} ({_signed(raw)})", message, place)


def _signed(raw: bytes) -> str:
    """Type and author of a record, from the event if it decodes, else from its subject."""
    wire, subject = _WIRE.search(raw), _SUBJECT.search(raw)
    try:
        header = decode_event(base64.b64decode(wire[1] if wire else b"", validate=True)).header
        return f"{header.type} by {header.author}"
    except (PeerProtocolError, ValueError):
        tokens = subject[1].decode().split(".") if subject else []
        return f"{tokens[5]} by {tokens[7]}" if len(tokens) == 8 else "unreadable"
