"""Group commit: steps go out at once while the log keeps up, and together when it does not.

A single server writes and syncs every publish on its own but a batch only once, so a batch of a
thousand costs little more than ten single events. A step (one or several events that belong
together) stays whole in whatever batch carries it. If a batch is refused, its steps are sent one by
one, so that only the step at fault fails.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from ..errors import LogUnavailableError, PermissionRefusedError
from ..log import Appended
from .batch import MAX_BATCH, BatchRefusedError, BatchSender
from .counters import Counters
from .publisher import Outgoing, Publisher

ALONE = 24
"""Events under way in steps on their own before further steps queue up."""

GROUPS = 3
"""Batches under way at a time on one connection; the server allows 50 per stream."""

SMALLEST_GROUP = 16
GROUP_BYTES = 4 * 1024 * 1024
MAX_QUEUED = 20_000
"""Events queued before callers wait."""


class _Step:
    __slots__ = ("future", "messages")

    def __init__(
        self, messages: Sequence[Outgoing], future: asyncio.Future[list[Appended]]
    ) -> None:
        self.messages = messages
        self.future = future


class Appender:
    """Decides for every step whether it travels alone or in a group."""

    def __init__(self, publisher: Publisher, batches: BatchSender, counters: Counters) -> None:
        self._publisher = publisher
        self._batches = batches
        self._counters = counters
        self._queue: deque[_Step] = deque()
        self._queued = 0
        self._alone = 0
        self._groups = 0
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._closed = False

    async def append(self, messages: Sequence[Outgoing]) -> list[Appended]:
        """Store one step."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while self._queued >= MAX_QUEUED and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise LogUnavailableError("the connection is closed")
        if not (self._queue or self._starting) and self._alone < ALONE:
            self._alone += len(messages)
            result = await self._send_alone(messages)
        else:
            step = _Step(messages, loop.create_future())
            self._queue.append(step)
            self._queued += len(messages)
            self._pump()
            result = await step.future
        self._counters.appends += len(messages)
        self._counters.append_seconds += loop.time() - started
        return result

    async def drain(self) -> None:
        """Refuse new steps and wait until the accepted ones are settled."""
        self._closed = True
        self._room.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _pump(self) -> None:
        while self._queue:
            if self._queued >= SMALLEST_GROUP and self._groups < GROUPS:
                self._groups += 1
                self._start(self._run_group(self._take_group()))
            elif self._alone < ALONE:
                step = self._queue.popleft()
                self._alone += len(step.messages)
                self._queued -= len(step.messages)
                self._start(self._run_alone(step))
            else:
                return
        if self._queued < MAX_QUEUED and not self._room.is_set():
            self._room.set()

    def _start(self, run: Coroutine[Any, Any, None]) -> None:
        """Run in the background; until it has begun to send, nothing may overtake it."""

        async def begin() -> None:
            self._starting -= 1
            await run

        self._starting += 1
        task = asyncio.create_task(begin())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take_group(self) -> list[_Step]:
        """The longest prefix of the queue that makes one legal batch."""
        steps: list[_Step] = []
        guards: set[str] = set()
        count = size = 0
        while self._queue:
            messages = self._queue[0].messages
            guarded = {message.guard for message in messages if message.guard is not None}
            count += len(messages)
            size += sum(len(message.wire) for message in messages)
            if steps and (count > MAX_BATCH or size > GROUP_BYTES or guarded & guards):
                break
            guards |= guarded
            steps.append(self._queue.popleft())
            self._queued -= len(messages)
        self._room.set()
        return steps

    async def _run_group(self, steps: list[_Step]) -> None:
        try:
            sequence = await self._batches.send([m for step in steps for m in step.messages])
        except (BatchRefusedError, LogUnavailableError, PermissionRefusedError):
            self._groups -= 1
            self._alone += sum(len(step.messages) for step in steps)
            await asyncio.gather(*(self._run_alone(step) for step in steps))
            return
        for step in steps:
            end = sequence + len(step.messages)
            if not step.future.done():
                step.future.set_result([Appended(n) for n in range(sequence, end)])
            sequence = end
        self._groups -= 1
        self._pump()

    async def _run_alone(self, step: _Step) -> None:
        try:
            result = await self._send_alone(step.messages)
        except Exception as error:
            if not step.future.done():
                step.future.set_exception(error)
        else:
            if not step.future.done():
                step.future.set_result(result)

    async def _send_alone(self, messages: Sequence[Outgoing]) -> list[Appended]:
        """Send a step that has been counted in ``_alone``."""
        try:
            if len(messages) == 1:
                return [await self._publisher.publish(messages[0])]
            return await self._batches.append_step(messages)
        finally:
            self._alone -= len(messages)
            self._pump()
