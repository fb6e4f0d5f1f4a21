"""A transport that can be stopped, cut off or watched, and a telemetry sink that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence

from mabeam.core.errors import LogUnavailableError
from mabeam.core.log import Appended, EventLog, Head, Record, Submission
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.telemetry import NoTelemetry
from mabeam.core.transport import InvitationDelivery, RequestDelivery, Transport

Watcher = Callable[[Submission], Awaitable[None]]


class FaultyLog:
    """A log as seen through a connection that fails on demand.

    Attributes:
        reachable: cleared, every call but the feeds raises.
        flowing: cleared, appends wait before they are sent, as in a process that is paused.
        showing: cleared, the feeds show nothing new.
        waiting: appends held back by ``flowing``.
        acks_to_lose: appends that are stored although the caller is told the log is unavailable.
        watcher: sees every append before it is sent.
        appended: types of the events stored through here, in order.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.reachable = True
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.showing = asyncio.Event()
        self.showing.set()
        self.waiting = 0
        self.acks_to_lose = 0
        self.watcher: Watcher | None = None
        self.appended: list[str] = []

    def _check(self) -> None:
        if not self.reachable:
            raise LogUnavailableError("cut off by the test")

    async def append(self, submission: Submission) -> Appended:
        """See :meth:`mabeam.core.log.EventLog.append`."""
        return (await self.append_many([submission]))[0]

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """See :meth:`mabeam.core.log.EventLog.append_many`."""
        self._check()
        if self.watcher is not None:
            for submission in submissions:
                await self.watcher(submission)
        self.waiting += 1
        await self.flowing.wait()
        self.waiting -= 1
        result = await self._log.append_many(submissions)
        self.appended += [submission.event.header.type for submission in submissions]
        if self.acks_to_lose > 0:
            self.acks_to_lose -= 1
            raise LogUnavailableError("the acknowledgement was lost by the test")
        return result

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """See :meth:`mabeam.core.log.EventLog.read`."""
        self._check()
        return await self._log.read(coordination, after)

    def read_all(self, after: int = 0) -> AsyncIterator[list[Record]]:
        """See :meth:`mabeam.core.log.EventLog.read_all`."""
        return self._log.read_all(after)

    async def follow(
        self, coordination: str, after: int | None = 0
    ) -> AsyncGenerator[Record, None]:
        """See :meth:`mabeam.core.log.EventLog.follow`."""
        async for record in self._log.follow(coordination, after):
            await self.showing.wait()
            yield record

    async def follow_all(self, after: int | None = None) -> AsyncIterator[list[Record]]:
        """See :meth:`mabeam.core.log.EventLog.follow_all`."""
        async for batch in self._log.follow_all(after):
            await self.showing.wait()
            yield batch

    async def record_at(self, sequence: int) -> Record | None:
        """See :meth:`mabeam.core.log.EventLog.record_at`."""
        self._check()
        return await self._log.record_at(sequence)

    async def head(self) -> Head:
        """See :meth:`mabeam.core.log.EventLog.head`."""
        self._check()
        return await self._log.head()


class Faults:
    """Gives every id of a deployment one lasting, faulty connection; pass it as ``connect``."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self._transports: dict[str, FaultyTransport] = {}

    def __call__(self, id: str) -> FaultyTransport:
        if id not in self._transports:
            self._transports[id] = FaultyTransport(MemoryTransport(self.broker))
        return self._transports[id]

    def __getitem__(self, id: str) -> FaultyLog:
        return self(id).faults


class FaultyTransport:
    """A transport whose log is a :class:`FaultyLog`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.faults = FaultyLog(transport.log)

    @property
    def log(self) -> EventLog:
        """The log."""
        return self.faults

    def requests(self, capacity: int) -> AsyncIterator[RequestDelivery]:
        """See :meth:`mabeam.core.transport.Transport.requests`."""
        return self._transport.requests(capacity)

    async def invite(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.invite`."""
        if not self.faults.reachable:
            raise LogUnavailableError("cut off by the test")
        await self._transport.invite(node, agent, coordination, payload)

    def invitations(
        self, node: str, agent: str, capacity: int
    ) -> AsyncIterator[InvitationDelivery]:
        """See :meth:`mabeam.core.transport.Transport.invitations`."""
        return self._transport.invitations(node, agent, capacity)

    async def beat(self, node: str, agent: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.beat`."""
        await self._transport.beat(node, agent, payload)

    def heartbeats(self) -> AsyncIterator[tuple[str, str, bytes]]:
        """See :meth:`mabeam.core.transport.Transport.heartbeats`."""
        return self._transport.heartbeats()

    async def close(self) -> None:
        """See :meth:`mabeam.core.transport.Transport.close`."""
        await self._transport.close()


class HandedRequest:
    """A request handed to a coordinator past the queue; remembers how it was answered."""

    def __init__(self, record: Record, *, redelivered: bool = True) -> None:
        self.record = record
        self.redelivered = redelivered
        self.answers: list[str] = []

    async def ack(self) -> None:
        """See :class:`~mabeam.core.transport.Delivery`."""
        self.answers.append("ack")

    async def progress(self) -> None:
        """See :class:`~mabeam.core.transport.Delivery`."""

    async def release(self, delay_ms: int = 0) -> None:
        """See :class:`~mabeam.core.transport.Delivery`."""
        self.answers.append("release")


class RecordingTelemetry(NoTelemetry):
    """Remembers counters and protocol events."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.events: list[tuple[str, dict[str, int], dict[str, str]]] = []

    def count(self, metric: str, /, value: int = 1, **labels: str) -> None:
        """Add to the counter, with and without its labels."""
        for name in {metric, ":".join((metric, *labels.values()))}:
            self.counters[name] = self.counters.get(name, 0) + value

    def event(
        self, name: str, measurements: Mapping[str, int], metadata: Mapping[str, str]
    ) -> None:
        """Remember a protocol event."""
        self.events.append((name, dict(measurements), dict(metadata)))

    def names(self) -> list[str]:
        """Names of the protocol events, in order."""
        return [name for name, _, _ in self.events]
