"""A continuous pull on one consumer; survives reconnects, lost requests, absent consumers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from nats.aio.msg import Msg

from ..errors import LogUnavailableError
from .connection import Connection

HEARTBEAT_S = 5.0
EXPIRES_S = 30.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
ACK_PREFIX = "$JS.ACK."


class PullLoop:
    """Keeps as many messages requested as the owner has room for.

    Args:
        connection: carries requests and messages.
        stream: name of the stream.
        consumer: name of the consumer.
        room: how many messages the owner can take now, those requested already included.
        deliver: called with every message.
        gone: called when the consumer does not exist (any more); pulling goes on regardless.
        least: request no fewer than this many while a request is under way.
        max_bytes: bytes of one request, or 0 for no limit.
        heartbeat_s: the server's sign of life; two missing ones mean that a request is lost.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        room: Callable[[], int],
        deliver: Callable[[Msg], None],
        gone: Callable[[], None] = lambda: None,
        least: int = 1,
        max_bytes: int = 0,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = connection.new_inbox()
        self._room = room
        self._deliver = deliver
        self._gone = gone
        self._least = least
        self._max_bytes = max_bytes
        self._heartbeat_s = heartbeat_s
        self._requested: dict[int, int] = {}
        self._token = 0
        self._sign_of_life = 0.0
        self._pause = 0.0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe and start to pull."""
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        self._connection.on_connected.append(self._start_over)
        self._task = asyncio.create_task(self._run())

    def poke(self) -> None:
        """The owner has room again."""
        self._changed.set()

    async def close(self) -> None:
        """Stop pulling; what was requested may still have been delivered to nobody."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(ValueError):
            self._connection.on_connected.remove(self._start_over)
        await self._subscription.close()

    def _start_over(self) -> None:
        self._requested.clear()
        self._pause = 0.0
        self._changed.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if self._requested and loop.time() > self._sign_of_life + 2.2 * self._heartbeat_s:
                self._requested.clear()
            wanted = self._room() - sum(self._requested.values())
            if wanted >= self._least or (wanted > 0 and not self._requested):
                if self._pause:
                    await asyncio.sleep(self._pause)
                await self._pull(wanted)
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await self._changed.wait()

    async def _pull(self, count: int) -> None:
        self._token += 1
        query = {
            "batch": count,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(self._heartbeat_s * 1e9),
        }
        if self._max_bytes:
            query["max_bytes"] = self._max_bytes
        self._requested[self._token] = count
        self._sign_of_life = asyncio.get_running_loop().time()
        # Without a connection the request is repeated as soon as there is one.
        with contextlib.suppress(LogUnavailableError):
            reply = f"{self._inbox}.{self._token}"
            await self._connection.publish(self._subject, json.dumps(query).encode(), reply)

    async def _on_message(self, message: Msg) -> None:
        self._sign_of_life = asyncio.get_running_loop().time()
        if message.reply.startswith(ACK_PREFIX):
            self._pause = 0.0
            self._count_one()
            self._deliver(message)
            return
        headers = message.headers or {}
        status, text = headers.get("Status"), headers.get("Description", "")
        if status == "100":
            return
        # Every other status ends one request: time is up, it is served, consumer or leader gone.
        # Only the last two are a reason to hesitate before the next request.
        self._requested.pop(int(message.subject[len(self._inbox) + 1 :]), None)
        served = "Batch Completed" in text or "MaxBytes" in text
        if status == "503" or (status == "409" and not served):
            self._pause = min(2 * self._pause or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        if status == "503" or "Consumer Deleted" in text:
            self._gone()
        self._changed.set()

    def _count_one(self) -> None:
        """Requests are served in order, so a message belongs to the oldest."""
        for token, count in self._requested.items():
            if count > 1:
                self._requested[token] = count - 1
            else:
                del self._requested[token]
            return
