"""A deployment of real daemons, each its own process, shared by the tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mabeam.core.author import Author
from mabeam.core.kernel_events import AgentRegistered
from mabeam.core.log import Submission
from mabeam.core.names import REGISTRY
from mabeam.core.transport import Transport
from mabeam.infra.local import LocalDeployment
from mabeam.infra.membership import Applicant

AGENTS = tuple(f"agent-{number}" for number in range(1, 8))
SUPPORT = Path(__file__).parent.parent / "support"


def register(local: LocalDeployment, id: str) -> None:
    """Announce an agent that no daemon runs: the tests act for it."""
    author = Author(id, "site", local.home.secrets(id).key_pair(), time.time_ns)
    event = author.sign(REGISTRY, b"", "agent.registered", AgentRegistered("site"))

    async def announce(transport: Transport) -> None:
        await transport.log.append(Submission(event, "pub", "site"))

    local.operate(announce, id)


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
