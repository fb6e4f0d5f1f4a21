"""Bundles: one coordination as one file that verifies with nothing but the root public key.

A bundle is lines of canonical JSON: a header, the records of the registry and of the coordination
in log order, and a manifest. Every line ends with the SHA-256 of its other fields and the
manifest holds that of everything before it, optionally signed by the exporter. Decoding is
strict: what is read must encode to the very bytes of the line, so a changed byte anywhere is
found, and the line it is in.

Whoever makes a bundle can make the checksums. What cannot be made is signed: the events by their
authors and, in a signed bundle, everything else (positions, subjects, storage times) by the
exporter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from nacl.bindings import crypto_sign

from ..envelope import decode_event
from ..errors import LimitError, NotFoundError, PeerProtocolError
from ..hashing import sha256
from ..identity import KeyPair
from ..log import EventLog, Record
from ..names import REGISTRY
from .bundle_lines import (
    MAX_LINE_BYTES,
    Damage,
    Entry,
    Header,
    Line,
    Manifest,
    Registry,
    describe,
    read_line,
    seal,
)

DOMAIN = b"mabeam/bundle/v1\0"
MAX_BUNDLE_BYTES = 256 * 1024 * 1024
MAX_COMPLETE_REGISTRY_BYTES = 16 * 1024 * 1024
"""A larger registry is exported only as far as it concerns the ids involved; the opening can then
be checked against the embedded certificates, but not recomputed."""


class Exporter(msgspec.Struct, frozen=True):
    """Who signs a bundle.

    Attributes:
        id: its id.
        key: its event key.
        certificate: the certificate the root issued for that key.
    """

    id: str
    key: KeyPair
    certificate: bytes


class Bundle(msgspec.Struct, frozen=True):
    """The content of an undamaged bundle."""

    header: Header
    records: tuple[Record, ...]
    manifest: Manifest


# Writing ------------------------------------------------------------------------------------------


def encode_bundle(
    coordination: str,
    records: Iterable[Record],
    root_public_key: bytes,
    *,
    position: int = 0,
    log_created_ns: int = 0,
    registry: Registry = "complete",
    exporter: Exporter | None = None,
) -> bytes:
    """Write a bundle.

    Args:
        coordination: id of the coordination.
        records: its records and those of the registry, in log order.
        root_public_key: the deployment's root key.
        position: head of the log; the last record's if 0.
        log_created_ns: creation time of the log, if known.
        registry: whether the registry is complete up to the last record.
        exporter: who signs; unsigned without.

    Raises:
        LimitError: it would be larger than :data:`MAX_BUNDLE_BYTES`.
    """
    entries = [Entry(r.sequence, r.stored_ns, r.subject, r.wire) for r in records]
    head = position or (entries[-1].sequence if entries else 0)
    header = Header(
        "mabeam-bundle",
        1,
        coordination,
        sha256(root_public_key).hex(),
        log_created_ns,
        head,
        registry,
    )
    lines: list[Line] = [header, *entries]
    data = b"".join(map(seal, lines))
    if len(data) > MAX_BUNDLE_BYTES - MAX_LINE_BYTES:
        raise LimitError(
            f"the bundle of {coordination!r} would have {len(data)} bytes, the limit is "
            f"{MAX_BUNDLE_BYTES}",
            hint="Audit it in the log with 'mabeam audit verify'.",
        )
    manifest = Manifest(len(entries), sha256(data).hex())
    if exporter is not None:
        signature = crypto_sign(DOMAIN + sha256(data), exporter.key.secret_key)[:64]
        manifest = msgspec.structs.replace(
            manifest,
            exporter=exporter.id,
            certificate=exporter.certificate,
            signature=signature,
        )
    return data + seal(manifest)


async def export_coordination(
    log: EventLog, coordination: str, root_public_key: bytes, exporter: Exporter | None = None
) -> bytes:
    """Export a coordination from a log.

    Raises:
        NotFoundError: the log holds no record of it.
        LimitError: see :func:`encode_bundle`.
        LogUnavailableError: the log cannot be read.
    """
    head = await log.head()
    records = await log.read(coordination)
    if not records:
        raise NotFoundError(
            f"the log holds nothing of {coordination!r}", hint="See 'mabeam coord ls'."
        )
    last = records[-1].sequence
    registry = [each for each in await log.read(REGISTRY) if each.sequence <= last]
    complete = sum(len(each.wire) for each in registry) <= MAX_COMPLETE_REGISTRY_BYTES
    if not complete:
        registry = registry_of(registry, records)
    return encode_bundle(
        coordination,
        sorted((*registry, *records), key=lambda record: record.sequence),
        root_public_key,
        position=max(head.sequence, last),
        log_created_ns=head.created_ns,
        registry="complete" if complete else "partial",
        exporter=exporter,
    )


def registry_of(registry: Iterable[Record], records: Sequence[Record]) -> list[Record]:
    """The registry records that concern the authors of the other records."""
    involved = {record.subject.rpartition(".")[2] for record in records}
    return [record for record in registry if _concerns(record, involved)]


def _concerns(record: Record, involved: set[str]) -> bool:
    try:
        event = decode_event(record.wire)
        body = msgspec.msgpack.decode(event.body)
        if "certificate" in body:
            certificate, _ = msgspec.msgpack.decode(body["certificate"])
            return msgspec.msgpack.decode(certificate)["id"] in involved
        return body.get("agent_id", event.header.author) in involved
    except (PeerProtocolError, msgspec.MsgspecError, TypeError, ValueError, KeyError):
        return False


# Reading ------------------------------------------------------------------------------------------


def decode_bundle(data: bytes) -> tuple[Bundle | None, list[Damage]]:
    """Read a bundle; never raises.

    Returns:
        The bundle and no damage, or ``None`` and every damaged line.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        return None, [Damage(0, "file", f"larger than the limit of {MAX_BUNDLE_BYTES} bytes")]
    raw = data.split(b"\n")
    if raw.pop() != b"":
        raw.append(data.rpartition(b"\n")[2])
        return None, [describe(len(raw), raw[-1], "the file does not end with a complete line")]
    lines: list[Line] = []
    damage: list[Damage] = []
    for number, each in enumerate(raw, 1):
        line, fault = read_line(each)
        if line is None:
            damage.append(describe(number, each, fault))
        else:
            lines.append(line)
    return (None, damage) if damage else _assemble(data, raw, lines)


