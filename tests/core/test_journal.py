"""The sign-once journal: what was promised survives everything, what was not promises nothing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
from audit_log import key_of, vote

from mabeam.core import journal as journal_module
from mabeam.core import journal_file
from mabeam.core.author import Author
from mabeam.core.errors import SignOnceError
from mabeam.core.journal import Entry, Journal, JournalError
from mabeam.protocols.simple.events import VOTE_CAST

KEY = key_of("a-1")
HEAD = 12
FOR_EVER = 2**62


_open: dict[Path, Journal] = {}


def _journal(directory: Path) -> Journal:
    """The journal, as if the process that had it open before were dead."""
    path = directory / "a-1.journal"
    if path in _open:
        _let_go(_open[path])
    _open[path] = Journal(path, "a-1", KEY.key_id)
    return _open[path]


def _let_go(journal: Journal) -> None:
    with suppress(OSError, ValueError):  # it may be closed
        fcntl.flock(journal._file.number, fcntl.LOCK_UN)


def _entry(number: int, answer: bytes = b"", option: str = "agree") -> Entry:
    author = Author("a-1", "n1", KEY, lambda: 5)
    author.resume("c1", number, bytes(32), 0)
    event = author.sign("c1", b"", VOTE_CAST, vote(option))
    return Entry(event.wire, answer, ("vote", number) if answer else ())


async def _filled(directory: Path, count: int = 4) -> Journal:
    journal = _journal(directory)
    journal.begin(7)
    for number in range(count):
        await journal.sign_once("c1", ("vote", number), _entry(number), FOR_EVER)
    return journal


def _frames(path: Path) -> list[tuple[int, int]]:
    """Start and end of every frame of an undamaged journal."""
    data, frames, at = path.read_bytes(), [], 0
    while at < len(data):
        end = at + HEAD + int.from_bytes(data[at : at + 4], "big")
        frames.append((at, end))
        at = end
    return frames


async def test_what_was_signed_is_found_after_a_crash(tmp_path: Path) -> None:
    journal = await _filled(tmp_path)
    await journal.sign_once("c2", ("vote", 9), _entry(9, b"the answer"), FOR_EVER)
    again = _journal(tmp_path)  # the first one was never closed
    assert (again.born, len(again)) == (7, 5)
    for number in range(4):
        assert again.find("c1", ("vote", number)) == _entry(number)
    assert again.find("c1", ("vote", 4)) is None
    assert again.find_answer("c2", ("vote", 9)) == b"the answer"
    assert again.find_answer("c1", ("vote", 9)) is None
    last = again.last_event("c1")
    assert last is not None
    assert last.wire == _entry(3).wire
    assert again.last_event("c3") is None


async def test_other_bytes_under_the_same_key_are_refused_for_ever(tmp_path: Path) -> None:
    journal = await _filled(tmp_path)
    other = _entry(0, option="disagree")
    for each in (journal, _journal(tmp_path)):
        await each.sign_once("c1", ("vote", 0), _entry(0), FOR_EVER)
        with pytest.raises(SignOnceError):
            await each.sign_once("c1", ("vote", 0), other, FOR_EVER)
        await each.sign_once("c2", ("vote", 0), other, FOR_EVER)
        await each.sign_once("c1", ("commit", 0), other, FOR_EVER)
        assert each.find("c1", ("vote", 0)) == _entry(0)


async def test_a_last_frame_cut_anywhere_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    journal = await _filled(tmp_path)
    whole = journal.path.read_bytes()
    start, end = _frames(journal.path)[-1]
    for length in range(start, end):
        journal.path.write_bytes(whole[:length])
        again = _journal(tmp_path)
        assert (len(again), journal.path.stat().st_size) == (3, start)
        again._file.close()
    again = _journal(tmp_path)
    await again.sign_once("c1", ("vote", 3), _entry(3, option="disagree"), FOR_EVER)
    assert _journal(tmp_path).find("c1", ("vote", 3)) == _entry(3, option="disagree")


async def test_a_file_the_system_gives_only_in_parts_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await _filled(tmp_path, 20)
    whole, read = journal.path.read_bytes(), os.pread

    def short(descriptor: int, length: int, offset: int) -> bytes:
        return read(descriptor, min(length, 500), offset)

    monkeypatch.setattr(os, "pread", short)
    again = _journal(tmp_path)
    assert len(again) == 20
    assert again.find("c1", ("vote", 19)) == _entry(19)
    assert journal.path.read_bytes() == whole


async def test_a_file_that_cannot_be_read_to_its_end_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await _filled(tmp_path)
    whole, read = journal.path.read_bytes(), os.pread

    def ends(descriptor: int, length: int, offset: int) -> bytes:
        return read(descriptor, length, offset) if not offset else b""

    monkeypatch.setattr(journal_file, "READ_BYTES", 100)
    monkeypatch.setattr(os, "pread", ends)
    with pytest.raises(JournalError, match="cannot read"):
        _journal(tmp_path)
    assert journal.path.read_bytes() == whole


@pytest.mark.parametrize("zeros", [1, HEAD, 4096])
async def test_a_tail_that_was_reserved_but_never_written(tmp_path: Path, zeros: int) -> None:
    journal = await _filled(tmp_path)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + bytes(zeros))
    assert len(_journal(tmp_path)) == 4
    assert journal.path.read_bytes() == whole


async def test_a_last_frame_whose_content_is_torn_is_dropped(tmp_path: Path) -> None:
    journal = await _filled(tmp_path)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-20] + bytes(20))
    assert len(_journal(tmp_path)) == 3


async def test_damage_anywhere_before_the_last_frame_is_refused(tmp_path: Path) -> None:
    """A damaged length included: it must not pass for a torn tail and take the rest with it."""
    journal = await _filled(tmp_path, 3)
    whole = journal.path.read_bytes()
    last = _frames(journal.path)[-1][0]
    for position in range(last):
        for bit in (1, 128):
            damaged = bytearray(whole)
            damaged[position] ^= bit
            journal.path.write_bytes(damaged)
            with pytest.raises(JournalError, match="damaged"):
                _journal(tmp_path)
            assert journal.path.read_bytes() == bytes(damaged)


@pytest.mark.parametrize("content", [b"no journal at all", b"\x00\x00\x00\x01" * 40])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a-1.journal").write_bytes(content)
    with pytest.raises(JournalError, match="damaged"):
        _journal(tmp_path)


async def test_of_another_author_or_key_is_refused(tmp_path: Path) -> None:
    journal = await _filled(tmp_path)
    _let_go(journal)
    for author, key_id in (("a-2", KEY.key_id), ("a-1", key_of("a-2").key_id)):
        with pytest.raises(JournalError, match="belongs to 'a-1'"):
            Journal(journal.path, author, key_id)
    with pytest.raises(JournalError, match="cannot open"):
        Journal(tmp_path / "none" / "x", "a-1", KEY.key_id)
    assert journal.path.stat().st_mode & 0o777 == 0o600


async def test_two_processes_on_one_file_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the file was rewritten, and only as long as the first one lives."""
    program = """
        import sys
        from pathlib import Path
        from mabeam.core.errors import MabeamError
        from mabeam.core.journal import Journal

        try:
            Journal(Path(sys.argv[1]), "a-1", bytes.fromhex(sys.argv[2]))
        except MabeamError as error:
            print(error.code)
            sys.exit(error.exit_code)
    """

    def second() -> tuple[int, str]:
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(program),
            str(journal.path),
            KEY.key_id.hex(),
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout.strip()

    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 0)
    journal = await _filled(tmp_path)
    assert second() == (5, "journal_in_use")
    await journal.sign_once("old", ("vote", 1), _entry(1, bytes(5000)), 100)
    before = journal.path.stat().st_ino
    await journal.drop_expired(101)
    assert journal.path.stat().st_ino != before
    assert second() == (5, "journal_in_use")
    await journal.close()
    assert second() == (0, "")


