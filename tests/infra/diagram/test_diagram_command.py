"""``mabeam coord diagram`` over an exported bundle, without any deployment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_log import AuditLog, decided

from mabeam.core.audit.bundle import encode_bundle
from mabeam.infra.cli.main import run


@pytest.fixture
def log() -> AuditLog:
    """A decided coordination."""
    return decided()


@pytest.fixture
def command(log: AuditLog, tmp_path: Path) -> list[str]:
    """The command line over its bundle."""
    data = encode_bundle("c1", log.records, log.root.public_key, position=len(log.records))
    path = tmp_path / "c1.bundle"
    path.write_bytes(data)
    root = log.root.public_key.hex()
    home = ["--home", str(tmp_path / "none")]
    return [*home, "coord", "diagram", "--bundle", str(path), "--root-key", root]


def test_a_bundle_is_drawn(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "c1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("c1: simple_consensus\n")
    assert "coord-1 decided: agree" in shown
    assert run(command) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(("form", "start"), [("svg", "<svg "), ("mermaid", "sequenceDiagram\n")])
def test_it_is_written_to_a_file(
    command: list[str], form: str, start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "drawn"
    assert run([*command, "--format", form, "--output", str(target)]) == 0
    assert target.read_text(encoding="utf-8").startswith(start)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{target}: 8 events\n"


def test_the_model_is_printed_as_json(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    assert [lane["name"] for lane in model["lanes"]] == ["client", "coord-1", "a-1", "a-2", "a-3"]
    assert model["rows"][-1]["kind"] == "ending"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda words: [*words, "other"], 4, "holds 'c1', not 'other'"),
        (lambda words: words[:4], 2, "say what to draw"),
        (lambda words: words[:-2], 2, "which root key"),
        (lambda words: [*words, "--output", "/no/such/folder/x"], 2, "cannot write"),
    ],
)
def test_what_cannot_be_drawn(
    command: list[str],
    change: object,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert callable(change)
    assert run(change(command)) == code
    assert message in capsys.readouterr().err


def test_a_damaged_bundle_is_not_drawn(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(command[command.index("--bundle") + 1])
    path.write_bytes(path.read_bytes()[:-40])
    assert run(command) == 3
    assert "error[" in capsys.readouterr().err
