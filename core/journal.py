"""The sign-once journal: what this author has signed, on disk before anybody sees it.

Before a participant publishes an event, the event is written under ``(coordination, key)`` and
fsynced. After a restart the very same bytes are published again; signing anything else under that
key is refused for ever. Entries go in groups, one fsync a group, and are dropped when the
coordination is over for this author.

File format: one header frame, then frames of ``length(4) crc32(4) crc32-of-these-8(4) payload``. A
torn last frame was never acknowledged and is cut off; damage anywhere else, a damaged length
included, means the record cannot be trusted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .envelope import Event, decode_event
from .errors import MabeamError, SignOnceError
from .machine import Key
from .telemetry import logger

_log = logger("agent")

MAX_FRAME_BYTES = 1024 * 1024
COMPACT_BYTES = 8 * 1024 * 1024
_FRAME = struct.Struct(">III")


class JournalError(MabeamError):
    """The journal is damaged or cannot be written; the author must stay mute."""

    code = "journal"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is kept under one key.

    Attributes:
        wire: the signed event.
        answer: the encoded answer of the agent's own code it was derived from, or empty.
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


_Payload = _Born | _Signed
_decoder = msgspec.msgpack.Decoder(_Payload)
_encoder = msgspec.msgpack.Encoder()

Slot = tuple[str, Key]


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
        self._slots: dict[Slot, tuple[int, int]] = {}  # offset and length of the payload
        self._keep: dict[Slot, int] = {}
        self._last: dict[str, Slot] = {}
        self._answers: dict[Slot, Slot] = {}
        self._pending: list[tuple[Slot, bytes, int, asyncio.Future[None]]] = []
        self._promised: dict[Slot, tuple[Entry, asyncio.Future[None]]] = {}
        self._flusher: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._size = 0
        self._is_named = False  # whether the file's name is known to be durable
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise JournalError(
                f"cannot open journal {path}: {error.strerror}",
                hint="Give the agent a writable state directory.",
            ) from None
        try:
            self._recover()
        except JournalError:
            os.close(self._file)
            raise

    # Recovery ---------------------------------------------------------------------------------

    def _recover(self) -> None:
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        offset = 0
        while offset + _FRAME.size <= len(data):
            length, checksum, header_checksum = _FRAME.unpack_from(data, offset)
            if zlib.crc32(data[offset : offset + 8]) != header_checksum:
                if any(data[offset:]):
                    raise self._damaged(offset)
                break  # the file grew, but nothing of the frame was written
            start = offset + _FRAME.size
            payload = data[start : start + length]
            if len(payload) < length:
                break
            if zlib.crc32(payload) != checksum:
                if start + length >= len(data):
                    break
                raise self._damaged(offset)
            try:
                self._load(_decoder.decode(payload), start, length)
            except msgspec.MsgspecError:
                raise self._damaged(offset) from None
            offset = start + length
        if offset < len(data):
            os.ftruncate(self._file, offset)
        self._size = offset

    def _damaged(self, offset: int) -> JournalError:
        return JournalError(
            f"journal {self.path} is damaged at byte {offset}",
            hint="Move it away: the agent then stays mute in whatever it may have signed in.",
        )

    def _load(self, payload: _Payload, offset: int, length: int) -> None:
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
        self._slots[slot] = (offset, length)
        self._keep[slot] = payload.keep_until_ns
        self._last[payload.coordination] = slot
        if payload.entry.asked:
            self._answers[payload.coordination, payload.entry.asked] = slot

    def begin(self, sequence: int) -> None:
        """Mark a new journal as complete for everything opened after ``sequence``."""
        payload = _encoder.encode(_Born(self._author, self._key_id, sequence))
        try:
            self._write_group([payload])
        except OSError as error:
            raise self._unwritable(error) from None
        self.born = sequence

    # Use --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, coordination: str, key: Key) -> Entry | None:
        """What was signed under the key, if anything; only what is durable already."""
        slot = (coordination, key)
        place = self._slots.get(slot)
        if place is None:
            return None
        payload = _decoder.decode(os.pread(self._file, place[1], place[0]))
        assert isinstance(payload, _Signed)
        return payload.entry

    def find_answer(self, coordination: str, asked: Key) -> bytes | None:
        """The answer given under an ``Ask`` key, if one was journalled."""
        slot = self._answers.get((coordination, asked))
        entry = self.find(*slot) if slot else None
        return entry.answer if entry else None

    def entries(self, coordination: str, prefix: Key) -> list[tuple[Key, Entry]]:
        """What is kept in a coordination under keys with this prefix, in the order of writing."""
        size = len(prefix)
        keys = [k for c, k in self._slots if c == coordination and k[:size] == prefix]
        found = ((key, self.find(coordination, key)) for key in keys)
        return [(key, entry) for key, entry in found if entry is not None]

    def slots(self, first: str, length: int) -> list[Slot]:
        """Coordinations and keys of this length whose first part is ``first``."""
        return [slot for slot in self._slots if len(slot[1]) == length and slot[1][0] == first]

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

    def _promise(
        self, fresh: dict[Slot, tuple[Entry, bytes]], keep_until_ns: int
    ) -> asyncio.Future[None]:
        """Hand entries to the next group to be written."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for slot, (entry, payload) in fresh.items():
            self._promised[slot] = entry, done
            if entry.asked:
                self._answers[slot[0], entry.asked] = slot
            self._pending.append((slot, payload, keep_until_ns, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return done

    async def _flush(self) -> None:
        async with self._writing:
            await self._flush_pending()

    async def _flush_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            group, self._pending = self._pending, []
            try:
                places = await loop.run_in_executor(
                    self._thread, self._write_group, [payload for _, payload, _, _ in group]
                )
            except (OSError, RuntimeError) as error:
                for slot, _, _, done in group:
                    self._promised.pop(slot, None)
                    if not done.done():
                        done.set_exception(self._unwritable(error))
                continue
            for (slot, _, keep_until_ns, done), place in zip(group, places, strict=True):
                self._slots[slot] = place
                self._keep[slot] = keep_until_ns
                self._last[slot[0]] = slot
                self._promised.pop(slot, None)
                if not done.done():  # one future stands for all that were signed together
                    done.set_result(None)

    def _unwritable(self, error: OSError | RuntimeError) -> JournalError:
        why = getattr(error, "strerror", None) or str(error)
        return JournalError(
            f"cannot write journal {self.path}: {why}", hint="The agent is mute until it can."
        )

    def _write_group(self, payloads: list[bytes]) -> list[tuple[int, int]]:
        """Write frames behind the others, durably; all or none of them."""
        places, size = [], self._size
        try:
            for payload in payloads:
                start, length, size = _append_frame(self._file, size, payload)
                places.append((start, length))
            os.fdatasync(self._file)
            if not self._is_named:
                _sync_directory(self.path.parent)
                self._is_named = True
        except OSError:
            # Nobody was promised these; half of a frame before later ones would look like damage.
            os.ftruncate(self._file, self._size)
            raise
        self._size = size
        return places

    # Housekeeping -----------------------------------------------------------------------------

    async def drop_expired(self, now_ns: int) -> set[str]:
        """Forget entries nobody may act on any more; rewrites the file when most of it is dead.

        Returns:
            The coordinations forgotten.
        """
        dropped = set()
        for slot in [slot for slot, until in self._keep.items() if until < now_ns]:
            del self._slots[slot], self._keep[slot]
            self._last.pop(slot[0], None)
            dropped.add(slot[0])
        for asked in [asked for asked, slot in self._answers.items() if slot[0] in dropped]:
            del self._answers[asked]
        live = sum(length + _FRAME.size for _, length in self._slots.values())
        if self._size > COMPACT_BYTES and live < self._size // 2:
            async with self._writing:
                await self._compact()
        return dropped

    async def _compact(self) -> None:
        """Rewrite the file with the live entries; flushes wait meanwhile, lookups do not."""
        loop = asyncio.get_running_loop()
        try:
            file, moved, size = await loop.run_in_executor(
                self._thread, self._copy_live, dict(self._slots)
            )
        except OSError as error:  # the longer file goes on being used
            _log.warning("journal_not_compacted", extra={"why": str(error)})
            return
        old, self._file, self._size = self._file, file, size
        self._is_named = False  # a power failure could bring back the old file
        self._slots = {slot: place for slot, place in moved.items() if slot in self._slots}
        os.close(old)

    def _copy_live(
        self, slots: dict[Slot, tuple[int, int]]
    ) -> tuple[int, dict[Slot, tuple[int, int]], int]:
        """Put a file with only these entries in the place of the present one."""
        scratch = self.path.with_suffix(".compact")
        file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            moved, size = self._copy(slots, file)
            os.fsync(file)
            scratch.replace(self.path)
        except OSError:
            os.close(file)
            raise
        return file, moved, size

    def _copy(
        self, slots: dict[Slot, tuple[int, int]], file: int
    ) -> tuple[dict[Slot, tuple[int, int]], int]:
        size = 0
        moved: dict[Slot, tuple[int, int]] = {}
        if self.born is not None:
            born = _Born(self._author, self._key_id, self.born)
            size = _append_frame(file, size, _encoder.encode(born))[2]
        for slot, (offset, length) in slots.items():
            start, length, size = _append_frame(file, size, os.pread(self._file, length, offset))
            moved[slot] = (start, length)
        return moved, size

    async def close(self) -> None:
        """Flush and close."""
        if self._flusher is not None:
            await self._flusher
        self._thread.shutdown()
        os.close(self._file)


def _append_frame(file: int, offset: int, payload: bytes) -> tuple[int, int, int]:
    """Write one frame at ``offset``; start and length of its payload, and the new file size."""
    head = struct.pack(">II", len(payload), zlib.crc32(payload))
    frame = head + struct.pack(">I", zlib.crc32(head)) + payload
    if os.pwrite(file, frame, offset) != len(frame):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return offset + _FRAME.size, len(payload), offset + len(frame)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