async def test_many_at_once_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await _filled(tmp_path, 0)
    syncs = 0
    sync = os.fdatasync

    def counted(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    await asyncio.gather(
        *(journal.sign_once("c1", ("vote", n), _entry(n), FOR_EVER) for n in range(100))
    )
    assert syncs <= 3
    again = _journal(tmp_path)
    assert [again.find("c1", ("vote", n)) for n in range(100)] == [_entry(n) for n in range(100)]


async def test_nothing_may_be_published_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the one who signs, nor by a second one with the same bytes."""
    journal = await _filled(tmp_path, 0)
    loop, allowed, synced = asyncio.get_running_loop(), asyncio.Event(), []
    sync = os.fdatasync

    def held(descriptor: int) -> None:
        asyncio.run_coroutine_threadsafe(allowed.wait(), loop).result()
        sync(descriptor)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fdatasync", held)
    signing = [
        asyncio.create_task(journal.sign_once("c1", ("vote", 0), _entry(0), FOR_EVER))
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    with pytest.raises(SignOnceError):
        await journal.sign_once("c1", ("vote", 0), _entry(0, option="disagree"), FOR_EVER)
    assert journal.find("c1", ("vote", 0)) is None
    assert not any(each.done() for each in signing)
    signing[0].cancel()  # whoever gives up does not take the promise from the other
    allowed.set()
    await signing[1]
    assert synced
    assert journal.find("c1", ("vote", 0)) == _entry(0)


# A disk that fails --------------------------------------------------------------------------------


async def test_full_disk_promises_nothing_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await _filled(tmp_path, 2)
    size = journal.path.stat().st_size
    write = os.pwrite

    def short(descriptor: int, data: bytes, offset: int) -> int:
        return write(descriptor, data[: len(data) // 2], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        for each in [
            journal.sign_once("c1", ("vote", 2), _entry(2, b"x" * 500), FOR_EVER),
            journal.sign_once("c1", ("vote", 3), _entry(3), FOR_EVER),
        ]:
            with pytest.raises(JournalError, match="cannot write"):
                await each
    assert journal.path.stat().st_size == size
    assert journal.find("c1", ("vote", 2)) is None
    await journal.sign_once("c1", ("vote", 2), _entry(2, option="disagree"), FOR_EVER)
    again = _journal(tmp_path)
    assert again.find("c1", ("vote", 2)) == _entry(2, option="disagree")
    assert again.find("c1", ("vote", 3)) is None


async def test_failed_sync_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await _filled(tmp_path, 1)

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(JournalError, match="Input/output error"):
            await journal.sign_once("c1", ("vote", 1), _entry(1), FOR_EVER)
        with pytest.raises(JournalError, match="Input/output error"):
            _journal(tmp_path).begin(1)
    assert len(_journal(tmp_path)) == 1


def test_limit_of_the_operating_system(tmp_path: Path) -> None:
    """A real short write: the process may not write more than 64 KiB to a file."""
    program = """
        import asyncio, resource, signal, sys
        from pathlib import Path
        from mabeam.core.journal import Entry, Journal, JournalError

        async def main():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
            journal = Journal(Path(sys.argv[1]), "a-1", bytes(8))
            journal.begin(1)
            stored = 0
            for number in range(20):
                try:
                    await journal.sign_once("c1", (number,), Entry(bytes(10_000)), 2**62)
                    stored += 1
                except JournalError:
                    pass
            print(stored)

        asyncio.run(main())
    """
    path = tmp_path / "a-1.journal"
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "6"
    assert len(Journal(path, "a-1", bytes(8))) == 6


# Housekeeping -------------------------------------------------------------------------------------


async def test_only_expired_coordinations_are_dropped(tmp_path: Path) -> None:
    journal = await _filled(tmp_path, 0)
    await journal.sign_once("old", ("vote", 1), _entry(1, b"x"), 100)
    await journal.sign_once("new", ("vote", 1), _entry(2, b"y"), 200)
    assert await journal.drop_expired(100) == set()
    assert await journal.drop_expired(101) == {"old"}
    assert (journal.find("old", ("vote", 1)), journal.last_event("old")) == (None, None)
    assert journal.find_answer("old", ("vote", 1)) is None
    assert journal.find_answer("new", ("vote", 2)) == b"y"
    assert len(journal) == 1


async def test_what_is_kept_longer_is_no_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 0)
    journal = await _filled(tmp_path, 0)
    for number in range(3):
        await journal.sign_once("c1", ("vote", number), _entry(number), 100)
    signing = asyncio.create_task(journal.sign_once("c1", ("vote", 3), _entry(3), FOR_EVER))
    prolonging = asyncio.create_task(journal.prolong(("c1", ("vote", 1)), FOR_EVER))
    await asyncio.gather(signing, prolonging)
    for _ in range(3):  # now, as read again, and as read again after it was rewritten
        last = journal.last_event("c1")
        assert last is not None
        assert last.wire == _entry(3).wire
        await journal.drop_expired(101)
        assert journal.keys("c1", ()) == [("vote", 1), ("vote", 3)]
        journal = _journal(tmp_path)


async def test_what_is_discarded_while_it_is_kept_longer_stays_away(tmp_path: Path) -> None:
    journal = await _filled(tmp_path, 2)
    size = journal.path.stat().st_size
    prolonging = asyncio.create_task(journal.prolong(("c1", ("vote", 0)), FOR_EVER))
    await asyncio.sleep(0)
    journal.discard(("c1", ("vote", 0)))
    await prolonging
    assert journal.keys("c1", ()) == [("vote", 1)]
    assert journal.path.stat().st_size == size


async def test_compaction_keeps_what_lives_and_lookups_work_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 20_000)
    journal = await _filled(tmp_path, 0)
    for number in range(100):
        keep = FOR_EVER if number % 10 == 0 else 100
        name = "live" if number % 10 == 0 else f"dead-{number}"
        await journal.sign_once(name, ("vote", number), _entry(number, b"answer"), keep)
    before = journal.path.stat().st_size
    dropping = asyncio.create_task(journal.drop_expired(101))
    signing = asyncio.create_task(journal.sign_once("during", ("vote", 1), _entry(1), FOR_EVER))
    looked = 0
    while not dropping.done():
        assert journal.find("live", ("vote", 50)) == _entry(50, b"answer")
        looked += 1
        await asyncio.sleep(0)
    assert looked > 0
    assert len(await dropping) == 90
    await signing
    await journal.sign_once("after", ("vote", 1), _entry(1), FOR_EVER)
    assert journal.path.stat().st_size < before // 2
    assert not journal.path.with_suffix(".compact").exists()
    for each in (journal, _journal(tmp_path)):
        assert each.born == 7
        assert len(each) == 12
        for number in range(0, 100, 10):
            assert each.find("live", ("vote", number)) == _entry(number, b"answer")
        last = each.last_event("live")
        assert last is not None
        assert last.wire == _entry(90).wire
        for name in ("during", "after"):
            assert each.find(name, ("vote", 1)) == _entry(1)


async def test_what_is_discarded_is_gone_for_good_only_when_the_file_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await _filled(tmp_path, 20)
    assert journal.keys("c1", ("vote",)) == [("vote", number) for number in range(20)]
    for number in range(15):
        journal.discard(("c1", ("vote", number)))
    assert journal.keys("c1", ()) == [("vote", number) for number in range(15, 20)]
    await journal.compact()
    journal = _journal(tmp_path)
    assert len(journal) == 20, "small files are not worth it"
    for number in range(15):
        journal.discard(("c1", ("vote", number)))
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 0)
    await journal.compact()
    for each in (journal, _journal(tmp_path)):
        assert [entry for _, entry in each.all()] == [_entry(number) for number in range(15, 20)]
        assert each.born == 7
    size = journal.path.stat().st_size
    await _journal(tmp_path).compact()
    assert journal.path.stat().st_size == size


async def test_failed_compaction_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 0)
    journal = await _filled(tmp_path, 3)
    await journal.sign_once("old", ("vote", 1), _entry(1, bytes(5000)), 100)

    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        assert await journal.drop_expired(101) == {"old"}
    await journal.sign_once("c1", ("vote", 3), _entry(3), FOR_EVER)
    again = _journal(tmp_path)
    for each in (journal, again):
        assert [each.find("c1", ("vote", n)) for n in range(4)] == [_entry(n) for n in range(4)]


async def test_closed_journal_signs_nothing(tmp_path: Path) -> None:
    journal = await _filled(tmp_path, 1)
    await journal.close()
    with pytest.raises(JournalError):
        await journal.sign_once("c1", ("vote", 5), _entry(5), FOR_EVER)
