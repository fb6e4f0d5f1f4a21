"""A deployment of real processes, shared by the tests of a module that asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mabeam.infra.local import LocalDeployment
from mabeam.infra.membership import Applicant

HERE = Path(__file__).parent
AGENTS = ("a1", "a2", "a3")


class Outcome(msgspec.Struct):
    """One run of the program."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed with ``--json``."""
        return json.loads(self.out)


Command = Callable[..., Outcome]


def run_command(home: Path, *arguments: str, cwd: Path | None = None) -> Outcome:
    """Run ``mabeam --home HOME ARGUMENTS`` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "mabeam.infra.cli", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        cwd=cwd,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the program on an empty home."""
    return lambda *arguments: run_command(tmp_path / "home", *arguments, cwd=tmp_path)


@pytest.fixture(scope="module")
def empty_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    """A running, provisioned server and nobody but the operator and a client."""
    with LocalDeployment(tmp_path_factory.mktemp("deployment") / "home") as deployment:
        deployment.create(lease_ms=1000, drain_ms=500)
        deployment.start_server()
        deployment.provision()
        deployment.admit("client", ("client",))
        yield deployment


@pytest.fixture(scope="module")
def deployment(empty_deployment: LocalDeployment) -> LocalDeployment:
    """A coordinator, three agents and a projector besides."""
    it = empty_deployment
    it.admit_many(
        [
            Applicant("c1", ("coordinator",)),
            Applicant("p1", ("projector",)),
            *(Applicant(id, controller=f"owner-{id}") for id in AGENTS),
        ]
    )
    it.spawn_coordinator("c1", wait=False)
    it.spawn_projector("p1", wait=False)
    for id in AGENTS:
        it.spawn_agent(id, "sample_agents:Approving", HERE, wait=False)
    for id in it.daemons:
        it.wait_ready(id)
    return it


@pytest.fixture(scope="module")
def mabeam(empty_deployment: LocalDeployment) -> Command:
    """Runs the program on the shared deployment."""
    return lambda *arguments: run_command(empty_deployment.home.path, *arguments)