def _assemble(
    data: bytes, raw: list[bytes], lines: list[Line]
) -> tuple[Bundle | None, list[Damage]]:
    damage = []
    header = lines[0] if lines else None
    manifest = lines[-1] if lines else None
    entries = [line for line in lines[1:-1] if isinstance(line, Entry)]
    if not isinstance(header, Header):
        damage.append(Damage(1, "header", "the first line is no header"))
    if not isinstance(manifest, Manifest):
        damage.append(Damage(len(raw), "manifest", "the last line is no manifest: cut off"))
    if len(entries) != len(lines) - 2:
        damage.append(Damage(0, "file", "a header or manifest stands between the records"))
    if not isinstance(header, Header) or not isinstance(manifest, Manifest) or damage:
        return None, damage
    if manifest.records != len(entries):
        message = f"it counts {manifest.records} records, the file has {len(entries)}"
        damage.append(Damage(len(raw), "manifest", message))
    if manifest.digest != sha256(data[: len(data) - len(raw[-1]) - 1]).hex():
        message = (
            "its digest is not that of the lines before it: one was replaced, added or left out"
        )
        damage.append(Damage(len(raw), "manifest", message))
    if damage:
        return None, damage
    records = tuple(Record(e.sequence, e.stored_ns, e.subject, e.wire) for e in entries)
    return Bundle(header, records, manifest), []
