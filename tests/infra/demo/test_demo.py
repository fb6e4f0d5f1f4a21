"""The demonstration as a user runs it: real processes, real crashes, real proofs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mabeam.core.errors import UsageError
from mabeam.infra.demo.main import run

# In a process of its own, because the demonstration handles signals and prints.
_PROGRAM = """
import sys
from pathlib import Path
from mabeam.infra.demo.main import run
home = Path(sys.argv[2]) if sys.argv[2] else None
sys.exit(run(home, biopsies=int(sys.argv[1]), json="json" in sys.argv[3:]))
"""


def _command(biopsies: int, home: Path | None, *words: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, str(biopsies), str(home or ""), *words]


def _daemon_processes(home: Path) -> list[int]:
    """Process ids of the daemons as they published them."""
    return [json.loads(path.read_bytes())["pid"] for path in home.glob("state/*/health.json")]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_the_demonstration_holds_what_it_says(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = subprocess.run(
        _command(8, home, "json"), capture_output=True, check=False, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["ok"]
    assert len(document["checks"]) == 7
    assert all(check["ok"] for check in document["checks"])

    first, second = document["kills"]
    assert (first["kind"], second["kind"]) == ("agent", "coordinator")
    assert 2 <= first["after"] < 8
    assert 4 <= second["after"] < 8
    assert document["taken_over"] >= 1
    agents = {row["agent"]: row for row in document["agents"]}
    assert len(agents) == 5
    assert len({row["model"] for row in agents.values()}) == 5
    assert agents[first["id"]]["silent"] >= 1
    assert all(row["votes"] + row["silent"] == 8 for row in agents.values())
    committee = document["committee"]
    assert committee["decided"] + committee["no_consensus"] == 8
    assert committee["correct"] >= agents["stump"]["correct"]

    assert [audit["exit_code"] for audit in document["audits"]] == [0, 0, 3]
    assert document["audits"][0]["output"].startswith("clean: ")
    assert "vote_cast by " in document["audits"][2]["output"]
    assert [query["columns"][0] for query in document["queries"]] == ["agent", "coordinator"]
    assert "kill -9" in done.stderr
    assert (home / "biopsy.bundle").exists()
    assert not any(_is_alive(process) for process in _daemon_processes(home))


@pytest.mark.integration
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demonstration_leaves_nothing_behind(
    tmp_path: Path, how: signal.Signals
) -> None:
    home = tmp_path / "home"
    demo = subprocess.Popen(_command(8, home), stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if "ready:" in line:
            break
    processes = _daemon_processes(home)
    assert len(processes) == 8, said
    server = int((home / "nats" / "nats-server.pid").read_text())
    demo.send_signal(how)
    rest = demo.communicate(timeout=60)[0]
    assert demo.returncode == 130, rest
    assert "interrupted" in rest
    assert [each for each in (*processes, server) if _is_alive(each)] == []


@pytest.mark.parametrize("biopsies", [0, 3, 172])
def test_the_number_of_biopsies_is_checked_before_anything_starts(
    tmp_path: Path, biopsies: int
) -> None:
    with pytest.raises(UsageError):
        run(tmp_path / "home", biopsies=biopsies)
    assert not (tmp_path / "home").exists()
