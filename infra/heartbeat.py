"""Signs of life of an agent: sealed with its event key, sent as long as the daemon runs."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..core.author import Author
from ..core.errors import LogError
from ..core.host.health import HEARTBEAT_S, seal_heartbeat
from ..core.telemetry import logger
from ..core.transport import Heartbeat, Transport

_log = logger("agent")
_STATM = Path("/proc/self/statm")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def resident_bytes() -> int:
    """Resident memory of this process; the peak where the system does not tell the present."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


class CpuMeter:
    """CPU use of this process between two calls."""

    def __init__(self) -> None:
        self._wall_s = time.monotonic()
        self._cpu_s = time.process_time()

    def read_ppm(self) -> int:
        """Parts per million of one core since the last call; several threads may exceed one."""
        wall_s, cpu_s = time.monotonic(), time.process_time()
        share = (cpu_s - self._cpu_s) / max(wall_s - self._wall_s, 1e-6)
        self._wall_s, self._cpu_s = wall_s, cpu_s
        return max(0, int(share * 1_000_000))


async def beat(transport: Transport, author: Author, tasks: Callable[[], int]) -> None:
    """Send heartbeats until cancelled; a lost one is not repeated.

    Args:
        transport: the agent's connection.
        author: the agent.
        tasks: requests being worked on now.
    """
    meter = CpuMeter()
    while True:
        heartbeat = Heartbeat(
            author.id,
            author.node,
            time.time_ns(),
            meter.read_ppm(),
            resident_bytes(),
            tasks(),
        )
        try:
            await transport.beat(author.node, author.id, seal_heartbeat(heartbeat, author.key))
        except LogError as error:
            _log.debug("heartbeat_not_sent", extra={"agent": author.id, "why": str(error)})
        await asyncio.sleep(HEARTBEAT_S)
