"""Following a log: pumps records into a projector, in batches as large as what is there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from ..core.errors import SequenceGapError
from ..core.hashing import sha256
from ..core.log import EventLog, Record
from .generations import Position, check_stream
from .projector import MAX_BATCH, Projector

MAX_BUFFERED = 4 * MAX_BATCH
"""Records read ahead, at most."""


async def check_position(position: Position, log: EventLog) -> None:
    """Refuse to continue if the log is not the one that was projected so far.

    Raises:
        SequenceGapError: another log, one that is shorter than what was projected, or one that
        holds
            something else at the position. Nothing is ever skipped.
        LogUnavailableError: the log cannot be reached.
    """
    head = await log.head()
    check_stream(position, head.created_ns)
    if position.sequence == 0:
        return
    record = await log.record_at(position.sequence) if position.sequence <= head.sequence else None
    if record is None:
        raise SequenceGapError(
            f"the database is at sequence {position.sequence}, the log ends at {head.sequence}",
            hint="The log lost acknowledged events: restore it, or find out who cut it.",
        )
    if sha256(record.wire).hex() != position.record_sha256:
        raise SequenceGapError(
            f"the log holds something else at sequence {position.sequence} than was projected",
            hint="The log was rewritten: run 'mabeam audit verify' on log and database.",
        )


async def in_thread(function: Callable[..., None], *arguments: Any) -> None:
    """Run ``function`` in a thread; a cancellation waits until it is through."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


class Follower:
    """Keeps a projector at the head of a log.

    Args:
        projector: the projector; only the follower may use it while :meth:`run` runs.
        log: the log it was made for.
    """

    def __init__(self, projector: Projector, log: EventLog) -> None:
        self._projector = projector
        self._log = log
        self._buffer: deque[Record] = deque()
        self._changed = asyncio.Condition()
        self._ended: BaseException | None = None
        self._pump_ended = False
        self._read_upto = projector.position.sequence

    @property
    def position(self) -> int:
        """Sequence of the last record whose effects are committed."""
        return self._projector.position.sequence

    @property
    def backlog(self) -> int:
        """Records read from the log and not yet committed."""
        return self._read_upto - self.position

    async def lag(self) -> int:
        """Records in the log that are not yet committed, measured against the log itself."""
        return (await self._log.head()).sequence - self.position

    async def caught_up(self, sequence: int) -> None:
        """Return once ``sequence`` is committed; raises what ended :meth:`run` before that."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.position >= sequence or self._ended is not None
            )
        if self.position < sequence and self._ended is not None:
            raise self._ended

    async def run(self) -> None:
        """Follow without end; cancel to stop, the batch under way is then finished first.

        Raises:
            SequenceGapError: see :func:`check_position`; also a hole in the log.
            MabeamError: what the log, the projector or the database raised.
        """
        pump = None
        try:
            await check_position(self._projector.position, self._log)
            pump = asyncio.create_task(self._pump())
            await self._project(pump)
        except BaseException as error:
            self._ended = error
            raise
        finally:
            if pump is not None:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
            async with self._changed:
                self._changed.notify_all()

    async def _pump(self) -> None:
        feed = self._log.follow_all(self.position)
        try:
            async for records in feed:
                async with self._changed:
                    await self._changed.wait_for(lambda: len(self._buffer) < MAX_BUFFERED)
                    self._buffer.extend(records)
                    self._read_upto = records[-1].sequence
                    self._changed.notify_all()
        finally:
            self._pump_ended = True
            await self._wake()
            close = getattr(feed, "aclose", None)
            if close is not None:
                await close()

    async def _project(self, pump: asyncio.Task[None]) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._buffer) or self._pump_ended)
                size = min(len(self._buffer), MAX_BATCH)
                batch = [self._buffer.popleft() for _ in range(size)]
                self._changed.notify_all()
            if batch:
                await in_thread(self._step, batch, not self._buffer)
                await self._wake()
            else:
                await pump
                raise SequenceGapError("the log ended", hint="A log is followed without end.")

    def _step(self, batch: list[Record], last: bool) -> None:
        self._projector.offer(batch)
        if last:
            self._projector.flush()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
