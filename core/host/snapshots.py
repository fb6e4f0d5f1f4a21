"""Snapshots of a followed coordination in the journal, and what they make dispensable.

A snapshot rides in the same group as what was signed before it, so it is never durable without
that, and costs no fsync of its own. What it settles is dropped when it is durable and not before. A
restart begins with the newest one; the log is then read from where its machine still needs events.

Dropped is only what the machine calls settled and the log has been seen to hold. If the log loses
its tail later, the newer own events are appended again from the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ..chain import ChainHead
from ..coordination import Coordination
from ..errors import LocalProtocolError
from ..journal import Entry, Journal
from ..log import Place, Record
from ..machine import Key
from ..telemetry import logger
from .slots import followed_slot, intent_key, snapshot_slot

_log = logger("agent")

VERSION = 1

SNAPSHOT_S = 1.0
"""Least time between two snapshots."""

MAX_SNAPSHOT_BYTES = 512 * 1024
"""A larger one is not taken; the next one may be smaller."""


class Note(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot as the journal keeps it.

    Attributes:
        version: of this structure.
        milestone: how far the machine had come for good.
        requested: log position of the request of the coordination.
        place: a record; this one and all before it had been folded.
        after: log position behind which everything must be folded again.
        again: positions of single older records that must be, too.
        heads: the authors' chains; what was signed here from the own head on is newer.
        unstored: journal keys of older own events that the log had not been seen to hold.
        state: of the machine.
    """

    version: int
    milestone: int
    requested: int
    place: Place
    after: int
    again: tuple[int, ...]
    heads: tuple[ChainHead, ...]
    unstored: tuple[Key, ...]
    state: bytes

    def next_number(self, author: str) -> int:
        """Number of the author's first event that the snapshot does not cover."""
        return next((head.number for head in self.heads if head.author == author), 0)


class _Own(NamedTuple):
    number: int
    slot: Key


