"""What ``mabeam audit`` says about bundles: who signed them, and where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_log import decided, key_of

from mabeam.core.audit.bundle import Exporter, encode_bundle
from mabeam.core.audit.findings import Report
from mabeam.core.identity import KeyPair
from mabeam.infra.cli import audit
from mabeam.infra.cli import main as program
from mabeam.projections import database

LOG = decided()
ROOT = LOG.root.public_key
SIGNER = Exporter("coord-1", key_of("coord-1"), LOG.certificates["coord-1"])
IMPOSTOR = Exporter("coord-1", KeyPair.generate(), LOG.certificates["coord-1"])


def _audit(path: Path, verb: str, *options: str) -> int:
    command = ["audit", verb, "--bundle", str(path), "--root-key", ROOT.hex()]
    return program.run([*command, *options])


@pytest.mark.parametrize(
    ("exporter", "status", "said", "signed_by"),
    [
        (None, 0, "clean: unsigned; ", None),
        (SIGNER, 0, "clean: exported and signed by coord-1 at position 17; ", "coord-1"),
        (IMPOSTOR, 3, f"FAILED: {len(LOG.records)} records", None),
    ],
)
def test_the_exporter_is_told_if_the_signature_is_its_own(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    exporter: Exporter | None,
    status: int,
    said: str,
    signed_by: str | None,
) -> None:
    path = tmp_path / "c1.bundle"
    path.write_bytes(encode_bundle("c1", LOG.records, ROOT, position=17, exporter=exporter))
    assert _audit(path, "verify") == status
    assert capsys.readouterr().out.startswith(said)
    assert _audit(path, "verify", "--json") == status
    document = json.loads(capsys.readouterr().out)
    assert document["signed_by"] == signed_by
    assert document["signed_position"] == (17 if signed_by else None)


def test_a_damaged_bundle_is_named_by_line_and_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c1.bundle"
    data = encode_bundle("c1", LOG.records, ROOT).splitlines(keepends=True)
    data[3] = data[3].replace(b'"stored_ns":', b'"stored_ns":1', 1)
    path.write_bytes(b"".join(data))
    assert _audit(path, "verify") == 3
    finding = capsys.readouterr().out.splitlines()[1]
    assert _audit(path, "evidence") == 3
    first, hint = capsys.readouterr().err.splitlines()
    where = f"line 4, record {LOG.records[2].sequence} ("
    assert where in finding
    assert first.startswith(f"error[verification_failed]: bundle {path} is damaged: {where}")
    assert hint == f"hint: See all damage: mabeam audit verify --bundle {path}"


def test_the_mirror_is_called_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verified(*given: object) -> Report:
        return Report("log", ok=True, complete=True, first_divergence=None)

    monkeypatch.setattr(audit, "_verify_log", verified)
    monkeypatch.setattr(database, "check_schema", lambda engine: None)
    command = ["--database", "sqlite://", "audit", "verify", "--root-key", ROOT.hex(), "--all"]
    assert program.run([*command, "--source", "mirror"]) == 0
    assert capsys.readouterr().out.endswith(" coordinations (mirror)\n")
