"""Keeping the inboxes of agents in being: they live in a server's memory and vanish with it.

An invitation is stored before it is delivered, so a new inbox brings back what was sent while
there was none. Without this, an agent invited just before a server restart would never hear of it,
and the first invitation of every agent would wait for its inbox.
"""

from __future__ import annotations

import asyncio

from ..core.bus.jetstream import JetStreamTransport
from ..core.errors import LogError
from ..core.host.registry import RegistryView
from ..core.telemetry import logger

_log = logger("coordinator")

INTERVAL_S = 1.0


async def keep_inboxes(transport: JetStreamTransport, registry: RegistryView) -> None:
    """Make sure, again and again, that every registered agent that may be alive has an inbox."""
    while True:
        for id, agent in list(registry.keyring.registered()):
            gone = agent.health == "unreachable" or registry.keyring.current(id) is None
            if agent.registered is None or gone:
                continue
            try:
                await transport.ensure_inbox(agent.registered.node, id)
            except LogError as error:
                _log.warning("inbox_not_ensured", extra={"agent": id, "why": error.message})
                break
        await asyncio.sleep(INTERVAL_S)