class Snapshots:
    """Takes the snapshots of one membership, one a milestone, and finds the newest one again.

    Args:
        coordination: the fold, with its machine.
        author: whose membership it is.
        journal: where they are kept.
    """

    def __init__(self, coordination: Coordination, author: str, journal: Journal) -> None:
        self._coordination = coordination
        self._author = author
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._milestone = 0  # of the last snapshot
        self._next_at = self._loop.time() + SNAPSHOT_S
        self._place: Place | None = None  # given, a snapshot may be taken
        self._unconfirmed: dict[bytes, _Own] = {}
        self._kept: Key | None = None  # the newest durable one
        self._taken: Key | None = None  # the one being written
        self._settled: list[Key] = []

    # Restart ------------------------------------------------------------------------------------

    def newest(self) -> Note | None:
        """What the journal's newest snapshot says; older ones are forgotten.

        Raises:
            LocalProtocolError: it cannot be read; nothing may be signed without it.
        """
        name, epoch = self._coordination.id, self._coordination.epoch
        note = newest_note(self._journal, name, epoch)
        if note is not None:
            self._kept, self._milestone = snapshot_slot(epoch, note.milestone), note.milestone
            for key in self._journal.keys(name, snapshot_slot(epoch)):
                if key != self._kept:
                    self._journal.discard((name, key))
        return note

    def is_over(self, note: Note | None, slot: Key) -> bool:
        """Whether what is kept under a key is settled by the snapshot the machine began with."""
        if note is None or slot in note.unstored:
            return False
        machine = self._coordination.machine
        assert machine is not None
        return machine.is_settled(intent_key(slot))

    # What the log holds -------------------------------------------------------------------------

    def signed(self, wire: bytes, number: int, slot: Key) -> None:
        """Note an own event that the log may not hold."""
        self._unconfirmed[wire] = _Own(number, slot)

    def unconfirmed(self) -> Iterable[tuple[bytes, Key]]:
        """Own events that the log may not hold, and their journal keys, by number."""
        by_number = sorted(self._unconfirmed.items(), key=lambda item: item[1].number)
        return [(wire, own.slot) for wire, own in by_number]

    def trust(self, note: Note) -> None:
        """The log still holds what it held when this was noted."""
        upto, unstored = note.next_number(self._author), set(note.unstored)
        self._unconfirmed = {
            wire: own
            for wire, own in self._unconfirmed.items()
            if own.number >= upto or own.slot in unstored
        }

    def confirm(self, records: Iterable[Record]) -> None:
        """The log holds these."""
        for record in records:
            self._unconfirmed.pop(record.wire, None)

    def prepare(self, place: Place) -> None:
        """All that the log holds up to ``place`` is folded and confirmed."""
        self._place = place

    # Taking -------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether it is time for a survey and a snapshot; asked again, not at once."""
        machine = self._coordination.machine
        assert machine is not None
        if machine.milestone() <= self._milestone or self._loop.time() < self._next_at:
            return False
        self._next_at = self._loop.time() + SNAPSHOT_S
        return True

    def take(self) -> tuple[Key, Entry] | None:
        """The snapshot to be written with, and behind, everything signed so far; if one is due."""
        machine, place = self._coordination.machine, self._place
        request = self._coordination.request
        assert machine is not None
        assert request is not None
        milestone = machine.milestone()
        if place is None or milestone <= self._milestone:
            return None
        self._place = None
        snapshot = machine.snapshot()
        if snapshot is None:
            return None
        needs = snapshot.needs - 1 if snapshot.needs is not None else place.sequence
        again = set(snapshot.again)
        if self._coordination.announced is not None:
            again.add(self._coordination.announced.sequence)
        after = min(place.sequence, needs)
        heads = self._coordination.chains.heads()
        head = next((each.number for each in heads if each.author == self._author), 0)
        note = Note(
            VERSION,
            milestone,
            request.sequence,
            place,
            after,
            tuple(sorted(each for each in again if each <= after)),
            heads,
            tuple(own.slot for own in self._unconfirmed.values() if own.number < head),
            snapshot.state,
        )
        encoded = msgspec.msgpack.encode(note)
        name, epoch = self._coordination.id, self._coordination.epoch
        if len(encoded) > MAX_SNAPSHOT_BYTES:
            _log.warning("snapshot_too_large", extra={"coordination": name})
            return None
        self._milestone = milestone
        self._taken = snapshot_slot(epoch, milestone)
        unconfirmed = {own.slot for own in self._unconfirmed.values()}
        self._settled = [
            slot
            for slot in self._journal.keys(name, followed_slot(epoch))
            if slot not in unconfirmed and machine.is_settled(intent_key(slot))
        ]
        return self._taken, Entry(encoded)

    async def written(self) -> None:
        """The snapshot taken last is durable: drop what it settles."""
        name = self._coordination.id
        if self._kept is not None:
            self._journal.discard((name, self._kept))
        for slot in self._settled:
            self._journal.discard((name, slot))
        self._kept, self._taken, self._settled = self._taken, None, []
        await self._journal.compact()


def newest_note(journal: Journal, coordination: str, epoch: bytes) -> Note | None:
    """The newest snapshot that a journal holds of a coordination.

    Raises:
        LocalProtocolError: it cannot be read; nothing may be signed without it.
    """
    keys = journal.keys(coordination, snapshot_slot(epoch))
    newest = max(keys, key=lambda key: int(key[-1]), default=None)
    entry = journal.find(coordination, newest) if newest is not None else None
    if entry is None:
        return None
    try:
        note = msgspec.msgpack.decode(entry.wire, type=Note)
    except msgspec.MsgspecError as error:
        why = f"the snapshot of {coordination!r} cannot be read: {error}"
        raise LocalProtocolError(why) from None
    if note.version != VERSION:
        raise LocalProtocolError(f"a snapshot of {coordination!r} has version {note.version}")
    return note
