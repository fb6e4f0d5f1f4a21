"""The PRESENCE stream: the last heartbeat of every agent, then new ones as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from nats.aio.msg import Msg

from ..errors import LogUnavailableError
from ..names import PRESENCE_SUBJECTS, presence_subject
from .connection import Connection
from .direct import DirectReader


async def beat(connection: Connection, node: str, agent: str, payload: bytes) -> None:
    """Publish a heartbeat; one that gets lost is made up for by the next."""
    with contextlib.suppress(LogUnavailableError):
        await connection.publish(presence_subject(node, agent), payload)


async def heartbeats(
    connection: Connection, direct: DirectReader
) -> AsyncGenerator[tuple[str, str, bytes], None]:
    """Heartbeats as (node, agent, payload); one not taken in time gives way to its successor."""
    pending: dict[str, bytes] = {}
    wake = asyncio.Event()

    async def take(message: Msg) -> None:
        pending[message.subject] = message.data
        wake.set()

    subscription = await connection.subscribe(PRESENCE_SUBJECTS, take)
    try:
        for record in await direct.read(PRESENCE_SUBJECTS):
            pending.setdefault(record.subject, record.wire)
        while True:
            while pending:
                subject = next(iter(pending))
                payload = pending.pop(subject)
                _, _, _, node, agent = subject.split(".")
                yield node, agent, payload
            wake.clear()
            await wake.wait()
    finally:
        await subscription.close()
