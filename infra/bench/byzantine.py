"""Ordering by replicas: slots and operations a second, latency, appends a slot.

Everything runs in one process on one event loop, so the yardstick is what one core could do with
nothing but the signatures: with ``a`` replicas alive and ``b`` requests a slot,

    signatures     2a + b          (pre-prepare, a - 1 prepares, a commits, the requests)
    verifications  a (2a - 2) + ab (every replica verifies the other replicas' and all requests)

at the rates sampled on the same thread while the run goes on. Both sides of the ratio count CPU
time, so that a machine shared with others gives the same one. Nothing is verified once for all:
each replica decodes and verifies for itself.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec

from .coordinating import percentile
from .ordering_load import OrderingLoad
from .replica_group import ReplicaGroup
from .result import Figure
from .signatures import RunningYardstick

CLIENTS = tuple(f"client-{number}" for number in range(1, 9))
MEMORY_DISK = Path("/dev/shm")
Run = Callable[[Coroutine[Any, Any, "Measured"]], "Measured"]

WARM_UP = 5
"""Fraction of the measured requests that run first, as a divisor."""


class Case(msgspec.Struct, frozen=True):
    """One configuration to measure.

    Attributes:
        replicas: n.
        batch: most requests in one slot.
        requests: how many are measured.
        in_flight: how many are in flight.
        crashed: ``nobody``, ``backup`` or ``primary``.
        operations: operations in one signed request.
        disk: whether journals are on disk; in memory otherwise, so that fsync costs nothing.
    """

    replicas: int
    batch: int
    requests: int
    in_flight: int
    crashed: str = "nobody"
    operations: int = 1
    disk: bool = False

    @property
    def name(self) -> str:
        """As shown."""
        down = "" if self.crashed == "nobody" else f", {self.crashed} down"
        disk = ", journals on disk" if self.disk else ""
        each = f", {self.operations} operations a request" if self.operations > 1 else ""
        return f"n={self.replicas}, batch {self.batch}{each}{down}{disk}"

    @property
    def alive(self) -> int:
        """Replicas that run."""
        return self.replicas - (self.crashed != "nobody")

    def limit(self, sign_per_s: float, verify_per_s: float) -> float:
        """Slots a second if signing and verifying were all there is to do, on one thread."""
        alive = self.alive
        signed = 2 * alive + self.batch
        verified = alive * (2 * alive - 2) + alive * self.batch
        return 1 / (signed / sign_per_s + verified / verify_per_s)


CASES = (
    *(
        Case(n, batch, requests, in_flight, crashed)
        for n, batch, requests, in_flight in (
            (4, 1, 1_500, 16),
            (4, 100, 10_000, 800),
            (7, 1, 600, 16),
            (7, 100, 5_000, 800),
        )
        for crashed in ("nobody", "backup", "primary")
    ),
    Case(4, 100, 10_000, 800, operations=10),
    Case(4, 1, 1_500, 16, disk=True),
    Case(4, 100, 10_000, 800, disk=True),
)


class Measured(msgspec.Struct, frozen=True):
    """What one case gave: totals over the measured requests.

    Attributes:
        slots, requests, appends: committed, and records stored.
        seconds: it took.
        cpu_s: CPU time of the process, without the yardstick's.
        rates: signatures and verifications a CPU second meanwhile.
        latencies: of the requests, seconds, sorted.
    """

    slots: int
    requests: int
    appends: int
    seconds: float
    cpu_s: float
    rates: tuple[float, float]
    latencies: list[float]


async def order(case: Case, directory: Path) -> Measured:
    """Run one case on a fresh group with its journals in ``directory``."""
    group = ReplicaGroup(directory, case.replicas, CLIENTS)
    try:
        await group.open(
            {
                "batch_max_requests": case.batch,
                "batch_delay_ms": 10,
                "view_timeout_ms": 4_000,
            }
        )
        load = await group.load(case.in_flight, case.operations)
        if case.crashed != "nobody":
            await load.run(case.in_flight)
            await group.crash(group.replicas[0 if case.crashed == "primary" else -1])
        await load.run(case.requests // WARM_UP)
        return await _measure(case, load)
    finally:
        await group.close()


async def _measure(case: Case, load: OrderingLoad) -> Measured:
    slots, appends = load.slots, sum(load.appends.values())
    load.latencies.clear()
    yardstick = RunningYardstick()
    yardstick.sample()
    sampling = asyncio.create_task(yardstick.run())
    cpu_s, taken_s = time.process_time(), yardstick.spent_s
    try:
        seconds = await load.run(case.requests)
    finally:
        sampling.cancel()
    cpu_s = time.process_time() - cpu_s - (yardstick.spent_s - taken_s)
    return Measured(
        load.slots - slots,
        case.requests,
        sum(load.appends.values()) - appends,
        seconds,
        cpu_s,
        yardstick.rates(),
        sorted(load.latencies),
    )


def measure(run: Run, scratch: Path) -> Iterator[Figure]:
    """The figures of all cases; ``scratch`` is a directory on disk."""
    for case in CASES:
        parent = scratch if case.disk or not MEMORY_DISK.is_dir() else MEMORY_DISK
        with tempfile.TemporaryDirectory(prefix="mabeam-bench-", dir=parent) as directory:
            yield from figures(case, run(order(case, Path(directory))))


def figures(case: Case, measured: Measured) -> Iterator[Figure]:
    """What is shown of one case."""
    limit = case.limit(*measured.rates)
    per_cpu_s = measured.slots / measured.cpu_s
    rate = measured.slots / measured.seconds
    yield Figure(
        f"{case.name}: slots",
        rate,
        "/s",
        aim=">= 250" if case.replicas == 4 and case.batch == 1 else "",
    )
    yield Figure(
        f"{case.name}: slots per CPU second",
        per_cpu_s,
        "/s",
        per_cpu_s / limit,
        f"{limit:,.0f}/s",
        ">= 0.5",
    )
    if case.batch > 1:
        rate = measured.requests * case.operations / measured.seconds
        yield Figure(f"{case.name}: operations", rate, "/s", aim=">= 10,000")
    yield Figure(f"{case.name}: p50", percentile(measured.latencies, 50) * 1e3, "ms")
    yield Figure(f"{case.name}: p99", percentile(measured.latencies, 99) * 1e3, "ms")
    appends = (measured.appends - measured.requests) / measured.slots
    yield Figure(f"{case.name}: appends a slot", appends, "", aim=f"{2 * case.alive}")
