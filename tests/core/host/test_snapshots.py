"""Snapshots in the journal: what is dropped, when, and what a restart finds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from audit_log import key_of

from mabeam.core.chain import ChainBook, ChainHead
from mabeam.core.coordination import Coordination
from mabeam.core.errors import LocalProtocolError
from mabeam.core.host import snapshots
from mabeam.core.host.slots import followed_slot, snapshot_slot
from mabeam.core.host.snapshots import Note, Snapshots, newest_note
from mabeam.core.journal import Entry, Journal, JournalError
from mabeam.core.log import Place, Record
from mabeam.core.machine import Intent, Key, LogEvent, Machine, Snapshot
from tests.protocols.simple.test_mutants import Mutant, applied

KEY = key_of("a-1")
EPOCH = bytes(32)
FOR_EVER = 2**62
PLACE = Place(50, 5, bytes(32))


class Counting(Machine):
    """Settles every key up to its milestone."""

    def __init__(self) -> None:
        self.at = 0
        self.needs: int | None = 40

    def apply(self, event: LogEvent) -> None:
        """Nothing is said here."""

    def intents(self) -> Iterable[Intent]:
        """Nothing is to be said."""
        return ()

    def milestone(self) -> int:
        """As far as the test wants."""
        return self.at

    def snapshot(self) -> Snapshot | None:
        """The milestone."""
        return Snapshot(b"state-%d" % self.at, self.needs, (3, 45))

    def is_settled(self, key: Key) -> bool:
        """See above."""
        return int(key[1]) <= self.at


class Taking:
    """A membership as far as its snapshots are concerned."""

    def __init__(self, directory: Path) -> None:
        self.machine = Counting()
        self.journal = Journal(directory / "a-1.journal", "a-1", KEY.key_id)
        self.taking = self._begin()

    def _begin(self) -> Snapshots:
        chains = ChainBook()
        chains.restore([ChainHead("a-1", 5, bytes(32), 0)])
        fold = SimpleNamespace(
            id="c1",
            epoch=EPOCH,
            machine=self.machine,
            request=SimpleNamespace(sequence=1),
            announced=None,
            chains=chains,
        )
        return Snapshots(cast(Coordination, fold), "a-1", self.journal)

    async def sign(self, *numbers: int) -> None:
        """Sign and store events under numbered keys."""
        for number in numbers:
            wire = b"event-%d" % number
            self.taking.signed(wire, number, slot_of(number))
            await self.journal.sign_once("c1", slot_of(number), Entry(wire), FOR_EVER)

    async def snapshot(self, at: int) -> None:
        """Reach a milestone, take a snapshot and write it."""
        self.machine.at = at
        self.taking.prepare(PLACE)
        taken = self.taking.take()
        assert taken is not None
        await self.journal.sign_all("c1", [taken], FOR_EVER)
        await self.taking.written()

    async def restart(self) -> Note | None:
        """Read everything from disk again."""
        path = self.journal.path
        await self.journal.close()
        self.journal = Journal(path, "a-1", KEY.key_id)
        self.taking = self._begin()
        return self.taking.newest()

    def kept(self) -> list[int]:
        """Numbers of the events that are kept."""
        return [int(key[-1]) for key in self.journal.keys("c1", followed_slot(EPOCH))]

    def snapshots(self) -> list[int]:
        """Milestones of the snapshots that are kept."""
        return [int(key[-1]) for key in self.journal.keys("c1", snapshot_slot(EPOCH))]


def slot_of(number: int) -> Key:
    return followed_slot(EPOCH, ("vote", number))


def stored(number: int) -> Record:
    return Record(number, 1, "", b"event-%d" % number)


@pytest.fixture
async def taking(tmp_path: Path) -> Taking:
    made = Taking(tmp_path)
    await made.sign(1, 2, 3, 4)
    made.taking.confirm(map(stored, (1, 2, 4)))
    return made


async def test_what_is_settled_and_stored_is_dropped(taking: Taking) -> None:
    await taking.snapshot(2)
    assert (taking.kept(), taking.snapshots()) == ([3, 4], [2])
    await taking.snapshot(4)
    assert (taking.kept(), taking.snapshots()) == ([3], [4])  # 3 was not seen in the log
    taking.taking.confirm([stored(3)])
    await taking.snapshot(5)
    assert (taking.kept(), taking.snapshots()) == ([], [5])


async def test_a_restart_finds_the_newest_and_what_it_leaves(taking: Taking) -> None:
    await taking.snapshot(2)
    await taking.snapshot(4)
    note = await taking.restart()
    assert note is not None
    assert (note.milestone, note.state, note.place) == (4, b"state-4", PLACE)
    assert (note.requested, note.after, note.again) == (1, 39, (3,))
    assert taking.snapshots() == [4]
    # The file still has what was dropped; it is recognised as such and dropped again.
    over = [number for number in taking.kept() if taking.taking.is_over(note, slot_of(number))]
    assert sorted(taking.kept()) == [1, 2, 3, 4]
    assert sorted(over) == [1, 2, 4]  # the log was not seen to hold 3
    assert note.unstored == (slot_of(3),)


async def test_one_a_milestone_and_not_too_often(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not taking.taking.is_due()
    taking.machine.at = 2
    assert not taking.taking.is_due(), "it has only just begun"
    monkeypatch.setattr(snapshots, "SNAPSHOT_S", 0.0)
    taking.taking = taking._begin()
    assert taking.taking.is_due()
    assert taking.taking.take() is None, "what the log holds is not known yet"
    await taking.snapshot(2)
    assert not taking.taking.is_due()
    taking.taking.prepare(PLACE)
    assert taking.taking.take() is None
    taking.machine.at = 3
    assert taking.taking.is_due()


async def test_nothing_is_read_again_where_nothing_is_needed(taking: Taking) -> None:
    taking.machine.needs = None
    await taking.snapshot(2)
    note = newest_note(taking.journal, "c1", EPOCH)
    assert note is not None
    assert (note.after, note.again) == (50, (3, 45))


async def test_a_snapshot_too_large_is_not_taken(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_SNAPSHOT_BYTES", 10)
    taking.machine.at = 2
    taking.taking.prepare(PLACE)
    assert taking.taking.take() is None
    assert taking.kept() == [1, 2, 3, 4]


async def test_one_that_cannot_be_read_keeps_its_author_mute(taking: Taking) -> None:
    for milestone, junk in ((7, b"junk"), (8, b"\x98\x02\x00\x00\x93\x00\x00\xa0\x00\x90\x90\x90")):
        slot = snapshot_slot(EPOCH, milestone)
        await taking.journal.sign_once("c1", slot, Entry(junk), FOR_EVER)
        with pytest.raises(LocalProtocolError, match="snapshot"):
            taking.taking.newest()


# Crashes between the steps ------------------------------------------------------------------------


async def fails_while_writing(taking: Taking, patch: pytest.MonkeyPatch) -> None:
    """A snapshot that cannot be written settles nothing."""
    taking.machine.at = 2
    taking.taking.prepare(PLACE)
    taken = taking.taking.take()
    assert taken is not None

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with patch.context() as only_now:
        only_now.setattr(os, "fdatasync", full)
        with pytest.raises(JournalError):
            await taking.journal.sign_all("c1", [taken], FOR_EVER)
    assert (taking.kept(), taking.snapshots()) == ([1, 2, 3, 4], [])
    assert await taking.restart() is None
    assert taking.kept() == [1, 2, 3, 4]


async def test_a_snapshot_that_cannot_be_written_settles_nothing(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fails_while_writing(taking, monkeypatch)


async def test_entries_dropped_before_the_snapshot_is_durable(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = Mutant(
        "entries dropped before the snapshot is durable",
        Snapshots.take,
        "return self._taken, Entry(encoded)",
        "[self._journal.discard((name, slot)) for slot in self._settled];"
        " return self._taken, Entry(encoded)",
    )
    with applied(mutant), pytest.raises(AssertionError):
        await fails_while_writing(taking, monkeypatch)


async def test_torn_before_it_was_durable_everything_else_is_there(taking: Taking) -> None:
    await taking.snapshot(2)
    await taking.sign(5)
    taking.machine.at = 4
    taking.taking.prepare(PLACE)
    taken = taking.taking.take()
    assert taken is not None
    size = taking.journal.path.stat().st_size
    await taking.journal.sign_all("c1", [taken], FOR_EVER)
    whole = taking.journal.path.read_bytes()
    for length in range(size, len(whole)):
        taking.journal.path.write_bytes(whole[:length])
        note = await taking.restart()
        assert note is not None
        assert note.milestone == 2
        assert taking.kept() == [1, 2, 3, 4, 5]
    taking.journal.path.write_bytes(whole)
    note = await taking.restart()
    assert note is not None
    assert note.milestone == 4


async def test_dropped_entries_are_gone_for_good_when_the_file_is_rewritten(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mabeam.core.journal.COMPACT_BYTES", 0)
    await taking.sign(*range(5, 40))
    taking.taking.confirm(map(stored, range(1, 40)))
    before = taking.journal.path.stat().st_size
    signing = asyncio.create_task(taking.sign(40))
    await taking.snapshot(30)
    await signing
    assert taking.journal.path.stat().st_size < before
    note = await taking.restart()
    assert note is not None
    assert note.milestone == 30
    assert taking.kept() == [*range(31, 41)]
    assert any(taking.snapshots())
    found: Any = taking.journal.find("c1", slot_of(35))
    assert found == Entry(b"event-35")
