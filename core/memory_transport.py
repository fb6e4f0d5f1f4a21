"""The log and its side channels within one process: for tests, the simulator and demonstrations.

Any number of :class:`MemoryTransport` objects share one :class:`MemoryBroker`, which stands for the
server. Nothing polls: readers sleep on futures that an append completes. All objects of one broker
belong to one event loop; delays run on that loop's clock, so a virtual-time loop governs them.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Generic, TypeVar

from .bus.position import check_position
from .bus.step import check_step, subject_of
from .errors import (
    AppendRefusedError,
    LogFullError,
    LogUnavailableError,
    SequenceConflictError,
    UsageError,
)
from .log import Appended, EventLog, Head, Record, Submission
from .transport import MAX_INVITATION_BYTES, InvitationDelivery, RequestDelivery

T = TypeVar("T")

READ_BATCH = 1000
"""Records per batch of :meth:`MemoryLog.read_all` and :meth:`MemoryLog.follow_all`."""

PRESENCE_AGE_NS = 60 * 10**9
"""Age after which a heartbeat is forgotten, as in the PRESENCE stream."""


class _Signal:
    """Wakes every task that waits for the next occurrence."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}  # in the order they will be woken

    def fire(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)


class _Item(Generic[T]):
    """One queued value; ``turn`` counts how often it was handed out."""

    def __init__(self, key: str, value: T) -> None:
        self.key = key
        self.value = value
        self.turn = 0
        self.done = False
        self.expire: Callable[[], None] | None = None


class _Queue(Generic[T]):
    """Values shared by readers; one not answered within ``ack_wait_s`` is handed out again."""

    def __init__(self, ack_wait_s: float) -> None:
        self.ack_wait_s = ack_wait_s
        self._ready: deque[_Item[T]] = deque()
        self._outstanding: dict[_Item[T], None] = {}
        self._changed = _Signal()

    def put(self, key: str, value: T) -> None:
        """Add ``value``; it replaces one with the same key that nobody has been handed yet."""
        for item in self._ready:
            if item.key == key and item.turn == 0:
                item.value = value
                return
        self.give_back(_Item(key, value))

    def give_back(self, item: _Item[T]) -> None:
        self._outstanding.pop(item, None)
        if not item.done:
            self._ready.append(item)
            self._changed.fire()

    def finish(self, item: _Item[T]) -> None:
        item.done = True
        self._outstanding.pop(item, None)
        if item in self._ready:
            self._ready.remove(item)

    def redeliver_now(self) -> None:
        """Treat every unanswered item as overdue."""
        for item in list(self._outstanding):
            if item.expire is not None:
                item.expire()

    async def take(self, check_open: Callable[[], None]) -> _Item[T]:
        """The next value; ``check_open`` raises once the reader has been closed."""
        check_open()
        while not self._ready:
            await self._changed.wait()
            check_open()
        item = self._ready.popleft()
        item.turn += 1
        self._outstanding[item] = None
        return item

    def wake(self) -> None:
        self._changed.fire()


class _Delivery(Generic[T]):
    """One hand-out of an item, with its redelivery clock and its reader's slot."""

    def __init__(self, queue: _Queue[T], item: _Item[T], slots: asyncio.Semaphore) -> None:
        self._queue = queue
        self._item = item
        self._turn = item.turn
        self._slots: asyncio.Semaphore | None = slots
        self._timer: asyncio.TimerHandle | None = None
        item.expire = self._expire
        self._start_clock()

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return self._turn > 1

    async def ack(self) -> None:
        """Done; never deliver again."""
        self._settle()
        self._queue.finish(self._item)

    async def progress(self) -> None:
        """Still working: restart the redelivery clock."""
        if self._slots is not None:
            self._start_clock()

    async def release(self, delay_ms: int = 0) -> None:
        """Give it back for redelivery after ``delay_ms``."""
        if self._slots is None:
            return
        self._settle()
        if delay_ms:
            loop = asyncio.get_running_loop()
            loop.call_later(delay_ms / 1000, self._queue.give_back, self._item)
        else:
            self._queue.give_back(self._item)

    def _start_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._queue.ack_wait_s, self._expire)

    def _expire(self) -> None:
        if self._slots is not None:
            self._settle()
            self._queue.give_back(self._item)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._slots is not None:
            self._slots.release()
            self._slots = None


class _RequestDelivery(_Delivery[Record]):
    @property
    def record(self) -> Record:
        """The stored request."""
        return self._item.value


class _InvitationDelivery(_Delivery[bytes]):
    @property
    def payload(self) -> bytes:
        """The encoded invitation."""
        return self._item.value


