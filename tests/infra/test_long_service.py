"""What a long service leaves with its replicas does not grow with what it has ordered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mabeam.core import journal as journal_module
from mabeam.core.host import snapshots
from mabeam.core.host.membership import Membership
from mabeam.core.host.snapshots import Note
from mabeam.core.memory_transport import MemoryBroker
from mabeam.infra.bench.ordering_load import OrderingLoad
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
    folded: int
    restart_s: float


class Restarts:
    """Counts the records that a membership folds before it goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folded = 0
        self.snapshots = 0
        read = Membership._read_history

        async def counted(member: Membership, note: Note | None) -> None:
            await read(member, note)
            self.folded = len(member._taken)
            self.snapshots += note is not None

        monkeypatch.setattr(Membership, "_read_history", counted)


@pytest.fixture
async def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReplicaGroup]:
    monkeypatch.setattr(snapshots, "SNAPSHOT_S", 0.05)  # before the first membership reads it
    made = ReplicaGroup(tmp_path, 4, CLIENTS)
    try:
        await made.open(CONFIG)
        yield made
    finally:
        await made.close()


async def sample(group: ReplicaGroup, load: OrderingLoad, restarts: Restarts) -> Sample:
    """Order for a while, start a replica again and wait until it votes."""
    await load.run(SLOTS)
    journal = group.journals[VICTIM]
    entries, size = len(journal), journal.path.stat().st_size
    started = time.perf_counter()
    await group.restart(VICTIM)
    before = len(group.broker.records)
    while not voted(group.broker, VICTIM, before):
        await load.run(1)
        await asyncio.sleep(0.01)
    took = time.perf_counter() - started
    return Sample(load.slots, entries, size, restarts.folded, took)


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
    load = await group.load(8)
    restarts = Restarts(monkeypatch)
    samples = [await sample(group, load, restarts) for _ in range(ROUNDS)]
    for each in samples:
        assert each.entries < SLOTS, samples
        assert each.journal_bytes < 4 * COMPACT_BYTES, samples
        assert 0 < each.folded < 12 * SLOTS, samples
    assert samples[-1].slots >= ROUNDS * SLOTS
    assert restarts.snapshots == ROUNDS
