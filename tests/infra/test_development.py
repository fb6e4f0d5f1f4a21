"""One development setup a directory, and it notices when a part of it is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mabeam.infra import development, local
from mabeam.infra.cli import main as program
from mabeam.infra.daemon_log import last_event
from mabeam.infra.development import Development
from mabeam.infra.home import Home
from mabeam.infra.local import DaemonError, LocalDeployment
from mabeam.infra.membership import set_up


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    set_up(home)
    return home


@pytest.fixture
def running(home: Home) -> Iterator[int]:
    """A process that looks like the server of this home, as its pid file says."""
    command = [sys.executable, "-c", "input()", str(home.server_config_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        home.server_pid_path.write_text(f"{process.pid}\n")
        yield process.pid
        process.kill()


def test_a_second_one_is_refused_before_it_touches_anything(
    home: Home,
    running: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local, "_ENDING_S", 0.1)
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    assert program.run(["--home", str(home.path), "dev"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error[daemon]: mabeam dev runs here already")
    assert str(running) in said[0]
    assert [line.partition(":")[0] for line in said[1:]] == ["hint"]
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


def test_only_the_own_pid_file_is_removed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    server = SimpleNamespace(pid=17, start=lambda timeout_s: None, stop=lambda: None)
    for now, remains in (("17\n", False), ("18\n", True)):
        deployment = LocalDeployment(home)
        monkeypatch.setattr(local, "EmbeddedNats", lambda *given, **named: server)
        deployment.start_server()
        assert home.server_pid_path.read_text() == "17\n"
        home.server_pid_path.write_text(now)
        deployment.stop_all()
        assert home.server_pid_path.exists() == remains


def test_a_server_that_is_gone_ends_everything_and_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = []
    log_path = home.nats_directory / "nats-server.log"
    server: Any = SimpleNamespace(
        is_running=False, log_path=log_path, stop=lambda: stopped.append("server")
    )
    monkeypatch.setattr(
        Development, "_start", lambda self: setattr(self._deployment, "server", server)
    )
    monkeypatch.setattr(development, "WATCH_S", 0.01)
    assert program.run(["--home", str(home.path), "dev"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error[daemon]: nats-server ended by itself")
    assert said[1].startswith(f"hint: Read {log_path}")
    assert stopped == ["server"]


def test_a_daemon_that_is_gone_is_named(home: Home) -> None:
    deployment = LocalDeployment(home)
    gone: Any = SimpleNamespace(exit_code=lambda: -9)
    here: Any = SimpleNamespace(exit_code=lambda: None)
    deployment.daemons = {"c1": here}
    deployment.check_running()
    deployment.daemons["p1"] = gone
    with pytest.raises(DaemonError, match="p1 ended by itself"):
        deployment.check_running()


def _line(level: str, event: str, **fields: object) -> str:
    return json.dumps({"at": "t", "level": level, "logger": "l", "event": event, **fields})


STARTED = _line("info", "started", member="c1", health="http://h:1")
WAITING = _line("warning", "waiting_for_server", member="c1", why="no server", exception="x\ny")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "it logged nothing"),
        ([STARTED], "started health=http://h:1"),
        ([WAITING, STARTED], "waiting_for_server why=no server"),
        ([WAITING, "error[journal_in_use]: a b", "hint: c"], "error[journal_in_use]: a b"),
        ([STARTED, "Traceback", "ImportError: no x"], "ImportError: no x"),
        (["{}", "x" * 501], "x" * 500 + "…"),
    ],
)
def test_a_log_is_told_by_its_last_meaningful_event(lines: list[str], words: str) -> None:
    assert last_event("\n".join(lines)) == words


def test_what_an_earlier_process_logged_is_not_told(home: Home) -> None:
    deployment = LocalDeployment(home)
    home.log_path("c1").write_text("error[old]: long ago\n")
    deployment._log_starts["c1"] = home.log_path("c1").stat().st_size
    assert deployment.last_words("c1") == "it logged nothing"
