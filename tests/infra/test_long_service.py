"""What a long service leaves with its replicas does not grow with what it has ordered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mabeam.core import journal as journal_module
from mabeam.core.host import membership, snapshots
from mabeam.core.log import Record
from mabeam.core.memory_transport import MemoryBroker, MemoryLog
from mabeam.infra.bench.ordering_load import SERVICE, OrderingLoad
from mabeam.infra.bench.replica_group import ReplicaGroup

CLIENTS = ("ann", "bob")
CONFIG = {
    "batch_max_requests": 1,
    "batch_delay_ms": 0,
    "checkpoint_interval": 8,
    "view_timeout_ms": 20_000,
}
ROUNDS = 4
SLOTS = 150
VICTIM = "replica-03"
COMPACT_BYTES = 64 * 1024


class Sample(NamedTuple):
    """What one replica holds, and what it took to start it again."""

    slots: int
    entries: int
    journal_bytes: int
    records_read: int
    restart_s: float


class CountedReads:
    """Counts the records that hosts read from the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records = 0
        read = MemoryLog.read

        async def counted(log: MemoryLog, coordination: str, after: int = 0) -> list[Record]:
            records = await read(log, coordination, after)
            self.records += len(records) if coordination == SERVICE else 0
            return records

        monkeypatch.setattr(MemoryLog, "read", counted)


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[ReplicaGroup]:
    made = ReplicaGroup(tmp_path, 4, CLIENTS)
    try:
        await made.open(CONFIG)
        yield made
    finally:
        await made.close()


async def sample(group: ReplicaGroup, load: OrderingLoad, reads: CountedReads) -> Sample:
    """Order for a while, start a replica again and wait until it votes."""
    await load.run(SLOTS)
    journal = group.journals[VICTIM]
    entries, size = len(journal), journal.path.stat().st_size
    reads.records, started = 0, time.perf_counter()
    await group.restart(VICTIM)
    before = len(group.broker.records)
    while not voted(group.broker, VICTIM, before):
        await load.run(1)
        await asyncio.sleep(0.01)
    took = time.perf_counter() - started
    return Sample(load.slots, entries, size, reads.records, took)


def voted(broker: MemoryBroker, author: str, after: int) -> bool:
    """Whether a replica's commit is among the newer records."""
    return any(
        ".byzantine_commit_sent." in record.subject and record.subject.endswith(author)
        for record in broker.records[after:]
    )


async def test_journal_and_restart_are_bounded(
    group: ReplicaGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", COMPACT_BYTES)
    monkeypatch.setattr(snapshots, "SNAPSHOT_S", 0.05)
    monkeypatch.setattr(membership, "QUIET_S", 3_600.0)  # reads for other reasons count for nothing
    load = await group.load(8)
    reads = CountedReads(monkeypatch)
    samples = [await sample(group, load, reads) for _ in range(ROUNDS)]
    for each in samples:
        assert each.entries < SLOTS, samples
        assert each.journal_bytes < 4 * COMPACT_BYTES, samples
        assert each.records_read < 12 * SLOTS, samples
    assert samples[-1].slots >= ROUNDS * SLOTS
