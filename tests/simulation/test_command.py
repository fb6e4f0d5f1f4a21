"""``mabeam sim``: figures, failing seeds with how to run them again, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from mabeam.core.journal import Journal
from mabeam.core.sim.run import Case
from mabeam.infra.cli.main import run


def test_run_reports_schedules_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "run", "--seed", "3", "--runs", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == 4
    assert told["per_second"] > 0
    assert told["failures"] == []


def test_failing_seed_is_printed_with_how_to_run_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "find", lambda journal, coordination, key: None)
        assert run(["sim", "run", "--seed", "1", "--runs", "12"]) == 1
    out = capsys.readouterr().out
    again = next(line.partition("again with: ")[2] for line in out.splitlines() if "again" in line)
    kept = next(line.partition("kept: ")[2] for line in out.splitlines() if "kept: " in line)
    assert "nobody_honest_accused" in out
    file = tmp_path / "case.json"
    file.write_text(kept)
    assert msgspec.json.decode(kept, type=Case).protocol == "simple_consensus"
    for command in (again.split()[1:], ["sim", "run", "--case", str(file)]):
        assert run(command) == 0, "the rule is whole again"


def test_soak_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "soak", "--minutes", "0.01", "--seed", "5", "--adversary", "none"]) == 0
    assert "per second" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--adversary", "nobody"], ["--protocol", "none"]])
def test_unknown_names_are_usage_errors(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "run", *wrong]) == 2
    assert "hint: Known: " in capsys.readouterr().err


def test_an_adversary_of_another_protocol_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "run", "--protocol", "simple_consensus", "--adversary", "liar"]) == 2
    said = capsys.readouterr().err
    assert "'liar' does not attack simple_consensus" in said
    assert "forger" in said
