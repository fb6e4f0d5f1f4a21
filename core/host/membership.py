"""Membership: one coordination that an agent follows from its opening to its end.

Where participants speak to each other (``ordering: bft``) an agent reads everything that is said,
folds it and does what its machine intends, several things at a time. Safety rests on three rules:

* what was signed before a crash is folded from the journal before anything else is signed;
* what is signed is folded at once, before the machine is asked what to do next;
* nothing leaves this process before the journal holds it.

Where the machine takes snapshots, a restart begins with the newest one (:mod:`.snapshots`).

The log is not trusted: its tail may be gone after a restart, it may withhold and reorder. What the
machine misses is read again, and so is everything when an author's chain has a gap, when a timer is
due and after a while without news: a feed that has left something out does not bring it later. What
the log lost of this author's own events is appended again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any

import msgspec

from ..agent import Agent, answer
from ..author import Author
from ..coordination import Coordination
from ..envelope import Event, decode_event
from ..errors import (
    LocalProtocolError,
    LogUnavailableError,
    PeerProtocolError,
    UsageError,
)
from ..journal import Entry, Journal
from ..log import Place, Record, Submission
from ..machine import After, Append, Ask, AskFailed, Key, LogEvent
from ..telemetry import Telemetry, logger
from ..transport import Transport
from .registry import RegistryView
from .rereading import Rereading
from .slots import decode_answer, encode_answer, followed_slot
from .snapshots import Note, Snapshots
from .strangers import Strangers

_log = logger("agent")

QUIET_S = 2.0
"""After this long without news the log is asked whether the feed withheld something; doubles."""

LONGEST_QUIET_S = 60.0

CHECKED_MS = 100
"""Before a timer of at least this length takes effect, the log is asked for news."""

LINGER_S = 1.0
"""How long a member that has nothing left to do stays for the others."""

RETRY_S = 0.5

MAX_SEEN = 50_000
"""Events whose time of arrival is remembered; timers of older ones start anew."""


class _Signed(msgspec.Struct, frozen=True):
    key: Key
    slot: Key
    entry: Entry
    event: Event


class Membership:
    """Plays a participant's role in one followed coordination.

    Args:
        coordination: the fold, open, with the participant's machine.
        opened: the event that opened it.
        agent, author, transport, registry, journal, telemetry, clock_ns: of the agent's host.
        keep_until_ns: wall clock until which the journal keeps what is signed here.
    """

    def __init__(
        self,
        coordination: Coordination,
        opened: LogEvent,
        agent: Agent,
        author: Author,
        transport: Transport,
        registry: RegistryView,
        journal: Journal,
        telemetry: Telemetry,
        clock_ns: Callable[[], int],
        keep_until_ns: int,
    ) -> None:
        self.coordination = coordination
        self._opened = opened
        self._agent = agent
        self._author = author
        self._transport = transport
        self._registry = registry
        self._journal = journal
        self._telemetry = telemetry
        self._clock_ns = clock_ns
        self._keep_until_ns = keep_until_ns
        self._loop = asyncio.get_running_loop()
        self._snapshots = Snapshots(coordination, author.id, journal)
        self._is_restored = False  # whether this began with a snapshot
        self._position = 0
        self._surveyed = Place()  # all up to here was read from the log, not from its feed
        self._floor = 0  # up to here everything counts as taken
        self._taken: OrderedDict[int, None] = OrderedDict()
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._folded: set[bytes] = set()  # own events (their bytes) that have not come back yet
        self._spent: set[Key] = set()
        self._answers: dict[Key, Any] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}
        self._checking: set[Key] = set()
        self._checked: set[Key] = set()
        self._outbox: list[_Signed] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._rereading = Rereading()
        self._strangers = Strangers(registry, transport.log, self._take)
        self._quiet_s = QUIET_S
        self._quiet_until = self._loop.time() + QUIET_S
        self._done_at: float | None = None
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Take part until nothing is left to do.

        Raises:
            LogUnavailableError: the log cannot be read.
            LocalProtocolError: this program is at fault; a new membership may go on.
        """
        await self._journal.settle()  # an earlier membership may have left something under way
        note = self._snapshots.newest()
        self._join(note)
        await self._read_history(note)
        self._send_again()
        works = self._follow(), self._publish(), self._strangers.introduce()
        lasting = [asyncio.create_task(work) for work in works]
        for task in lasting:
            task.add_done_callback(self._on_ended)
        try:
            await self._take_part()
            while self._outbox or self._sending:  # what is signed is still wanted by the others
                self._moved.clear()
                await self._moved.wait()
                self._raise_failure()
        finally:
            for task in (*lasting, *self._asking.values(), *self._sending):
                task.cancel()
            await asyncio.gather(*lasting, return_exceptions=True)
            self._author.forget(self.coordination.id)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _take_part(self) -> None:
        while True:
            self._raise_failure()
            self._moved.clear()
            wake = self._act()
            if self._is_over():
                return
            await self._look_again()
            pause = self._pause(wake)
            if pause > 0 and not self._moved.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._moved.wait()
            else:
                await asyncio.sleep(0)

    def _pause(self, wake: float | None) -> float:
        now = self._loop.time()
        again = self._rereading.at
        looks = self._quiet_until if again is None else again
        times = [each for each in (looks, wake, self._done_at) if each is not None]
        return max(0.0, min(times) - now)

    # Input ------------------------------------------------------------------------------------

    def _join(self, note: Note | None) -> None:
        """Fold everything signed here before, or begin with a snapshot and what it leaves."""
        coordination = self.coordination
        if note is not None:
            self._restore(note)
        slot = followed_slot(coordination.epoch)
        age_s = (self._clock_ns() - self._opened.stored_ns) / 1e9
        self._saw(self._opened, max(0.0, age_s))
        for key in self._journal.keys(coordination.id, slot):
            if self._snapshots.is_over(note, key):
                self._journal.discard((coordination.id, key))
        entries = self._journal.entries(coordination.id, slot)
        events = [(decode_event(entry.wire), key) for key, entry in entries if key != slot]
        for event, key in sorted(events, key=lambda each: each[0].header.author_seq):
            number = event.header.author_seq
            self._snapshots.signed(event.wire, number, key)
            self._fold_own(event, self._registry.admission.decode_body(event))
            self._author.resume(coordination.id, number + 1, event.id, event.header.at_ns)

    def _restore(self, note: Note) -> None:
        coordination, machine = self.coordination, self.coordination.machine
        assert machine is not None
        try:
            machine.restore(note.state)
        except ValueError as error:
            raise LocalProtocolError(f"the snapshot cannot be used: {error}") from None
        coordination.chains.restore(note.heads)
        self._author.resume(coordination.id, *coordination.chains.head(self._author.id))
        self._is_restored = True

    async def _read_history(self, note: Note | None) -> None:
        """Fold what the log holds, from where a snapshot says that it is needed. If the log has
        lost its tail since, all of it is read: what others have appended again may be anywhere."""
        log, after = self._transport.log, 0
        if note is not None and await note.place.is_in(log):
            self._snapshots.trust(note)
            after = self._floor = note.after
            self._position, self._surveyed = note.place.sequence, note.place
            singles = [await log.record_at(sequence) for sequence in note.again]
            self._take_all((each for each in singles if each is not None), is_history=True)
        history = await log.read(self.coordination.id, after)
        self._take_all(history, is_history=True)
        self._snapshots.confirm(history)
        if history and history[-1].sequence > self._surveyed.sequence:
            self._surveyed = Place.of(history[-1])
        self._continue_behind(history)

    def _continue_behind(self, history: Iterable[Record]) -> None:
        """What this author once signed under another configuration uses up numbers of its chain."""
        for record in history:
            if record.subject.rsplit(".", 1)[1] != self._author.id:
                continue
            event = self._registry.admit(record)
            if event is not None and not self._is_of_here(event):
                header = event.event.header
                number = header.author_seq + 1
                self._author.resume(self.coordination.id, number, event.id, header.at_ns)

    def _send_again(self) -> None:
        """Append what the log does not hold of this author's events."""
        for wire, slot in self._snapshots.unconfirmed():
            entry = self._journal.find(self.coordination.id, slot)
            assert entry is not None
            self._queue(_Signed((), slot, entry, decode_event(wire)))

    async def _survey(self) -> None:
        """Read what the feed may have left out, so that a snapshot can say what is folded."""
        try:
            records = await self._transport.log.read(self.coordination.id, self._surveyed.sequence)
        except LogUnavailableError:
            return
        for record in records:
            if self._is_new(record):
                self._take(record)
        self._snapshots.confirm(records)
        if records:
            self._surveyed = Place.of(records[-1])
        self._snapshots.prepare(self._surveyed)
        self._outgoing.set()

    async def _follow(self) -> None:
        while True:
            try:
                log = self._transport.log
                async with aclosing(log.follow(self.coordination.id, self._position)) as records:
                    async for record in records:
                        self._take(record)
            except LogUnavailableError as error:
                _log.warning("log_unavailable", extra={"why": str(error)})
            await asyncio.sleep(RETRY_S)

    def _take_all(self, records: Iterable[Record], *, is_history: bool = False) -> None:
        for record in records:
            self._take(record, is_history=is_history)

    def _take(self, record: Record, *, is_history: bool = False) -> None:
        """Fold a record; one seen before has no effect."""
        self._position = max(self._position, record.sequence)
        self._taken[record.sequence] = None
        if len(self._taken) > MAX_SEEN:
            oldest, _ = self._taken.popitem(last=False)
            self._floor = max(self._floor, oldest)
        if record.wire in self._folded:  # signed and folded here: nothing to verify, nothing new
            self._folded.discard(record.wire)
            return
        event = self._registry.admit(record)
        if event is None:
            self._strangers.note(record)
            return
        if not self._is_of_here(event):
            return
        self._quiet_s = QUIET_S
        self._quiet_until = self._loop.time() + QUIET_S
        age_s = max(0.0, (self._clock_ns() - record.stored_ns) / 1e9) if is_history else 0.0
        self._saw(event, age_s)
        try:
            self._apply(event)
        except Exception as error:  # a bug of the machine: this membership must not sign any more
            self._failure = self._failure or error
        self._moved.set()

    def _is_of_here(self, event: LogEvent) -> bool:
        """Whether it belongs to this configuration; a cancel may have been signed before it."""
        epoch = event.event.header.epoch
        early_cancel = event.type == "coordination.cancel_requested" and not epoch
        return early_cancel or epoch == self.coordination.epoch

    def _apply(self, event: LogEvent) -> None:
        try:
            self._fold(event)
        except PeerProtocolError as error:
            self._telemetry.count("inputs_rejected", protocol="", reason=error.reason)

    def _fold(self, event: LogEvent) -> None:
        chains, number = self.coordination.chains, event.event.header.author_seq
        if self._is_restored and not chains.lacks(event.author, number):
            self.coordination.show_again(event)
        else:
            self.coordination.apply(event)

    def _saw(self, event: LogEvent, age_s: float = 0.0) -> None:
        if len(self._seen) >= MAX_SEEN:
            self._seen.popitem(last=False)
        self._seen.setdefault(event.id, self._loop.time() - age_s)

    async def _look_again(self) -> None:
        """Read the log again when something is known to be missing, or may be."""
        now, machine = self._loop.time(), self.coordination.machine
        assert machine is not None
        if self._snapshots.is_due():
            await self._survey()
        wanted = machine.wanted()
        gaps = frozenset((gap.author, gap.first) for gap in self.coordination.chains.gaps())
        reading = self._rereading.look(now, wanted, gaps)
        if reading is not None:
            after = 0 if reading.everything else self._floor
            await self._read(after, wanted, reading.fills_gaps)
            ended = self._loop.time()
            self._rereading.took(ended, ended - now)
        elif not wanted and not gaps and now >= self._quiet_until:
            self._quiet_s = min(2 * self._quiet_s, LONGEST_QUIET_S)
            self._quiet_until = now + self._quiet_s
            await self._read(self._position if machine.is_done() else self._floor, wanted)

    async def _read(self, after: int, wanted: frozenset[bytes], fills_gaps: bool = False) -> None:
        try:
            records = await self._transport.log.read(self.coordination.id, after)
        except LogUnavailableError:
            return
        for record in records:
            if self._is_new(record):
                self._take(record)
            elif wanted or (fills_gaps and record.sequence <= self._floor):
                self._take_missing(record, wanted)

    def _is_new(self, record: Record) -> bool:
        return record.sequence > self._floor and record.sequence not in self._taken

    def _take_missing(self, record: Record, wanted: frozenset[bytes]) -> None:
        """Fold an older record if the machine wants it or its author's chain lacks it."""
        try:
            event = decode_event(record.wire)
        except PeerProtocolError:
            return
        if event.id in wanted:
            self._take_wanted(record)
        elif record.sequence <= self._floor and record.sequence not in self._taken:
            header = event.header
            if self.coordination.chains.lacks(header.author, header.author_seq):
                self._take(record)

    def _take_wanted(self, record: Record) -> None:
        event = self._registry.admit(record)
        if event is None:
            return
        self._moved.set()
        if event.id in self._seen:
            with contextlib.suppress(PeerProtocolError):
                self.coordination.fold_again(event)
        else:
            self._saw(event)
            self._apply(event)

    # Output -----------------------------------------------------------------------------------

    def _act(self) -> float | None:
        """Sign everything that is due; when the next timer is.

        What is listed together is signed together. A timer counts only when nothing else is due.
        """
        while True:
            wake: float | None = None
            timed: Append | None = None
            signed = False
            for intent in tuple(self.coordination.intents()):
                chosen: tuple[Append, bytes, Key] | None = None
                if isinstance(intent, Append):
                    chosen = intent, b"", ()
                elif isinstance(intent, Ask):
                    chosen = self._answered(intent)
                elif isinstance(intent, After) and intent.then.key not in self._spent:
                    due = self._due(intent)
                    if due > self._loop.time():
                        wake = due if wake is None else min(wake, due)
                    elif timed is None and (
                        intent.delay_ms < CHECKED_MS or self._is_checked(intent.key)
                    ):
                        timed = intent.then
                if chosen is not None and chosen[0].key not in self._spent:
                    self._sign(*chosen)
                    signed = True
            if not signed:
                if timed is None:
                    return wake
                self._sign(timed, b"", ())

    def _due(self, after: After) -> float:
        return self._seen.setdefault(after.since, self._loop.time()) + after.delay_ms / 1000

    def _is_checked(self, key: Key) -> bool:
        """Whether the log was read again since this timer became due."""
        if key not in self._checking:
            self._checking.add(key)
            task = asyncio.create_task(self._check(key))
            self._sending.add(task)
            task.add_done_callback(self._on_ended)
        return key in self._checked

    async def _check(self, key: Key) -> None:
        await self._read(self._floor, frozenset())
        self._checked.add(key)
        self._moved.set()

    def _answered(self, ask: Ask) -> tuple[Append, bytes, Key] | None:
        """What an answer at hand leads to now; else the question is put."""
        slot = followed_slot(self.coordination.epoch, ask.key)
        if ask.key not in self._answers:
            journalled = self._journal.find_answer(self.coordination.id, slot)
            if journalled is None:
                if ask.key not in self._asking:
                    self._asking[ask.key] = asyncio.create_task(self._ask(ask))
                return None
            self._answers[ask.key] = decode_answer(journalled, ask.answer_type)
        result = self._answers[ask.key]
        try:
            append = ask.reply(result)
        except UsageError as error:
            result = self._answers[ask.key] = AskFailed("wrong_answer", str(error)[:400])
            append = ask.reply(result)
        return append, encode_answer(result), slot

    async def _ask(self, ask: Ask) -> None:
        result = await answer(self._agent, ask)
        failed = isinstance(result, AskFailed)
        self._telemetry.count("requests_answered", result="failed" if failed else "ok")
        self._answers[ask.key] = result
        self._moved.set()

    def _sign(self, append: Append, given: bytes, asked: Key) -> None:
        """Sign and fold an event, and send it on its way."""
        coordination = self.coordination
        self._spent.add(append.key)
        slot = followed_slot(coordination.epoch, append.key)
        if self._journal.find(coordination.id, slot) is not None:
            return  # signed in an earlier life, and folded from the journal
        try:
            event = self._author.sign(
                coordination.id, coordination.epoch, append.type, append.body, append.refs
            )
        except UsageError as error:
            _log.error("event_too_large", extra={"type": append.type, "why": str(error)})
            return
        self._snapshots.signed(event.wire, event.header.author_seq, slot)
        self._fold_own(event, append.body)
        self._queue(_Signed(append.key, slot, Entry(event.wire, given, asked), event))

    def _fold_own(self, event: Event, body: Any) -> None:
        own = LogEvent(0, self._clock_ns(), event, body)
        self._saw(own)
        self._folded.add(event.wire)
        try:
            self._fold(own)
        except PeerProtocolError as error:
            raise LocalProtocolError(f"own {event.header.type} has no effect: {error}") from None

    def _queue(self, signed: _Signed) -> None:
        self._outbox.append(signed)
        self._outgoing.set()

    async def _publish(self) -> None:
        """Journal what was signed, one group at a time, then append it; with a snapshot when one is
        due."""
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            group, id = self._outbox[:], self.coordination.id
            entries = [(each.slot, each.entry) for each in group]
            snapshot = self._snapshots.take()
            if snapshot is not None:
                entries.append(snapshot)
            await self._journal.sign_all(id, entries, self._keep_until_ns)
            for signed in group:
                self._spent.discard(signed.key)  # from here on the journal remembers
                task = asyncio.create_task(self._append(signed.event))
                self._sending.add(task)
                task.add_done_callback(self._on_ended)
            del self._outbox[: len(group)]
            if snapshot is not None:
                await self._snapshots.written()

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            self._failure = self._failure or task.exception()
        self._moved.set()

    async def _append(self, event: Event) -> None:
        started = self._loop.time()
        while True:
            try:
                await self._transport.log.append(Submission(event, "pub", self._author.node))
            except LogUnavailableError as error:
                _log.warning("log_unavailable", extra={"why": str(error)})
                await asyncio.sleep(RETRY_S)
                continue
            self._telemetry.observe("append", self._loop.time() - started)
            return

    # End --------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        """Whether the end is announced and this member has nothing left to say about it."""
        coordination = self.coordination
        announced, machine = coordination.announced, coordination.machine
        assert machine is not None
        if announced is None or not machine.is_done():
            self._done_at = None  # what was announced before may have been replaced
            return False
        if self._done_at is None:
            self._done_at = self._loop.time() + LINGER_S
        return self._loop.time() >= self._done_at
