"""The republished copies of stored events: fast, ordered per connection, but lossy."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

from nats.aio.msg import Msg

from ..log import Record
from .connection import Connection
from .wire import record_from_headers

MAX_RECORDS = 10_000
MAX_BYTES = 16 * 1024 * 1024
"""Bounds of what waits for a follower; beyond them it has to read the log."""

CHECK_S = 5.0
"""How often a waiting follower is told to compare with the log."""


class Live(NamedTuple):
    """One live record and the sequence of its predecessor on the same subject (0: none)."""

    record: Record
    previous: int


class LiveFeed:
    """A bounded buffer behind one feed subscription.

    Attributes:
        latest: highest sequence seen, buffered or not.
        doubtful: something may have been missed (reconnected, overflowed, silent for a while).
    """

    def __init__(self, connection: Connection, subject: str, *, check_s: float = CHECK_S) -> None:
        self.latest = 0
        self.doubtful = False
        self._connection = connection
        self._subject = subject
        self._check_s = check_s
        self._records: deque[Live] = deque()
        self._bytes = 0
        self._overflowed = False
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Subscribe; returns before the server has confirmed."""
        self._subscription = await self._connection.subscribe(self._subject, self._on_message)
        self._subscription.on_refused = self._wake.set
        self._connection.on_connected.append(self._doubt)
        self._schedule()

    async def close(self) -> None:
        """Unsubscribe."""
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ValueError):
            self._connection.on_connected.remove(self._doubt)
        await self._subscription.close()

    async def wait(self) -> None:
        """Sleep until there is something to take or a reason for doubt.

        Raises:
            PermissionRefusedError: the connection may not subscribe to the feed.
        """
        if not (self._records or self._overflowed or self.doubtful):
            self._wake.clear()
            await self._wake.wait()
        if self._subscription.refused is not None:
            raise self._subscription.refused

    def take(self) -> tuple[list[Live], bool]:
        """Everything that arrived in order of arrival, and whether some had to be dropped."""
        taken, overflowed = list(self._records), self._overflowed
        self._records.clear()
        self._bytes = 0
        self._overflowed = False
        return taken, overflowed

    async def _on_message(self, message: Msg) -> None:
        headers = message.headers or {}
        self.latest = max(self.latest, int(headers["Nats-Sequence"]))
        if self._overflowed:
            return
        if len(self._records) >= MAX_RECORDS or self._bytes > MAX_BYTES:
            self._records.clear()
            self._overflowed = True
            self._connection.counters.feed_overflows += 1
        else:
            previous = int(headers["Nats-Last-Sequence"])
            self._records.append(Live(record_from_headers(message), previous))
            self._bytes += len(message.data)
        self._wake.set()

    def _doubt(self) -> None:
        self.doubtful = True
        self._wake.set()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._check_s, self._check)

    def _check(self) -> None:
        self._doubt()
        self._schedule()
