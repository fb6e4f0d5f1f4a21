"""The sign-once journal: what this author has signed, on disk before anybody sees it.

Before a participant publishes an event, the event is written under ``(coordination, key)`` and
fsynced. After a restart the very same bytes are published again; signing anything else under that
key is refused for ever. Entries go in groups, one fsync a group, and are dropped when the
coordination is over for this author, or when its host knows that nobody will ever ask for them.

Here is the index of what is kept; :mod:`.journal_file` has the file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from .envelope import Event, decode_event
from .errors import SignOnceError
from .journal_file import (
    FRAME_BYTES,
    MAX_FRAME_BYTES,
    JournalError,
    JournalFile,
    JournalInUseError,
    Span,
)
from .machine import Key
from .telemetry import logger

__all__ = ["Entry", "Journal", "JournalError", "JournalInUseError", "Slot"]

_log = logger("agent")

COMPACT_BYTES = 8 * 1024 * 1024
QUICK_S = 0.0005
"""A group that is on disk in less than this is written at once: going to another thread and back
takes longer. Elsewhere a thread waits for the disk."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is kept under one key.

    Attributes:
        wire: the signed event.
        answer: what it was derived from: the encoded answer of the agent's own code, or for a
            coordinator's event the last stored record known (:class:`.log.Place`), or empty.
        asked: key of the ``Ask`` that the answer answers; a later step that asks under the same key
            (a reveal after a commit) gets this answer instead of asking again.
    """

    wire: bytes
    answer: bytes = b""
    asked: tuple[str | int, ...] = ()


class _Born(msgspec.Struct, frozen=True, array_like=True, tag="born"):
    author: str
    key_id: bytes
    sequence: int


class _Signed(msgspec.Struct, frozen=True, array_like=True, tag="signed"):
    coordination: str
    key: tuple[str | int, ...]
    entry: Entry
    keep_until_ns: int
    is_prolonged: bool = False


_Payload = _Born | _Signed
_decoder = msgspec.msgpack.Decoder(_Payload)
_encoder = msgspec.msgpack.Encoder()

Slot = tuple[str, Key]


class _Kept(NamedTuple):
    span: Span
    until_ns: int


class _Pending(NamedTuple):
    slot: Slot
    payload: bytes
    until_ns: int
    done: asyncio.Future[None]
    is_prolonged: bool


class Journal:
    """The journal of one author.

    Attributes:
        born: log sequence at which this journal began; what was opened at or before it may have
            been signed by a lost predecessor. ``None`` until :meth:`begin`.
    """

    def __init__(self, path: Path, author: str, key_id: bytes) -> None:
        self.path = path
        self.born: int | None = None
        self._author = author
        self._key_id = key_id
        self._kept: dict[str, dict[Key, _Kept]] = {}
        self._live = 0  # bytes of the frames of what is kept
        self._last: dict[str, Slot] = {}
        self._answers: dict[Slot, Slot] = {}
        self._pending: list[_Pending] = []
        self._promised: dict[Slot, tuple[Entry, asyncio.Future[None]]] = {}
        self._flusher: asyncio.Task[None] | None = None
        self._compacting: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._usual_s = QUICK_S  # how long a group takes to be written
        self._file = JournalFile(path)
        try:
            for payload, span in self._file.recover():
                self._load(payload, span)
        except JournalError:
            self._file.close()
            raise

    def _load(self, encoded: bytes, span: Span) -> None:
        try:
            payload = _decoder.decode(encoded)
        except msgspec.MsgspecError:
            raise self._file.damaged(span.offset - FRAME_BYTES) from None
        if isinstance(payload, _Born):
            if payload.author != self._author or payload.key_id != self._key_id:
                raise JournalError(
                    f"journal {self.path} belongs to {payload.author!r} "
                    f"(key {payload.key_id.hex()})",
                    hint="Every key needs its own state directory.",
                )
            self.born = payload.sequence
            return
        slot = (payload.coordination, payload.key)
        kept = _Kept(span, payload.keep_until_ns)
        if not (payload.is_prolonged and self._prolong(slot, kept)):
            self._keep(slot, kept)
        if payload.entry.asked:
            self._answers[payload.coordination, payload.entry.asked] = slot

    def _keep(self, slot: Slot, kept: _Kept) -> None:
        self._lose(slot)
        self._kept.setdefault(slot[0], {})[slot[1]] = kept
        self._live += kept.span.length + FRAME_BYTES
        self._last[slot[0]] = slot

    def _prolong(self, slot: Slot, kept: _Kept) -> bool:
        """Replace an entry where it stands among the others, unless it is gone; it is no newer."""
        if not self._is_kept(slot):
            return False
        keys = self._kept[slot[0]]
        self._live += kept.span.length - keys[slot[1]].span.length
        keys[slot[1]] = kept
        return True

    def _is_kept(self, slot: Slot) -> bool:
        return slot[1] in self._kept.get(slot[0], ())

    def _lose(self, slot: Slot) -> None:
        kept = self._kept.get(slot[0], {}).pop(slot[1], None)
        if kept is not None:
            self._live -= kept.span.length + FRAME_BYTES
            if not self._kept[slot[0]]:
                del self._kept[slot[0]]

    def begin(self, sequence: int) -> None:
        """Mark a new journal as complete for everything opened after ``sequence``."""
        payload = _encoder.encode(_Born(self._author, self._key_id, sequence))
        try:
            self._file.append([payload])
        except OSError as error:
            raise self._unwritable(error) from None
        self.born = sequence

    # Use --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def find(self, coordination: str, key: Key) -> Entry | None:
        """What was signed under the key, if anything; only what is durable already."""
        place = self._kept.get(coordination, {}).get(key)
        if place is None:
            return None
        payload = _decoder.decode(self._file.read(place.span))
        assert isinstance(payload, _Signed)
        return payload.entry

    def find_answer(self, coordination: str, asked: Key) -> bytes | None:
        """The answer given under an ``Ask`` key, if one was journalled."""
        slot = self._answers.get((coordination, asked))
        entry = self.find(*slot) if slot else None
        return entry.answer if entry else None

    def keys(self, coordination: str, prefix: Key) -> list[Key]:
        """Keys with this prefix under which something is kept, in the order of writing."""
        size = len(prefix)
        return [key for key in self._kept.get(coordination, ()) if key[:size] == prefix]

    def entries(self, coordination: str, prefix: Key) -> list[tuple[Key, Entry]]:
        """The same with what is kept under them."""
        found = ((key, self.find(coordination, key)) for key in self.keys(coordination, prefix))
        return [(key, entry) for key, entry in found if entry is not None]

    def slots(self, first: str, length: int) -> list[Slot]:
        """Coordinations and keys of this length whose first part is ``first``."""
        return [slot for slot in self._slots() if len(slot[1]) == length and slot[1][0] == first]

    def all(self) -> Iterator[tuple[Slot, Entry]]:
        """Everything that is kept."""
        for slot in self._slots():
            entry = self.find(*slot)
            if entry is not None:
                yield slot, entry

    def _slots(self) -> list[Slot]:
        return [(name, key) for name, keys in self._kept.items() for key in keys]

    def last_event(self, coordination: str) -> Event | None:
        """The newest event signed in a coordination, for continuing its chain."""
        slot = self._last.get(coordination)
        entry = self.find(*slot) if slot else None
        return decode_event(entry.wire) if entry else None

    async def sign_once(
        self, coordination: str, key: Key, entry: Entry, keep_until_ns: int
    ) -> None:
        """Make the entry durable; return when it may be published.

        Args:
            coordination, key: the slot.
            entry: the signed event and the answer behind it.
            keep_until_ns: wall clock after which no honest host acts in this coordination any more.

        Raises:
            SignOnceError: something else was signed under the key before.
            JournalError: it could not be written.
        """
        await self.sign_all(coordination, ((key, entry),), keep_until_ns)

    async def sign_all(
        self, coordination: str, entries: Iterable[tuple[Key, Entry]], keep_until_ns: int
    ) -> None:
        """The same for several entries with one wait; all of them are refused or none."""
        fresh: dict[Slot, tuple[Entry, bytes]] = {}
        waits: set[asyncio.Future[None]] = set()
        for key, entry in entries:
            slot = (coordination, key)
            before = self.find(coordination, key)
            if before is not None:
                if before.wire == entry.wire:
                    continue
                raise SignOnceError(f"{coordination!r} {key}: another event was signed before")
            promised = self._promised.get(slot)
            if promised is not None:
                waits.add(promised[1])
            other = promised[0] if promised else fresh[slot][0] if slot in fresh else entry
            if other.wire != entry.wire:
                raise SignOnceError(f"{coordination!r} {key}: another event is being signed")
            if promised is None:
                payload = _encoder.encode(_Signed(coordination, key, entry, keep_until_ns))
                if len(payload) > MAX_FRAME_BYTES:
                    raise JournalError(
                        f"an entry of {len(payload)} bytes exceeds {MAX_FRAME_BYTES}"
                    )
                fresh[slot] = entry, payload
        if fresh:
            waits.add(self._promise(fresh, keep_until_ns))
        for durable in waits:
            await asyncio.shield(durable)

    async def prolong(self, slot: Slot, keep_until_ns: int) -> None:
        """Keep an entry longer than was said when it was written. It stays as new or old as it is,
        and what is discarded meanwhile stays away.

        Raises:
            JournalError: it could not be written.
        """
        entry = self.find(*slot)
        if entry is not None:
            payload = _encoder.encode(_Signed(*slot, entry, keep_until_ns, is_prolonged=True))
            await asyncio.shield(self._write(((slot, payload),), keep_until_ns, is_prolonged=True))

    def _promise(
        self, fresh: dict[Slot, tuple[Entry, bytes]], keep_until_ns: int
    ) -> asyncio.Future[None]:
        """Hand new entries to the next group to be written."""
        done = self._write(((slot, payload) for slot, (_, payload) in fresh.items()), keep_until_ns)
        for slot, (entry, _) in fresh.items():
            self._promised[slot] = entry, done
            if entry.asked:
                self._answers[slot[0], entry.asked] = slot
        return done

    def _write(
        self,
        payloads: Iterable[tuple[Slot, bytes]],
        keep_until_ns: int,
        *,
        is_prolonged: bool = False,
    ) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending += [
            _Pending(slot, payload, keep_until_ns, done, is_prolonged) for slot, payload in payloads
        ]
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return done

    async def _flush(self) -> None:
        async with self._writing:
            await self._flush_pending()

    async def _flush_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            group, self._pending = self._without_discarded(self._pending), []
            payloads = [each.payload for each in group]
            try:
                if self._usual_s < QUICK_S:
                    spans = self._write_timed(payloads)
                else:
                    spans = await loop.run_in_executor(self._thread, self._write_timed, payloads)
            except (OSError, RuntimeError) as error:
                for each in group:
                    self._promised.pop(each.slot, None)
                    if not each.done.done():
                        each.done.set_exception(self._unwritable(error))
                continue
            for each, span in zip(group, spans, strict=True):
                kept = _Kept(span, each.until_ns)
                if each.is_prolonged:
                    self._prolong(each.slot, kept)
                else:
                    self._keep(each.slot, kept)
                    self._promised.pop(each.slot, None)
                if not each.done.done():  # one future stands for all that were signed together
                    each.done.set_result(None)

    def _without_discarded(self, group: list[_Pending]) -> list[_Pending]:
        """What of a group is to be written: what was discarded need not be kept any longer."""
        left = []
        for each in group:
            if not each.is_prolonged or self._is_kept(each.slot):
                left.append(each)
            elif not each.done.done():
                each.done.set_result(None)
        return left

    def _unwritable(self, error: OSError | RuntimeError) -> JournalError:
        why = getattr(error, "strerror", None) or str(error)
        return JournalError(
            f"cannot write journal {self.path}: {why}", hint="It stays mute until it can."
        )

    def _write_timed(self, payloads: list[bytes]) -> list[Span]:
        started = time.perf_counter()
        try:
            return self._file.append(payloads)
        finally:
            self._usual_s += (time.perf_counter() - started - self._usual_s) / 4

    # Housekeeping -----------------------------------------------------------------------------

    def expired(self, now_ns: int) -> list[Slot]:
        """Slots whose entries need not be kept any longer."""
        return [
            (name, key)
            for name, keys in self._kept.items()
            for key, kept in keys.items()
            if kept.until_ns < now_ns
        ]

    def discard(self, slot: Slot) -> None:
        """Forget one entry, because a newer one says all that must be known. Until the file is
        rewritten, the entry is back after a restart."""
        self._lose(slot)
        if self._last.get(slot[0]) == slot:
            del self._last[slot[0]]

    async def drop_expired(self, now_ns: int, spare: Container[Slot] = ()) -> set[str]:
        """Forget entries nobody may act on any more; rewrites the file when most of it is dead.

        Args:
            now_ns: wall clock.
            spare: slots to keep all the same.

        Returns:
            The coordinations forgotten.
        """
        dropped = set()
        for slot in self.expired(now_ns):
            if slot not in spare:
                self.discard(slot)
                dropped.add(slot[0])
        for asked in [asked for asked, slot in self._answers.items() if slot[0] in dropped]:
            del self._answers[asked]
        await self.compact()
        return dropped

    async def compact(self) -> None:
        """Rewrite the file with the live entries if it is large and most of it is dead; flushes
        wait meanwhile, lookups do not. It goes on if the caller is cancelled: a file that has been
        replaced must not be written to any more."""
        if self._is_bloated():
            if self._compacting is None or self._compacting.done():
                self._compacting = asyncio.create_task(self._compact_alone())
            await asyncio.shield(self._compacting)

    async def _compact_alone(self) -> None:
        async with self._writing:
            if self._is_bloated():
                await self._compact()

    def _is_bloated(self) -> bool:
        return self._file.size > COMPACT_BYTES and self._live < self._file.size // 2

    async def _compact(self) -> None:
        loop, slots = asyncio.get_running_loop(), self._slots()
        spans = [self._kept[name][key].span for name, key in slots]
        born = _Born(self._author, self._key_id, self.born) if self.born is not None else None
        first = [_encoder.encode(born)] if born is not None else []
        try:
            file, moved = await loop.run_in_executor(
                self._thread, self._file.rewritten, first, spans
            )
        except OSError as error:  # the longer file goes on being used
            _log.warning("journal_not_compacted", extra={"why": str(error)})
            return
        old, self._file = self._file, file
        for (name, key), span in zip(slots, moved, strict=True):
            kept = self._kept.get(name, {})
            if key in kept:
                kept[key] = _Kept(span, kept[key].until_ns)
        old.close()

    async def settle(self) -> None:
        """Wait until what is being written is durable, or known not to be."""
        if self._flusher is not None:
            await asyncio.shield(self._flusher)
        if self._compacting is not None and not self._compacting.done():
            await asyncio.shield(self._compacting)

    async def close(self) -> None:
        """Flush and close."""
        await self.settle()
        self._thread.shutdown()
        self._file.close()
