"""Registering agents that no daemon runs, because a test acts for them."""

from __future__ import annotations

import time

from mabeam.core.author import Author
from mabeam.core.kernel_events import AgentRegistered
from mabeam.core.log import Submission
from mabeam.core.names import REGISTRY
from mabeam.core.transport import Transport
from mabeam.infra.local import LocalDeployment


def register(local: LocalDeployment, id: str) -> None:
    """Announce an agent that no daemon runs: the tests act for it."""
    author = Author(id, "site", local.home.secrets(id).key_pair(), time.time_ns)
    event = author.sign(REGISTRY, b"", "agent.registered", AgentRegistered("site"))

    async def announce(transport: Transport) -> None:
        await transport.log.append(Submission(event, "pub", "site"))

    local.operate(announce, id)
