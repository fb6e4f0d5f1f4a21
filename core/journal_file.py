"""The file of a sign-once journal: frames appended in groups, one fsync a group.

A frame is ``length(4) crc32(4) crc32-of-these-8(4) payload``. A torn last frame was never
acknowledged and is cut off; damage anywhere else, a damaged length included, means the record
cannot be trusted. What the payloads say is not known here.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import MabeamError

if sys.platform != "win32":
    import fcntl

MAX_FRAME_BYTES = 1024 * 1024

READ_BYTES = 64 * 1024 * 1024
"""Read at once: no system gives more than 2 GiB for one call, whatever it is asked for."""

_FRAME = struct.Struct(">III")
FRAME_BYTES = _FRAME.size
"""Bytes of a frame beyond its payload."""


class JournalError(MabeamError):
    """The journal is damaged or cannot be written; the author must stay mute."""

    code = "journal"


class JournalInUseError(JournalError):
    """Another process has the journal open."""

    code = "journal_in_use"
    exit_code = 5


class Span(NamedTuple):
    """Where a payload is: its offset in the file and its length."""

    offset: int
    length: int


class JournalFile:
    """The frames of one file that no other process may open meanwhile.

    Every call blocks; one thread at a time may write, any may read.

    Args:
        path: the file, made if it is not there.

    Attributes:
        size: bytes of all frames.

    Raises:
        JournalError: it cannot be opened.
        JournalInUseError: another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._is_named = False  # whether the file's name is known to be durable
        try:
            self.number = _open_locked(path)
        except OSError as error:
            raise JournalError(
                f"cannot open journal {path}: {error.strerror}",
                hint="Give it a writable state directory.",
            ) from None

    def recover(self) -> Iterator[tuple[bytes, Span]]:
        """All payloads, oldest first; a torn end is cut off. To be exhausted before any writing.

        Raises:
            JournalError: damaged elsewhere than at its end.
        """
        data = self._read_all()
        offset = 0
        while offset + FRAME_BYTES <= len(data):
            length, checksum, header_checksum = _FRAME.unpack_from(data, offset)
            if zlib.crc32(data[offset : offset + 8]) != header_checksum:
                if any(data[offset:]):
                    raise self.damaged(offset)
                break  # the file grew, but nothing of the frame was written
            start = offset + FRAME_BYTES
            payload = data[start : start + length]
            if len(payload) < length:
                break
            if zlib.crc32(payload) != checksum:
                if start + length >= len(data):
                    break
                raise self.damaged(offset)
            yield payload, Span(start, length)
            offset = start + length
        if offset < len(data):
            os.ftruncate(self.number, offset)
        self.size = offset

    def _read_all(self) -> bytes:
        """The whole file, however little of it the system gives at a time.

        Raises:
            JournalError: it cannot be read to its end.
        """
        size = os.fstat(self.number).st_size
        data = bytearray()
        try:
            while len(data) < size:
                part = os.pread(self.number, min(size - len(data), READ_BYTES), len(data))
                if not part:
                    raise OSError(errno.EIO, f"it ends at byte {len(data)} of {size}")
                data += part
        except OSError as error:
            raise JournalError(f"cannot read journal {self.path}: {error.strerror}") from None
        return bytes(data)

    def damaged(self, offset: int) -> JournalError:
        """What to raise about a frame that makes no sense."""
        return JournalError(
            f"journal {self.path} is damaged at byte {offset}",
            hint="Move it away: its author then stays mute in whatever it may have signed in.",
        )

    def read(self, span: Span) -> bytes:
        """One payload."""
        return os.pread(self.number, span.length, span.offset)

    def append(self, payloads: Iterable[bytes]) -> list[Span]:
        """Write payloads behind the others, durably; all or none of them.

        Raises:
            OSError: none is written.
        """
        spans, size = [], self.size
        try:
            for payload in payloads:
                span = self._put(size, payload)
                spans.append(span)
                size = span.offset + span.length
            os.fdatasync(self.number)
            if not self._is_named:
                _sync_directory(self.path.parent)
                self._is_named = True
        except OSError:
            # Nobody was promised these; half of a frame before later ones would look like damage.
            os.ftruncate(self.number, self.size)
            raise
        self.size = size
        return spans

    def _put(self, offset: int, payload: bytes) -> Span:
        head = struct.pack(">II", len(payload), zlib.crc32(payload))
        frame = head + struct.pack(">I", zlib.crc32(head)) + payload
        if os.pwrite(self.number, frame, offset) != len(frame):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Span(offset + FRAME_BYTES, len(payload))

    def rewritten(
        self, first: Iterable[bytes], spans: Iterable[Span]
    ) -> tuple[JournalFile, list[Span]]:
        """A file in the place of this one that holds only these payloads, and where they are now.

        This one stays open, for it is still being read. A power failure may bring it back until the
        next :meth:`append` to the new one.

        Raises:
            OSError: this one goes on being used.
        """
        scratch = self.path.with_suffix(".compact")
        other = JournalFile.__new__(JournalFile)
        other.path, other.size, other._is_named = self.path, 0, False
        other.number = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        moved = []
        try:
            _lock(other.number, scratch)
            for payload in first:
                span = other._put(other.size, payload)
                other.size = span.offset + span.length
            for old in spans:
                span = other._put(other.size, self.read(old))
                other.size = span.offset + span.length
                moved.append(span)
            os.fsync(other.number)
            scratch.replace(self.path)
        except OSError:
            os.close(other.number)
            raise
        return other, moved

    def close(self) -> None:
        """Let another process have it."""
        number, self.number = self.number, -1
        os.close(number)


def _open_locked(path: Path) -> int:
    """Open the file for this process alone; an older file of that name may be replaced meanwhile.

    Raises:
        JournalInUseError: another process has it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(file, path)
            if _is_at(file, path):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: int, path: Path) -> None:
    """Exclude other processes, where the system can; the lock ends with the process."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalInUseError(
            f"journal {path} is in use by another process",
            hint="One process signs under one key: end the other one, or give this one its own id.",
        ) from None


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
