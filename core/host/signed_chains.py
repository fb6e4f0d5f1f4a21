"""What a host has signed, durably: the newest event of each of its author's chains.

The log may lose what it had acknowledged (a store restored from a copy, a disk that kept back its
last blocks). Whoever continues a chain from what such a log shows signs a number twice, which is
proof of a fork (E7). So every event is journalled before it leaves the process, and a chain goes on
behind the journal's newest event or the log's, whichever is further.

Only the newest event of a chain is kept: one is signed when the one before has been acknowledged or
is about to be sent again, so at most the newest can be missing from a log that lost nothing.

An event that ended its coordination is dropped after a while, once the log has shown it. Before
that a *mark* is kept: the newest record seen. If the log holds the mark no more, it has lost its
tail, and then nothing is signed in a coordination that was requested before the mark and of which
the journal knows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container

import msgspec

from ..envelope import Event, decode_event
from ..errors import SignOnceError
from ..journal import Entry, Journal, JournalError, Slot
from ..kernel_events import TERMINAL_TYPES
from ..log import EventLog, Place, Record
from ..machine import Key
from ..names import REGISTRY

KEEP_S = 120
"""How long the event that ended a coordination is kept."""

KEEP_OPEN_S = 31 * 86_400
"""How long any other event is kept: no coordination may take longer than 30 days."""

FOR_EVER_NS = 2**63 - 1
"""The registry never ends."""

REVIEWED = 100
"""Chains of an earlier life looked up in the log at a time, before they are dropped."""

_CHAIN = "chain"
_MARK = "mark"
_LOG = "_log"  # marks belong to no coordination


class Signed(msgspec.Struct, frozen=True):
    """The newest event of a chain.

    Attributes:
        event: the event.
        place: the last record its author knew when it signed.
    """

    event: Event
    place: Place


class SignedChains:
    """The chains one author continues.

    Args:
        journal: where they are kept.
        clock_ns: wall clock.

    Attributes:
        seen: the newest stored record the host knows.
        lost_ns: storage time of the newest record found missing; 0 if the log has lost nothing.
    """

    def __init__(self, journal: Journal, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.seen: Record | None = None
        self.lost_ns = 0
        self._journal = journal
        self._clock_ns = clock_ns
        self._writing: dict[str, Signed] = {}
        self._stored: set[str] = set()
        self._lost: set[Slot] = set()

    async def begin(self, log: EventLog) -> None:
        """Compare the journal with the log; a new journal begins here.

        Raises:
            JournalError: it could not be written.
        """
        await self._journal.settle()
        for slot in self._journal.slots(_CHAIN, 2):
            if slot != self._newest_slot(slot[0]):
                self._journal.discard(slot)
        head = await log.head()
        if self._journal.born is None:
            self._journal.begin(head.sequence)
        self.seen = await log.record_at(head.sequence)
        for slot in self._journal.slots(_MARK, 3):
            entry = self._journal.find(*slot)
            assert entry is not None
            place = msgspec.msgpack.decode(entry.wire, type=Place)
            if not await place.is_in(log):
                self._lost.add(slot)
                self.lost_ns = max(self.lost_ns, place.stored_ns)

    def knows_all_of(self, request: Record) -> bool:
        """Whether nothing can have been signed in the coordination of a request but what the
        journal holds, or what it has dropped and the log still shows."""
        return request.sequence > (self._journal.born or 0) and request.stored_ns > self.lost_ns

    def newest(self, coordination: str) -> Signed | None:
        """The newest event signed in a coordination, if the journal knows any."""
        if coordination in self._writing:
            return self._writing[coordination]
        slot = self._newest_slot(coordination)
        entry = self._journal.find(*slot) if slot else None
        if entry is None:
            return None
        return Signed(decode_event(entry.wire), msgspec.msgpack.decode(entry.answer, type=Place))

    def _newest_slot(self, coordination: str) -> Slot | None:
        """Where the event with the highest number is kept, whichever was written last."""
        keys = self._journal.keys(coordination, (_CHAIN,))
        return (coordination, max(keys, key=_number)) if keys else None

    async def record(self, event: Event) -> None:
        """Make an event durable; return when it may be published.

        Raises:
            SignOnceError: another event has its number, or a later one is signed already.
            JournalError: it could not be written; it counts as not signed.
        """
        header = event.header
        name = header.coordination
        slot: Slot = (name, (_CHAIN, header.author_seq))
        before = self._newest_slot(name)
        if before is not None and _number(before[1]) > header.author_seq:
            raise SignOnceError(f"{name!r}: event {_number(before[1])} was signed before")
        place = Place.of(self.seen) if self.seen is not None else Place()
        entry = Entry(event.wire, msgspec.msgpack.encode(place))
        self._writing[name] = Signed(event, place)
        try:
            await self._journal.sign_once(*slot, entry, self._keep_until_ns(event))
        except JournalError:
            self._writing.pop(name, None)
            raise
        self._writing.pop(name, None)  # if cancelled it stays, for it becomes durable all the same
        if before is not None and before != slot:
            self._journal.discard(before)

    def _keep_until_ns(self, event: Event) -> int:
        if event.header.coordination == REGISTRY:
            return FOR_EVER_NS
        keep_s = KEEP_S if event.header.type in TERMINAL_TYPES else KEEP_OPEN_S
        return self._clock_ns() + keep_s * 10**9

    def came_back(self, event: Event) -> None:
        """Note that the log has shown an event that was signed here."""
        if event.header.type in TERMINAL_TYPES:
            self._stored.add(event.header.coordination)

    async def tidy(self, log: EventLog, live: Container[str]) -> None:
        """Drop what need not be kept.

        Args:
            log: the log.
            live: coordinations in hand, of which nothing is dropped.
        """
        now_ns = self._clock_ns()
        spare: set[Slot] = set(self._lost)
        left = REVIEWED
        for slot in self._journal.expired(now_ns):
            name, _ = slot
            signed = self.newest(name) if slot == self._newest_slot(name) else None
            if signed is None or name in self._stored or self._is_old(signed.event):
                continue
            if name not in live and left:
                left -= 1
                if await self._is_stored(log, signed.event):
                    continue
                await self._journal.prolong(slot, now_ns + KEEP_OPEN_S * 10**9)
            spare.add(slot)
        await self._mark()
        self._stored -= await self._journal.drop_expired(now_ns, spare)

    def _is_old(self, event: Event) -> bool:
        return self._clock_ns() - event.header.at_ns > KEEP_OPEN_S * 10**9

    async def _is_stored(self, log: EventLog, event: Event) -> bool:
        upto = self.seen.sequence if self.seen is not None else 0
        return any(
            record.wire == event.wire and record.sequence <= upto
            for record in await log.read(event.header.coordination)
        )

    async def _mark(self) -> None:
        if self.seen is None:
            return
        place = Place.of(self.seen)
        slot: Slot = (_LOG, (_MARK, place.stored_ns, place.sequence))
        keep_until_ns = self._clock_ns() + KEEP_OPEN_S * 10**9
        await self._journal.sign_once(*slot, Entry(msgspec.msgpack.encode(place)), keep_until_ns)
        for old in self._journal.slots(_MARK, 3):
            if old != slot and old not in self._lost:
                self._journal.discard(old)


def _number(key: Key) -> int:
    return int(key[1])
