"""Audit of a bundle: the file first, then what is in it, with nothing but the root public key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from ..errors import NotFoundError, VerificationError
from ..hashing import sha256
from ..identity import verify_certificate
from ..machine import Protocols
from ..names import REGISTRY
from .auditor import Auditor
from .bundle import DOMAIN, MAX_BUNDLE_BYTES, Bundle, decode_bundle
from .bundle_lines import Damage
from .findings import Finding, Findings, Report


def verify_bundle(
    source: Path | str | bytes, root_public_key: bytes, protocols: Protocols
) -> Report:
    """Audit a bundle. No content makes this raise.

    Args:
        source: the file, or its bytes.
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.

    Raises:
        NotFoundError: there is no such file.
    """
    bundle, damage = decode_bundle(source if isinstance(source, bytes) else read_file(Path(source)))
    if bundle is None:
        findings = Findings()
        for each in damage:
            findings.add(_damaged(each))
        return findings.report("bundle")
    auditor = Auditor(
        root_public_key,
        protocols,
        scope="selection",
        source="bundle",
        registry_gaps=bundle.header.registry == "complete",
    )
    faults = list(_file_findings(bundle, root_public_key))
    for finding in faults:
        auditor.findings.add(finding)
    if not any(finding.code == "wrong_root" for finding in faults):
        auditor.feed(bundle.records)
        _check_exporter(auditor, bundle)
    return auditor.finish(single=bundle.header.coordination)


def read_file(path: Path) -> bytes:
    """The bytes of a bundle, one more than the limit at most.

    Raises:
        NotFoundError: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read bundle {path}: {error.strerror}") from None


def _damaged(damage: Damage) -> Finding:
    message = f"line {damage.line}, {damage.where}: {damage.message}"
    return Finding("wrong", "damaged_bundle", message, damage.sequence)


def _file_findings(bundle: Bundle, root_public_key: bytes) -> Iterator[Finding]:
    header = bundle.header
    if header.root != sha256(root_public_key).hex():
        given = root_public_key.hex()
        message = f"line 1, header: it belongs to another root key than {given}"
        yield Finding("wrong", "wrong_root", message)
        return
    strangers = [
        record.sequence
        for record in bundle.records
        if record.subject.split(".", 4)[3:4] not in ([REGISTRY], [header.coordination])
    ]
    if strangers:
        message = "a record of neither the coordination nor the registry"
        yield Finding("wrong", "foreign_record", message, strangers[0])
    last = max((record.sequence for record in bundle.records), default=0)
    if last > header.position:
        message = f"line 1, header: exported at position {header.position}, but holds {last}"
        yield Finding("wrong", "damaged_bundle", message)
    if not any(
        record.subject.split(".", 4)[3:4] == [header.coordination] for record in bundle.records
    ):
        message = f"it holds no record of {header.coordination!r}"
        yield Finding("incomplete", "empty_bundle", message, coordination=header.coordination)
    if problem := _signature_problem(bundle, root_public_key):
        yield Finding("wrong", "wrong_exporter", f"manifest: {problem}")


def _signature_problem(bundle: Bundle, root_public_key: bytes) -> str:
    manifest = bundle.manifest
    if not (manifest.exporter or manifest.certificate or manifest.signature):
        return ""
    try:
        certificate = verify_certificate(manifest.certificate, root_public_key)
        crypto_sign_open(
            manifest.signature + DOMAIN + bytes.fromhex(manifest.digest), certificate.event_key
        )
    except VerificationError as error:
        return str(error)
    except (BadSignatureError, ValueError, TypeError):
        return f"the signature is not that of {manifest.exporter!r}"
    if certificate.id != manifest.exporter:
        return f"the certificate is that of {certificate.id!r}, not of {manifest.exporter!r}"
    return ""


def _check_exporter(auditor: Auditor, bundle: Bundle) -> None:
    """Warn about an exporter whose key had ended by the last record."""
    exporter = bundle.manifest.exporter
    entry = auditor.registry.keyring.current(exporter)
    known = auditor.registry.keyring.history(exporter)
    if (
        exporter
        and known
        and (entry is None or entry.certificate_wire != bundle.manifest.certificate)
    ):
        message = f"manifest: the key with which {exporter!r} signed had ended"
        auditor.findings.add(Finding("warning", "ended_exporter", message))
