"""A bundle verifies with the root public key alone, and no byte of it can change unnoticed."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from audit_log import AuditLog, decided, key_of, opened
from audit_tampering import accused, first
from hypothesis import given, settings
from hypothesis import strategies as st

from mabeam.core.audit import bundle as bundle_module
from mabeam.core.audit.bundle import (
    Exporter,
    decode_bundle,
    encode_bundle,
    export_coordination,
    registry_of,
)
from mabeam.core.audit.bundle_audit import verify_bundle
from mabeam.core.audit.bundle_lines import MAX_LINE_BYTES, Entry, Header, Line, Manifest, seal
from mabeam.core.audit.bundle_log import BundleLog
from mabeam.core.audit.findings import Report
from mabeam.core.audit.verify import audit_coordination, audit_log
from mabeam.core.errors import (
    AppendRefusedError,
    LimitError,
    NotFoundError,
    VerificationError,
)
from mabeam.core.hashing import sha256
from mabeam.core.identity import KeyPair
from mabeam.core.log import MAX_RECORD_BYTES, MAX_SUBJECT_LENGTH, Record
from mabeam.core.names import REGISTRY
from mabeam.protocols import PROTOCOLS

LOG = decided()
ROOT = LOG.root.public_key
SIGNER = Exporter("coord-1", key_of("coord-1"), LOG.certificates["coord-1"])
PLAIN = encode_bundle("c1", LOG.records, ROOT, position=17)
SIGNED = encode_bundle("c1", LOG.records, ROOT, position=17, exporter=SIGNER)


def verify(data: bytes, root: bytes = ROOT) -> Report:
    """Audit a bundle with nothing but the root public key."""
    return verify_bundle(data, root, PROTOCOLS)


@pytest.mark.parametrize("data", [PLAIN, SIGNED])
def test_a_bundle_verifies(data: bytes, tmp_path: Path) -> None:
    report = verify(data)
    assert report.clean
    assert report.findings == ()
    assert (report.source, report.coordinations, report.endings) == ("bundle", 1, {"decided": 1})
    assert report.ending is not None
    assert report.ending.content["outcome"]["decision"] == "agree"
    path = tmp_path / "c1.bundle"
    path.write_bytes(data)
    assert verify_bundle(path, ROOT, PROTOCOLS) == report
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_a_changed_byte_anywhere_is_found_and_its_line_named() -> None:
    generator = random.Random(7)
    starts = [0]
    for line in SIGNED.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for at in range(len(SIGNED)):
        data = bytearray(SIGNED)
        data[at] ^= 1 << generator.randrange(8)
        bundle, damage = decode_bundle(bytes(data))
        assert bundle is None, at
        number = next(n for n, start in enumerate(starts) if start > at)
        is_line_feed = at + 1 in starts
        assert damage[0].line in ((number, number - 1) if is_line_feed else (number,)), at


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_changed_byte_fails_the_audit(at: int, change: int) -> None:
    data = bytearray(SIGNED)
    data[at] ^= change
    report = verify(bytes(data))
    assert not report.ok
    found = first(report)
    assert found.code == "damaged_bundle"
    assert found.message.startswith("line ")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert not verify(data).ok
    assert not verify(SIGNED + data + b"\n").ok
    assert not verify(data + b"\n" + SIGNED).ok


def test_the_damaged_event_is_named() -> None:
    lines = SIGNED.splitlines(keepends=True)
    line = bytearray(lines[14])
    line[-20] ^= 1
    report = verify(b"".join([*lines[:14], bytes(line), *lines[15:]]))
    assert first(report).message.startswith("line 15, record 14 (simple.vote_cast by a-1)")
    assert first(report).sequence == 14


@pytest.mark.parametrize("change", ["drop", "double", "swap", "cut", "append", "no line feed"])
def test_lines_cannot_be_moved(change: str) -> None:
    lines = SIGNED.splitlines(keepends=True)
    changed = {
        "drop": [*lines[:14], *lines[15:]],
        "double": [*lines[:15], *lines[14:]],
        "swap": [*lines[:14], lines[15], lines[14], *lines[16:]],
        "cut": lines[:-1],
        "append": [*lines, lines[3]],
        "no line feed": [*lines[:-1], lines[-1].rstrip(b"\n")],
    }[change]
    report = verify(b"".join(changed))
    assert not report.ok
    assert first(report).code == "damaged_bundle"
    assert "line " in first(report).message


# With new checksums -------------------------------------------------------------------------------


def resealed(data: bytes, number: int, **fields: object) -> bytes:
    """The bundle with one line changed and all checksums made to fit; a signature stays."""
    decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
    lines = [decoder.decode(line) for line in data.splitlines()]
    lines[number] = msgspec.structs.replace(lines[number], **fields)
    body = b"".join(map(seal, lines[:-1]))
    manifest = lines[-1]
    assert isinstance(manifest, Manifest)
    return body + seal(msgspec.structs.replace(manifest, digest=sha256(body).hex()))


def line_of(data: bytes, number: int) -> Line:
    """A decoded line."""
    line: Line = msgspec.json.decode(data.splitlines()[number], type=Line)
    return line


@pytest.mark.parametrize("number", range(1, 18))
def test_whoever_fits_the_checksums_still_cannot_change_an_event(number: int) -> None:
    entry = line_of(PLAIN, number)
    assert isinstance(entry, Entry)
    for bit in range(3, 8 * len(entry.wire), 8 * 23 + 5):
        wire = bytearray(entry.wire)
        wire[bit // 8] ^= 1 << bit % 8
        report = verify(resealed(PLAIN, number, wire=bytes(wire)))
        assert not report.clean, bit
        assert accused(report) == set(), bit
        assert number in {finding.sequence for finding in report.findings}, bit


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (0, {"position": 18}),
        (0, {"log_created_ns": 5}),
        (0, {"registry": "partial"}),
        (14, {"stored_ns": 1_700_000_000_014_000_001}),
        (14, {"subject": "mabeam.v1.evt.c1.pub.simple_vote_cast.n2.a-1"}),
        (17, {"sequence": 18}),
    ],
)
def test_a_signed_bundle_protects_what_the_authors_did_not_sign(
    number: int, fields: dict[str, object]
) -> None:
    report = verify(resealed(SIGNED, number, **fields))
    assert not report.ok
    assert "wrong_exporter" in {finding.code for finding in report.findings}
    assert accused(report) == set()


def test_the_manifest_counts_the_records() -> None:
    manifest = line_of(PLAIN, -1)
    assert isinstance(manifest, Manifest)
    lines = PLAIN.splitlines(keepends=True)
    report = verify(b"".join([*lines[:-1], seal(msgspec.structs.replace(manifest, records=16))]))
    assert first(report).message == ("line 19, manifest: it counts 16 records, the file has 17")


def test_a_bundle_of_another_root_is_refused() -> None:
    report = verify(PLAIN, KeyPair(b"\1" * 32).public_key)
    assert not report.ok
    assert "wrong_root" in {finding.code for finding in report.findings}


def test_the_header_cannot_name_another_coordination() -> None:
    report = verify(resealed(PLAIN, 0, coordination="c2"))
    assert not report.ok
    assert {finding.code for finding in report.findings} >= {"foreign_record", "empty_bundle"}


@pytest.mark.parametrize(
    "signer",
    [
        Exporter("coord-1", key_of("coord-2"), LOG.certificates["coord-1"]),
        Exporter("coord-2", key_of("coord-1"), LOG.certificates["coord-1"]),
        Exporter("coord-1", key_of("coord-1"), b"none"),
        Exporter(
            "coord-1",
            key_of("coord-1"),
            AuditLog(root=KeyPair(b"\1" * 32)).certify("coord-1", ["coordinator"]),
        ),
    ],
)
def test_an_exporter_must_be_certified(signer: Exporter) -> None:
    report = verify(encode_bundle("c1", LOG.records, ROOT, exporter=signer))
    assert not report.ok
    assert first(report).code == "wrong_exporter"


def test_an_exporter_whose_key_had_ended_is_a_warning() -> None:
    log = decided()
    log.revoke("coord-1")
    report = verify(encode_bundle("c1", log.records, ROOT, exporter=SIGNER))
    assert report.clean
    assert [finding.code for finding in report.findings] == ["ended_exporter"]


# What is left out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", range(1, 17))
def test_a_record_left_out_leaves_the_bundle_incomplete(sequence: int) -> None:
    records = [record for record in LOG.records if record.sequence != sequence]
    report = verify(encode_bundle("c1", records, ROOT))
    assert not report.clean
    assert accused(report) == set()


def test_a_bundle_without_its_end_is_open() -> None:
    report = verify(encode_bundle("c1", LOG.records[:-1], ROOT))
    assert report.endings == {"open": 1}


def test_a_part_of_the_registry_proves_all_but_the_opening() -> None:
    log = decided()
    mine = [record for record in log.records if ".c1." in record.subject]
    registry = [record for record in log.records if f".{REGISTRY}." in record.subject]
    stranger = AuditLog(root=log.root)
    stranger.admit("stranger", "agent")
    part = registry_of([*registry, *stranger.records], mine)
    assert [record.sequence for record in part] == [1, 3, 4, 5, 6, 7, 8, 9]
    records = sorted((*part, *mine), key=lambda record: record.sequence)
    report = verify(encode_bundle("c1", records, ROOT, registry="partial"))
    assert report.ok
    assert [finding.code for finding in report.findings] == ["registry_incomplete"]
    assert report.endings == {"decided": 1}


def test_an_empty_bundle_proves_nothing() -> None:
    report = verify(encode_bundle("c1", [], ROOT))
    assert report.ok
    assert not report.complete


def test_a_false_result_in_a_bundle_convicts_its_coordinator() -> None:
    log = opened(threshold_ppm=1_000_000)
    for number in (1, 2, 3):
        log.vote(f"a-{number}")
    due = log.next()
    log.append("coord-1", due.type, due.body, refs=due.refs[:1])
    report = verify(encode_bundle("c1", log.records, ROOT))
    assert (first(report).code, first(report).culprit) == ("wrong_outcome", "coord-1")


# Limits and logs ----------------------------------------------------------------------------------


def test_the_size_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundle_module, "MAX_BUNDLE_BYTES", MAX_LINE_BYTES + 4096)
    with pytest.raises(LimitError, match="limit"):
        encode_bundle("c1", LOG.records, ROOT)
    report = verify(PLAIN.ljust(bundle_module.MAX_BUNDLE_BYTES + 1))
    assert first(report).code == "damaged_bundle"
    assert "larger" in first(report).message


@pytest.mark.parametrize(
    ("token", "wire"),
    [
        ("x" * 300, b"junk"),
        ("\0" * (MAX_SUBJECT_LENGTH - 40), b"junk"),
        ('\ufffd"\\\n', b"junk"),
        ("x", bytes(MAX_RECORD_BYTES)),
        ("\0" * (MAX_SUBJECT_LENGTH - 40), bytes(MAX_RECORD_BYTES)),
    ],
    ids=["long", "escaped", "strange", "large", "both"],
)
async def test_junk_as_large_as_a_log_takes_it_does_not_spoil_a_bundle(
    token: str, wire: bytes
) -> None:
    log = decided()
    log.store(wire, f"mabeam.v1.evt.c1.pub.{token}.n1.a-1")
    data = encode_bundle("c1", log.records, log.root.public_key, position=len(log.records))
    bundle, damage = decode_bundle(data)
    assert bundle is not None
    assert (list(bundle.records), damage) == (log.records, [])
    report = verify(data, log.root.public_key)
    assert (report.ok, report.complete) == (True, True)


@pytest.mark.parametrize(
    ("subject", "wire"),
    [("x" * (MAX_SUBJECT_LENGTH + 1), b""), ("x", bytes(MAX_RECORD_BYTES + 1))],
    ids=["subject", "wire"],
)
def test_what_no_log_takes_is_no_record(subject: str, wire: bytes) -> None:
    data = encode_bundle("c1", [Record(1, 1, subject, wire)], ROOT)
    bundle, damage = decode_bundle(data)
    assert bundle is None
    assert [each.line for each in damage] == [2]


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot read bundle"):
        verify_bundle(tmp_path / "none", ROOT, PROTOCOLS)


async def test_a_bundle_is_a_log() -> None:
    log = BundleLog(SIGNED)
    assert (await log.head()).sequence == 17
    assert await log.read("c1", 15) == LOG.records[15:]
    assert [record async for record in log.follow(REGISTRY)] == LOG.records[:9]
    assert [batch async for batch in log.read_all(10)] == [LOG.records[10:]]
    assert [batch async for batch in log.follow_all()] == []
    assert await log.record_at(3) == LOG.records[2]
    assert await log.record_at(99) is None
    with pytest.raises(AppendRefusedError):
        await log.append_many([])


async def test_a_bundle_of_a_bundle_is_the_same() -> None:
    log = BundleLog(PLAIN)
    assert await export_coordination(log, "c1", ROOT) == PLAIN
    with pytest.raises(NotFoundError):
        await export_coordination(log, "c2", ROOT)


async def test_logs_are_audited_as_a_whole_or_by_coordination() -> None:
    log = BundleLog(PLAIN)
    whole = await audit_log(log, ROOT, PROTOCOLS)
    assert whole.clean
    assert whole.last_sequence == 17
    single = await audit_coordination(log, "c1", ROOT, PROTOCOLS)
    assert single.clean
    assert single.ending is not None
    with pytest.raises(NotFoundError):
        await audit_coordination(log, "c2", ROOT, PROTOCOLS)


def test_a_damaged_bundle_is_no_log() -> None:
    with pytest.raises(VerificationError, match="line 1, header"):
        BundleLog(SIGNED.replace(b'"header"', b'"Header"', 1))


async def test_a_large_registry_is_exported_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_COMPLETE_REGISTRY_BYTES", 100)
    data = await export_coordination(BundleLog(PLAIN), "c1", ROOT)
    header = line_of(data, 0)
    assert isinstance(header, Header)
    assert header.registry == "partial"
    assert verify(data).ok
    assert not verify(data).complete
