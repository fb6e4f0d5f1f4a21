"""A deployment of real daemons, each its own process, shared by the tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from registration import register

from mabeam.infra.local import LocalDeployment
from mabeam.infra.membership import Applicant

AGENTS = tuple(f"agent-{number}" for number in range(1, 8))
SUPPORT = Path(__file__).parent.parent / "support"


@pytest.fixture(scope="session")
def deployment() -> Iterator[LocalDeployment]:
    """Server, two coordinators, seven scripted agents, a projector."""
    directory = Path(tempfile.mkdtemp(prefix="mabeam-"))
    local = LocalDeployment(directory / "home")
    try:
        local.create(lease_ms=1_500)
        local.start_server()
        local.provision()
        local.admit_many(
            [
                *(Applicant(id, ("agent",), "site", f"owner-{id}") for id in AGENTS),
                Applicant("mallory", ("agent",), "site", "owner-mallory"),
                Applicant("outsider", ("agent",), "site", "owner-outsider"),
                Applicant("coordinator-1", ("coordinator",), "site"),
                Applicant("coordinator-2", ("coordinator",), "site"),
                Applicant("client", ("client",), "site"),
                Applicant("projector", ("projector",), "site"),
            ]
        )
        register(local, "mallory")
        for id in AGENTS:
            local.spawn_agent(id, "scripted_agent:make_agent", SUPPORT, wait=False)
        local.spawn_coordinator("coordinator-1", wait=False)
        local.spawn_coordinator("coordinator-2", wait=False)
        local.spawn_projector("projector", wait=False)
        for id in local.daemons:
            local.wait_ready(id, timeout_s=60)
        yield local
    finally:
        local.stop_all()
        shutil.rmtree(directory, ignore_errors=True)
