"""The record of a host's chains: one event each, never two under one number, dropped in time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from audit_log import key_of

from mabeam.core.author import Author
from mabeam.core.envelope import Event
from mabeam.core.errors import SignOnceError
from mabeam.core.hashing import ZERO32
from mabeam.core.host.signed_chains import KEEP_OPEN_S, KEEP_S, SignedChains
from mabeam.core.journal import Journal
from mabeam.core.kernel_events import CoordinationCancelled, CoordinationClaimed
from mabeam.core.log import Record, Submission
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.sim.network import Network

KEY = key_of("coord-1")
S = 10**9


class _Host:
    """A journal, a log and a clock."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 1_000
        self.network = Network("", lambda: self.now_s * S)
        self.broker: MemoryBroker = self.network.broker
        self.log = MemoryTransport(self.broker).log
        self.path = directory / "coord-1.journal"
        self.author = Author("coord-1", "n1", KEY, lambda: self.now_s * S)
        self.chains: SignedChains

    async def start(self) -> None:
        self.journal = Journal(self.path, "coord-1", KEY.key_id)
        self.chains = SignedChains(self.journal, lambda: self.now_s * S)
        await self.chains.begin(self.log)

    async def restart(self) -> None:
        await self.journal.close()
        await self.start()

    def claim(self, name: str = "c1") -> Event:
        return self.author.sign(name, b"", "coordination.claimed", CoordinationClaimed(1, ZERO32))

    def cancel(self, name: str = "c1") -> Event:
        return self.author.sign(name, b"", "coordination.cancelled", CoordinationCancelled())

    async def store(self, event: Event) -> Record:
        await self.log.append(Submission(event, "ctl", "n1"))
        self.chains.seen = record = self.broker.records[-1]
        return record

    async def tidy(self, after_s: int) -> None:
        self.now_s += after_s
        await self.chains.tidy(self.log, ())

    def newest(self, name: str = "c1") -> Event | None:
        signed = self.chains.newest(name)
        return signed.event if signed else None


@pytest.fixture
async def host(tmp_path: Path) -> _Host:
    it = _Host(tmp_path)
    await it.start()
    return it


async def test_the_newest_event_of_a_chain_survives(host: _Host) -> None:
    events = [host.claim() for _ in range(5)]
    for event in events:
        await host.chains.record(event)
        await host.chains.record(event)  # to be sent again
    assert host.newest() == events[4]
    assert len(host.journal) == 1
    await host.restart()
    assert (host.newest(), host.newest("c2")) == (events[4], None)
    assert len(host.journal) == 1


async def test_no_number_is_used_twice(host: _Host) -> None:
    events = [host.claim() for _ in range(3)]
    for event in events:
        await host.chains.record(event)
    again = Author("coord-1", "n1", KEY, lambda: 5)
    for _ in range(3):
        other = again.sign("c1", b"", "coordination.claimed", CoordinationClaimed(2, ZERO32))
        with pytest.raises(SignOnceError):
            await host.chains.record(other)
        await host.restart()
    assert host.newest() == events[2]


async def test_an_end_is_dropped_only_when_the_log_has_shown_it(host: _Host) -> None:
    open_, stored, refused = host.claim("open"), host.cancel("stored"), host.cancel("refused")
    for event in (open_, stored, refused):
        await host.chains.record(event)
    await host.store(stored)
    await host.restart()  # who has been told nothing must ask the log
    await host.tidy(KEEP_S - 1)
    assert host.newest("stored") == stored
    await host.tidy(2)
    assert host.newest("stored") is None
    assert (host.newest("refused"), host.newest("open")) == (refused, open_)
    await host.tidy(KEEP_S + 1)
    assert host.newest("refused") == refused
    await host.restart()
    assert host.newest("refused") == refused
    await host.tidy(KEEP_OPEN_S)
    assert host.newest("open") is None


async def test_an_event_signed_while_the_one_before_is_kept_longer_is_the_newest(
    host: _Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before is in no log and its time is over, just when another one is signed."""
    first, second = host.cancel(), host.cancel()
    await host.chains.record(first)
    recording: list[asyncio.Task[None]] = []

    async def read_slowly(name: str) -> list[Record]:
        recording.append(asyncio.create_task(host.chains.record(second)))
        await asyncio.sleep(0)
        return []

    monkeypatch.setattr(host.log, "read", read_slowly)
    await host.tidy(KEEP_S + 1)
    await asyncio.gather(*recording)
    assert recording
    assert host.newest() == second
    assert len(host.journal.keys("c1", ())) == 1
    await host.restart()
    assert host.newest() == second


async def test_in_hand_nothing_is_dropped(host: _Host) -> None:
    event = host.cancel()
    await host.chains.record(event)
    await host.store(event)
    host.now_s += KEEP_S + 1
    await host.chains.tidy(host.log, {"c1"})
    assert host.newest() == event


async def test_a_log_that_lost_what_was_dropped_is_found_out(host: _Host) -> None:
    request = await host.store(host.claim("any"))
    event = host.cancel()
    await host.chains.record(event)
    host.chains.came_back((await host.store(event), event)[1])
    await host.tidy(KEEP_S + 1)
    assert host.newest() is None
    await host.restart()
    assert host.chains.lost_ns == 0
    host.network.truncate(1)
    host.now_s += 1
    await host.store(host.claim("other"))  # something else now has the number of what is lost
    for _ in range(2):
        await host.restart()
        assert host.chains.lost_ns > 0
        assert not host.chains.knows_all_of(request)
        later = await host.store(host.claim("later"))
        assert host.chains.knows_all_of(later)
        await host.tidy(30)  # newer marks do not hide the loss
