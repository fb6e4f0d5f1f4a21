"""What a host gets to see: log and transport at the end of a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from heapq import heappop, heappush
from typing import Generic, TypeVar

from ..errors import SequenceGapError
from ..log import Appended, EventLog, Head, Record, Submission
from ..memory_transport import MemoryTransport
from ..transport import Delivery, InvitationDelivery, RequestDelivery
from .network import Link, Network

T = TypeVar("T")
D = TypeVar("D", bound=Delivery)


class SimLog:
    """:class:`~mabeam.core.log.EventLog` at the end of a link."""

    def __init__(self, network: Network, link: Link, inner: EventLog) -> None:
        self._network = network
        self._link = link
        self._inner = inner

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        link = self._link
        if "cut" in link.active or link.happens("drop"):
            raise await link.fail("the request was lost")
        result = await asyncio.shield(self._network.spawn(self._land(work)))
        if "cut" in link.active or link.happens("lose_ack"):
            raise await link.fail("the answer was lost")
        await link.travel()
        return result

    async def _land(self, work: Callable[[], Awaitable[T]]) -> T:
        await self._link.travel()
        return await work()

    async def append(self, submission: Submission) -> Appended:
        """See :meth:`mabeam.core.log.EventLog.append`."""
        return (await self.append_many([submission]))[0]

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """See :meth:`mabeam.core.log.EventLog.append_many`."""
        return await self._ask(lambda: self._inner.append_many(submissions))

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """See :meth:`mabeam.core.log.EventLog.read`."""
        records = await self._ask(lambda: self._inner.read(coordination, after))
        if not self._link.sights:
            return records
        now = asyncio.get_running_loop().time()
        return [record for record in records if self._link.shown_at(record) <= now]

    async def read_all(self, after: int = 0) -> AsyncIterator[list[Record]]:
        """See :meth:`mabeam.core.log.EventLog.read_all`."""
        async for batch in self._inner.read_all(after):
            await self._link.until_shown()
            await self._link.travel()
            yield batch

    async def follow(
        self, coordination: str, after: int | None = 0
    ) -> AsyncGenerator[Record, None]:
        """See :meth:`mabeam.core.log.EventLog.follow`."""
        network, loop = self._network, asyncio.get_running_loop()
        generation, position = network.generation, after or 0
        late: list[tuple[float, int, Record]] = []
        while True:
            if network.generation != generation:
                raise SequenceGapError("the log lost records that it had acknowledged")
            for record in await self._inner.read(coordination, position):
                position = record.sequence
                heappush(late, (self._link.shown_at(record), position, record))
            due = []
            while late and late[0][0] <= loop.time():
                due.append(heappop(late)[2])
            if due:
                for shown in await self._show(due, generation):
                    yield shown
                continue
            await network.news(coordination, position, late[0][0] if late else None)

    async def follow_all(self, after: int | None = None) -> AsyncIterator[list[Record]]:
        """See :meth:`mabeam.core.log.EventLog.follow_all`."""
        generation = self._network.generation
        async for batch in self._inner.follow_all(after):
            for record in await self._show(batch, generation):
                yield [record]

    async def _show(self, batch: list[Record], generation: int) -> list[Record]:
        """What this reader gets to see of new records, after a while."""
        link = self._link
        await link.until_shown()
        await link.travel()
        if self._network.generation != generation:
            raise SequenceGapError("the log lost records that it had acknowledged")
        if link.happens("withhold"):
            raise SequenceGapError(f"sequence {batch[0].sequence} is missing")
        shown = list(batch)
        if link.happens("reorder"):
            link.rng.shuffle(shown)
        return [*shown, *batch] if link.happens("duplicate") else shown

    async def record_at(self, sequence: int) -> Record | None:
        """See :meth:`mabeam.core.log.EventLog.record_at`."""
        return await self._ask(lambda: self._inner.record_at(sequence))

    async def head(self) -> Head:
        """See :meth:`mabeam.core.log.EventLog.head`."""
        return await self._ask(self._inner.head)


class _SimDelivery(Generic[D]):
    """A delivery whose answers travel over the link."""

    def __init__(self, link: Link, inner: D) -> None:
        self._link = link
        self.inner = inner

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return self.inner.redelivered

    async def _reach(self) -> None:
        if "cut" in self._link.active:
            raise await self._link.fail("the answer did not reach the queue")

    async def ack(self) -> None:
        """See :class:`~mabeam.core.transport.Delivery`."""
        await self._reach()
        await self.inner.ack()

    async def progress(self) -> None:
        """See :class:`~mabeam.core.transport.Delivery`."""
        await self._reach()
        await self.inner.progress()

    async def release(self, delay_ms: int = 0) -> None:
        """See :class:`~mabeam.core.transport.Delivery`."""
        await self._reach()
        await self.inner.release(delay_ms)


class _SimRequest(_SimDelivery[RequestDelivery]):
    @property
    def record(self) -> Record:
        """The stored request."""
        return self.inner.record


class _SimInvitation(_SimDelivery[InvitationDelivery]):
    @property
    def payload(self) -> bytes:
        """The encoded invitation."""
        return self.inner.payload


class SimTransport:
    """:class:`~mabeam.core.transport.Transport` over a link."""

    def __init__(self, network: Network, link: Link) -> None:
        self._network = network
        self._link = link
        self._inner = MemoryTransport(network.broker)
        self._log = SimLog(network, link, self._inner.log)

    @property
    def log(self) -> EventLog:
        """The event log."""
        return self._log

    async def requests(self, capacity: int) -> AsyncIterator[RequestDelivery]:
        """See :meth:`mabeam.core.transport.Transport.requests`."""
        async for delivery in self._inner.requests(capacity):
            await self._link.until_shown()
            await self._link.travel()
            yield _SimRequest(self._link, delivery)

    async def invite(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.invite`."""
        link = self._link
        if "cut" in link.active:
            raise await link.fail("the invitation did not get through")
        await link.travel()
        if link.happens("lose_invitation"):
            return
        await self._inner.invite(node, agent, coordination, payload)
        if link.happens("repeat_invitation"):
            self._network.spawn(self._repeat(node, agent, coordination, payload))

    async def _repeat(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        await asyncio.sleep(self._link.rng.uniform(0.01, 3.0))
        await self._inner.invite(node, agent, coordination, payload)

    async def invitations(
        self, node: str, agent: str, capacity: int
    ) -> AsyncIterator[InvitationDelivery]:
        """See :meth:`mabeam.core.transport.Transport.invitations`."""
        async for delivery in self._inner.invitations(node, agent, capacity):
            await self._link.until_shown()
            await self._link.travel()
            yield _SimInvitation(self._link, delivery)

    async def beat(self, node: str, agent: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.beat`."""
        if "cut" not in self._link.active:
            await self._link.travel()
            await self._inner.beat(node, agent, payload)

    async def heartbeats(self) -> AsyncIterator[tuple[str, str, bytes]]:
        """See :meth:`mabeam.core.transport.Transport.heartbeats`."""
        async for beat in self._inner.heartbeats():
            await self._link.until_shown()
            yield beat

    async def close(self) -> None:
        """See :meth:`mabeam.core.transport.Transport.close`."""
        await self._inner.close()