class MemoryBroker:
    """The state all transports of one process share.

    Args:
        clock_ns: storage clock, nanoseconds since 1970.
        max_bytes: event bytes the log takes before it is full.
        ack_wait_s: seconds until an unanswered request or invitation is delivered again.
    """

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        max_bytes: int = 2**31,
        ack_wait_s: float = 5.0,
    ) -> None:
        self.clock_ns = clock_ns
        self.max_bytes = max_bytes
        self.ack_wait_s = ack_wait_s
        self.created_ns = clock_ns()
        self.records: list[Record] = []
        self.by_coordination: dict[str, list[Record]] = {}
        self.last_control: dict[str, int] = {}
        self.sequences: dict[bytes, int] = {}
        self.stored_bytes = 0
        self.any_append = _Signal()
        self._appends: dict[str, _Signal] = {}
        self.requests: _Queue[Record] = _Queue(ack_wait_s)
        self._inboxes: dict[tuple[str, str], _Queue[bytes]] = {}
        self.presence: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.watchers: dict[_PresenceWatch, None] = {}

    def append_signal(self, coordination: str) -> _Signal:
        """Fires whenever an event of ``coordination`` is stored."""
        return self._appends.setdefault(coordination, _Signal())

    def inbox(self, node: str, agent: str) -> _Queue[bytes]:
        """The invitations of one agent."""
        return self._inboxes.setdefault((node, agent), _Queue(self.ack_wait_s))

    def redeliver_now(self) -> None:
        """Deliver every unanswered request and invitation again, as if its time had run out."""
        self.requests.redeliver_now()
        for inbox in self._inboxes.values():
            inbox.redeliver_now()

    def wake_all(self) -> None:
        """Let every sleeping reader look again (some may have been closed)."""
        self.any_append.fire()
        self.requests.wake()
        for signal in (*self._appends.values(), *(watch.changed for watch in self.watchers)):
            signal.fire()
        for queue in self._inboxes.values():
            queue.wake()

    def store(self, submission: Submission, subject: str) -> int:
        """Store one event and wake its readers; returns the sequence."""
        event = submission.event
        coordination = event.header.coordination
        record = Record(len(self.records) + 1, self.clock_ns(), subject, event.wire)
        self.records.append(record)
        self.by_coordination.setdefault(coordination, []).append(record)
        self.sequences[event.id] = record.sequence
        self.stored_bytes += len(event.wire)
        if submission.event_class == "ctl":
            self.last_control[coordination] = record.sequence
        if submission.event_class == "req":
            self.requests.put(str(record.sequence), record)
        self.any_append.fire()
        if signal := self._appends.get(coordination):
            signal.fire()
        return record.sequence


