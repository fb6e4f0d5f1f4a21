"""Connections that fail on demand, over the in-memory log.

Every node has one :class:`Link` to the log. What is under way when its sender dies still lands.
Latencies are drawn from a generator of the link's own, so removing a fault elsewhere disturbs
little.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from ..errors import LogUnavailableError
from ..log import Record
from ..memory_transport import MemoryBroker
from ..names import REGISTRY
from .clock import EPOCH_NS

T = TypeVar("T")

TIMEOUT_S = 1.0
"""After this a call that gets no answer raises :class:`LogUnavailableError`."""

LATENCY_S = (0.001, 0.02)
"""Bounds of an ordinary way to the log or back."""


class Network:
    """The log and all links to it.

    Args:
        seed: seed of the links' generators.
        clock_ns: storage clock.

    Attributes:
        broker: the log.
        links: by node id.
        lost: records that were acknowledged and are there no more.
        generation: counts the restarts of the log that lost something.
    """

    def __init__(self, seed: str, clock_ns: Callable[[], int]) -> None:
        self.broker = MemoryBroker(clock_ns=clock_ns)
        self.links: dict[str, Link] = {}
        self.lost: list[Record] = []
        self.generation = 0
        self._seed = seed
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def link(self, id: str) -> Link:
        """The link of a node."""
        if id not in self.links:
            self.links[id] = Link(random.Random(f"{self._seed}/link/{id}"))
        return self.links[id]

    async def news(self, coordination: str, position: int, until: float | None) -> None:
        """Wait for records of a coordination behind a position, at most until a virtual time."""
        records = self.broker.by_coordination.get(coordination)
        if records and records[-1].sequence > position:
            return
        waiting = self.broker.append_signal(coordination).wait()
        if until is None:
            await waiting
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await waiting

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something that does not end with the node that began it."""
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # its waiter may be dead

    def store_again(self, record: Record, subject: str = "") -> Record:
        """Store the bytes of a record once more, past the recognition of duplicates."""
        return self.store_raw(subject or record.subject, record.wire)

    def store_raw(self, subject: str, wire: bytes) -> Record:
        """Store any bytes under any subject, as a connection without manners can."""
        broker = self.broker
        record = Record(len(broker.records) + 1, broker.clock_ns(), subject, wire)
        broker.records.append(record)
        _, _, _, coordination, event_class, *_ = [*subject.split("."), "", "", "", "", ""]
        broker.by_coordination.setdefault(coordination, []).append(record)
        if event_class == "ctl":
            broker.last_control[coordination] = record.sequence
        broker.any_append.fire()
        broker.append_signal(coordination).fire()
        return record

    def truncate(self, count: int) -> None:
        """Lose the newest records although they were acknowledged; every feed notices."""
        broker = self.broker
        gone = broker.records[max(0, len(broker.records) - count) :]
        del broker.records[len(broker.records) - len(gone) :]
        first = gone[0].sequence if gone else len(broker.records) + 1
        for name, records in broker.by_coordination.items():
            records[:] = [record for record in records if record.sequence < first]
            control = [each.sequence for each in records if each.subject.split(".", 5)[4] == "ctl"]
            broker.last_control[name] = max(control, default=0)
        broker.sequences = {id: at for id, at in broker.sequences.items() if at < first}
        self.lost += gone
        self.generation += 1
        broker.wake_all()


class Sight(msgspec.Struct, frozen=True):
    """Some records reach a reader late, or not at all before ``until``.

    Attributes:
        hides: which records.
        delay_s: how long after they were stored; at random up to that if ``scatters``.
        until: virtual time from which everything is shown.
        scatters: whether each of them takes a time of its own.
    """

    hides: Callable[[Record], bool]
    delay_s: float
    until: float
    scatters: bool = False

    def shown_at(self, record: Record, stored: float) -> float:
        """When a record stored at some virtual time is shown."""
        if not self.hides(record):
            return 0.0
        share = chance_of(record.sequence, 1000) / 1000 if self.scatters else 1.0
        return min(self.until, stored + self.delay_s * share)


def chance_of(sequence: int, of: int, salt: int = 0) -> int:
    """A number below ``of`` that follows from a record's position alone."""
    return crc32(sequence.to_bytes(8, "big"), salt) % of


class Link:
    """The way of one node to the log and back.

    Attributes:
        sights: what this reader is shown late.
        active: strength of each fault that is on now: ``cut``, ``stall``, ``delay`` (ms), ``slow``
            (factor), ``duplicate``, ``withhold``, ``reorder``, and in per cent ``drop``,
            ``lose_ack``, ``lose_invitation``, ``repeat_invitation``.
    """

    def __init__(self, rng: random.Random) -> None:
        self.active: dict[str, int] = {}
        self.sights: list[Sight] = []
        self.rng = rng
        self._changed = asyncio.Event()

    def set(self, kind: str, amount: int) -> None:
        """Turn a fault on (``amount`` > 0) or off."""
        if amount:
            self.active[kind] = amount
        else:
            self.active.pop(kind, None)
        self._changed.set()
        self._changed = asyncio.Event()

    def shown_at(self, record: Record) -> float:
        """Virtual time from which this reader is shown a record; 0 if nothing hides it, as nothing
        does with the registry."""
        if not self.sights or record.subject.split(".", 4)[3] == REGISTRY:
            return 0.0
        stored = (record.stored_ns - EPOCH_NS) / 1e9
        return max(sight.shown_at(record, stored) for sight in self.sights)

    def happens(self, kind: str) -> bool:
        """Whether a fault of some probability strikes now."""
        return kind in self.active and self.rng.randrange(100) < self.active[kind]

    async def travel(self) -> None:
        """One way to the log, or back."""
        factor = self.active.get("slow", 1)
        extra = self.rng.random() * self.active.get("delay", 0) / 1000
        await asyncio.sleep(self.rng.uniform(*LATENCY_S) * factor + extra)

    async def until_shown(self) -> None:
        """Wait as long as nothing gets through to this reader."""
        while "cut" in self.active or "stall" in self.active:
            await self._changed.wait()

    async def fail(self, why: str) -> LogUnavailableError:
        """The error of a call that got no answer, after its time is over."""
        await asyncio.sleep(TIMEOUT_S)
        return LogUnavailableError(why)
