"""Messages that must be answered: requests for coordinators, invitations for agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable

from nats.aio.msg import Msg

from ..errors import LogUnavailableError, UsageError
from ..log import Record
from .connection import Connection
from .pull import PullLoop
from .wire import parse_ack_subject

ACK_WAIT_S = 5.0
"""Default time after which an unanswered message is delivered again: the coordinator's lease."""


class JetStreamDelivery:
    """One message of a queue; see :class:`mabeam.core.transport.Delivery`.

    An answer that gets lost means that the message is delivered again, which is harmless.
    """

    def __init__(
        self, connection: Connection, message: Msg, ack_wait_s: float, settled: Callable[[], None]
    ) -> None:
        tokens = parse_ack_subject(message.reply)
        self._connection = connection
        self._reply = message.reply
        self._settled: Callable[[], None] | None = settled
        self._ack_wait_s = ack_wait_s
        self._redelivered = tokens.deliveries > 1
        self._timer: asyncio.TimerHandle | None = None
        self._record = Record(tokens.sequence, tokens.stored_ns, message.subject, message.data)
        self._start_clock()

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return self._redelivered

    @property
    def record(self) -> Record:
        """The stored message."""
        return self._record

    @property
    def payload(self) -> bytes:
        """The bytes of the message."""
        return self._record.wire

    async def ack(self) -> None:
        """Done; never deliver again."""
        self._settle()
        await self._answer(b"+ACK")

    async def progress(self) -> None:
        """Still working: restart the redelivery clock."""
        if self._settled is not None:
            self._start_clock()
            await self._answer(b"+WPI")

    async def release(self, delay_ms: int = 0) -> None:
        """Give it back for redelivery after ``delay_ms``."""
        self._settle()
        options = json.dumps({"delay": delay_ms * 10**6}).encode() if delay_ms else b""
        await self._answer(b"-NAK " + options if options else b"-NAK")

    async def _answer(self, answer: bytes) -> None:
        with contextlib.suppress(LogUnavailableError):
            await self._connection.publish(self._reply, answer)

    def _start_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._ack_wait_s, self._settle)

    def _settle(self) -> None:
        """Free the reader's slot, once; also when the redelivery clock runs out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._settled is not None:
            settled, self._settled = self._settled, None
            settled()


async def deliveries(
    connection: Connection, stream: str, consumer: str, capacity: int, ack_wait_s: float
) -> AsyncGenerator[JetStreamDelivery, None]:
    """Messages of a consumer, at most ``capacity`` unanswered at a time, without end.

    An absent consumer is waited for.
    """
    if capacity < 1:
        raise UsageError(f"capacity is {capacity}, it must be at least 1")
    arrived: deque[Msg] = deque()
    wake = asyncio.Event()
    unanswered = 0

    def deliver(message: Msg) -> None:
        arrived.append(message)
        wake.set()

    def settled() -> None:
        nonlocal unanswered
        unanswered -= 1
        pull.poke()

    def room() -> int:
        return capacity - unanswered - len(arrived)

    pull = PullLoop(connection, stream, consumer, room=room, deliver=deliver)
    await pull.open()
    try:
        while True:
            if not arrived:
                wake.clear()
                await wake.wait()
                continue
            message = arrived.popleft()
            unanswered += 1
            yield JetStreamDelivery(connection, message, ack_wait_s, settled)
    finally:
        await pull.close()
        for message in arrived:  # delivered but not handed out: another reader may have it now
            with contextlib.suppress(LogUnavailableError):
                await connection.publish(message.reply, b"-NAK")
