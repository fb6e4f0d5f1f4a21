"""The program without a deployment: help, usage, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from mabeam.core.errors import NotFoundError, VerificationError
from mabeam.core.kernel_events import FaultTolerance, Ordering
from mabeam.infra.cli import main as program
from mabeam.infra.cli.coord import FAULT_TOLERANCES, ORDERINGS
from mabeam.infra.embedded_server import free_port
from mabeam.infra.home import OPERATOR, Home
from mabeam.infra.membership import set_up

Command = Callable[..., Any]
HEAVY = {"alembic", "msgspec", "nacl", "nats", "prometheus_client", "rich", "sklearn", "sqlalchemy"}


def _walk(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = [path] if path else []
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found += _walk(inner, (*path, name))
    return found


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mabeam.infra.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert HEAVY.isdisjoint(done.stderr.split())
    for name in program.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("path", _walk(program.mabeam), ids=" ".join)
def test_every_command_explains_itself(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: mabeam {' '.join(path)}" in text
    assert len(text.splitlines()[2].strip()) > 10, "a line that says what it does"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colour"], "No such option"),
        (["coord", "start"], "Missing argument 'PROTOCOL'"),
        (["coord", "ls", "--limit", "x"], "not a valid integer"),
        (["nonsense"], "No such command 'nonsense'"),
        (["agent", "run", "m:f"], "Missing option '--id'"),
        (["coord", "start", "simple_consensus"], "name the participants"),
        (["coord", "start", "simple_consensus", "-p", "A"], "agent id 'A'"),
        (["coord", "start", "simple_consensus", "-p", "a", "-s", "x"], "not of the form"),
        (["coord", "start", "p", "--ordering", "raft"], "'raft' is not one of 'log', 'bft'"),
        (["coord", "start", "p", "--fault-tolerance", "high"], "'high' is not one of 'low_fault'"),
        (["coord", "start", "p", "-p", "a", "-s", "x=NaN"], "not finite"),
        (["coord", "submit", "c", "1e400"], "not finite"),
        (["coord", "submit", "c", "123456789012345678901234567890"], "does not fit into 64 bits"),
        (["audit", "verify"], "say what to verify"),
        (["audit", "verify", "c1", "--all", "--bundle", "x"], "give only one of a coordination"),
        (["audit", "evidence"], "say where to look"),
        (["audit", "evidence", "c1", "--all"], "give only one of a coordination"),
        (["bench", "nothing"], "no section nothing"),
        (["key", "new", "Big"], "'Big' is not of the form"),
        (["agent", "run", "nowhere:x", "--id", "a1"], "no module 'nowhere'"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.run(arguments) == 2
    captured = capsys.readouterr()
    first, *others = captured.err.splitlines()
    assert first.startswith("error[")
    assert message in first
    assert all(line.startswith("hint: ") for line in others)
    assert captured.out == ""


def test_choices_are_those_of_the_request() -> None:
    assert get_args(Ordering) == ORDERINGS
    assert get_args(FaultTolerance) == FAULT_TOLERANCES


@pytest.mark.parametrize(
    "arguments",
    [
        ["coord", "ls"],
        ["coord", "show", "c1"],
        ["agent", "ls", "--from-log"],
        ["db", "query", "SELECT 1"],
        ["projection", "digest"],
        ["key", "admit", "a1"],
        ["coordinator", "run", "--id", "c1"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_without_a_deployment_commands_end_with_4(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert program.run(["--home", str(tmp_path / "none"), *arguments]) == 4
    assert "error[not_found]: there is no deployment in" in capsys.readouterr().err


def test_an_unknown_setting_names_the_nearest_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mabeam.toml").write_text("leasems = 5\n")
    assert program.run(["--home", str(tmp_path), "config", "show"]) == 2
    error = capsys.readouterr().err
    assert "error[invalid_config]: unknown setting 'leasems'" in error
    assert "hint: Did you mean 'lease_ms'?" in error


def test_settings_are_shown_with_their_origin(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["--home", str(tmp_path), "--url", "nats://x:1", "config", "show"]
    assert program.run([*command, "--origin", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["url"] == {"value": "nats://x:1", "origin": "option"}
    assert shown["lease_ms"] == {"value": 5000, "origin": "default"}


@pytest.fixture
def offline(tmp_path: Path) -> Home:
    """A deployment whose server does not run."""
    home = Home(tmp_path / "home")
    port = free_port()
    set_up(home, url=f"nats://127.0.0.1:{port}", monitor_url=f"http://127.0.0.1:{port}")
    return home


def test_an_unreachable_server_is_one_line_and_5(offline: Home, command: Command) -> None:
    found = command("coord", "ls", "--from-log")  # bounded by the fixture's time-out
    assert found.code == 5
    lines = found.err.splitlines()
    assert lines[0].startswith("error[log_unavailable]: cannot reach the log at nats://127.0.0.1:")
    assert lines[1].startswith("hint: Is nats-server running")
    assert len(lines) == 2


def test_a_missing_key_and_an_open_key_say_what_to_do(offline: Home, command: Command) -> None:
    missing = command("coord", "cancel", "x", "--as", "nobody")
    assert missing.code == 1
    assert "error[key_file]: there is no key for 'nobody'" in missing.err
    assert "hint: Create it with 'mabeam key new nobody'" in missing.err
    offline.key_path(OPERATOR).chmod(0o644)
    too_open = command("log", "head")
    assert too_open.code == 1
    assert "is open to others (mode 0644)" in too_open.err
    assert "hint: Run: chmod 600" in too_open.err


def test_a_daemon_needs_its_role(offline: Home, command: Command) -> None:
    wrong = command("coordinator", "run", "--id", OPERATOR)
    assert wrong.code == 2
    assert "is admitted as operator, not as coordinator" in wrong.err


def test_the_doctor_lists_what_is_wrong(offline: Home, command: Command) -> None:
    found = command("doctor", "--json")
    assert found.code == 1
    failed = {check["name"] for check in found.document["checks"] if not check["ok"]}
    assert failed == {"log", "server", "clock", "schema"}
    assert not found.document["production_ready"]


def test_a_new_deployment_is_announced_with_its_root_key(command: Command) -> None:
    made = command("init", "--node", "north", "--json")
    assert made.code == 0
    assert len(made.document["root_public_key"]) == 64
    again = command("init")
    assert again.code == 2
    assert "already" in again.err
    shown = command("key", "show", "operator", "--json")
    assert shown.document["node"] == "north"
    assert "seed" not in shown.out


def test_a_key_made_elsewhere_shows_only_its_public_half(command: Command, tmp_path: Path) -> None:
    made = command("key", "new", "a1", "--json")
    assert made.code == 0
    secret = json.loads((tmp_path / "home" / "keys" / "a1.key").read_text())
    assert secret["event_seed"] not in made.out
    assert secret["nkey_seed"] not in made.out
    assert command("key", "new", "a1").code == 1


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (
            VerificationError("a\nb", hint="look"),
            3,
            ["error[verification_failed]: a b", "hint: look"],
        ),
        (NotFoundError("gone"), 4, ["error[not_found]: gone"]),
        (KeyboardInterrupt(), 130, []),
        (
            ZeroDivisionError("x"),
            1,
            [
                "error[internal]: ZeroDivisionError: x",
                "hint: This is a bug; run again with 'mabeam --debug …'.",
            ],
        ),
    ],
)
def test_errors_become_lines_and_exit_codes(
    error: BaseException,
    status: int,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(program.mabeam, "main", fail)
    assert program.run(["coord", "ls"]) == status
    assert capsys.readouterr().err.splitlines() == lines


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(program.mabeam, "main", fail)
    with pytest.raises(ZeroDivisionError):
        program.run(["--debug", "coord", "ls"])