class MemoryLog:
    """:class:`~mabeam.core.log.EventLog` in memory; duplicates are recognised by event id."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._closed = False

    def close(self) -> None:
        """Make every later call, and every open iterator, raise :class:`LogUnavailableError`."""
        self._closed = True
        self._broker.wake_all()

    async def append(self, submission: Submission) -> Appended:
        """See :meth:`mabeam.core.log.EventLog.append`."""
        return (await self.append_many([submission]))[0]

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """See :meth:`mabeam.core.log.EventLog.append_many`.

        Events of the step that are stored already are reported as duplicates; the rest is stored.
        """
        self._check_open()
        check_step(submissions)
        broker = self._broker
        subjects = [subject_of(submission) for submission in submissions]
        missing = [s for s in submissions if s.event.id not in broker.sequences]
        for submission in missing:
            coordination = submission.event.header.coordination
            last = broker.last_control.get(coordination, 0)
            if submission.expected_control not in (None, last):
                raise SequenceConflictError(
                    f"{coordination!r} is at control sequence {last}, "
                    f"not {submission.expected_control}",
                    last_sequence=last,
                )
        if broker.stored_bytes + sum(len(s.event.wire) for s in missing) > broker.max_bytes:
            raise LogFullError(
                f"the log holds {broker.stored_bytes} of {broker.max_bytes} bytes",
                hint="Raise max_bytes; stored events are never discarded.",
            )
        result = []
        for submission, subject in zip(submissions, subjects, strict=True):
            known = broker.sequences.get(submission.event.id)
            result.append(
                Appended(broker.store(submission, subject))
                if known is None
                else Appended(known, duplicate=True)
            )
        return result

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """See :meth:`mabeam.core.log.EventLog.read`."""
        self._check_open()
        records = self._broker.by_coordination.get(coordination, [])
        return records[bisect_right(records, after, key=lambda record: record.sequence) :]

    async def read_all(self, after: int = 0) -> AsyncIterator[list[Record]]:
        """See :meth:`mabeam.core.log.EventLog.read_all`."""
        end = len(self._broker.records)
        check_position(after, end)
        for start in range(after, end, READ_BATCH):
            self._check_open()
            yield self._broker.records[start : min(start + READ_BATCH, end)]

    async def follow(
        self, coordination: str, after: int | None = 0
    ) -> AsyncGenerator[Record, None]:
        """See :meth:`mabeam.core.log.EventLog.follow`."""
        after = after or 0
        signal = self._broker.append_signal(coordination)
        while True:
            records = await self.read(coordination, after)
            for record in records:
                after = record.sequence
                yield record
                self._check_open()
            if not records:
                await signal.wait()

    async def follow_all(self, after: int | None = None) -> AsyncIterator[list[Record]]:
        """See :meth:`mabeam.core.log.EventLog.follow_all`."""
        position = len(self._broker.records) if after is None else after
        check_position(position, len(self._broker.records))
        while True:
            self._check_open()
            batch = self._broker.records[position : position + READ_BATCH]
            position += len(batch)
            if batch:
                yield batch
            else:
                await self._broker.any_append.wait()

    async def record_at(self, sequence: int) -> Record | None:
        """See :meth:`mabeam.core.log.EventLog.record_at`."""
        self._check_open()
        known = 1 <= sequence <= len(self._broker.records)
        return self._broker.records[sequence - 1] if known else None

    async def head(self) -> Head:
        """See :meth:`mabeam.core.log.EventLog.head`."""
        self._check_open()
        return Head(self._broker.created_ns, len(self._broker.records))

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailableError("the connection is closed")


class _PresenceWatch:
    """Heartbeats one reader has not seen yet, the last per agent."""

    def __init__(self) -> None:
        self.pending: dict[tuple[str, str], bytes] = {}
        self.changed = _Signal()


def _slots(capacity: int) -> asyncio.Semaphore:
    if capacity < 1:
        raise UsageError(f"capacity is {capacity}, it must be at least 1")
    return asyncio.Semaphore(capacity)


class MemoryTransport:
    """:class:`~mabeam.core.transport.Transport` over a :class:`MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._log = MemoryLog(broker)
        self._closed = False

    @property
    def log(self) -> EventLog:
        """The event log."""
        return self._log

    async def requests(self, capacity: int) -> AsyncIterator[RequestDelivery]:
        """See :meth:`mabeam.core.transport.Transport.requests`."""
        queue = self._broker.requests
        slots = _slots(capacity)
        while True:
            await slots.acquire()
            yield _RequestDelivery(queue, await queue.take(self._check_open), slots)

    async def invite(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.invite`."""
        self._check_open()
        if len(payload) > MAX_INVITATION_BYTES:
            raise AppendRefusedError(f"the invitation of {agent!r} has {len(payload)} bytes")
        self._broker.inbox(node, agent).put(coordination, payload)

    async def invitations(
        self, node: str, agent: str, capacity: int
    ) -> AsyncIterator[InvitationDelivery]:
        """See :meth:`mabeam.core.transport.Transport.invitations`."""
        inbox = self._broker.inbox(node, agent)
        slots = _slots(capacity)
        while True:
            await slots.acquire()
            yield _InvitationDelivery(inbox, await inbox.take(self._check_open), slots)

    async def beat(self, node: str, agent: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.beat`."""
        self._check_open()
        self._broker.presence[node, agent] = (self._broker.clock_ns(), payload)
        for watch in self._broker.watchers:
            watch.pending[node, agent] = payload
            watch.changed.fire()

    async def heartbeats(self) -> AsyncIterator[tuple[str, str, bytes]]:
        """See :meth:`mabeam.core.transport.Transport.heartbeats`."""
        watch = _PresenceWatch()
        oldest = self._broker.clock_ns() - PRESENCE_AGE_NS
        for key, (at_ns, payload) in self._broker.presence.items():
            if at_ns >= oldest:
                watch.pending[key] = payload
        self._broker.watchers[watch] = None
        try:
            while True:
                self._check_open()
                if not watch.pending:
                    await watch.changed.wait()
                    continue
                node, agent = next(iter(watch.pending))
                yield node, agent, watch.pending.pop((node, agent))
        finally:
            self._broker.watchers.pop(watch, None)

    async def close(self) -> None:
        """See :meth:`mabeam.core.transport.Transport.close`."""
        self._closed = True
        self._log.close()

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailableError("the connection is closed")
