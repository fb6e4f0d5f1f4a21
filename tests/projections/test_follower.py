"""Following a log into the database, and refusing to follow another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from logbook import Logbook
from sqlalchemy import Engine
from stored_log import StoredLog

from mabeam.core.errors import LogUnavailableError, SequenceGapError
from mabeam.projections.digest import digest
from mabeam.projections.follower import Follower, check_position
from mabeam.projections.projector import Projector


async def test_follows_what_is_stored_and_what_arrives(
    engine: Engine,
    make_projector: Callable[..., Projector],
    book: Logbook,
    expected_models: dict[str, str],
) -> None:
    log = StoredLog(book, 60)
    follower = Follower(make_projector(), log)
    running = asyncio.create_task(follower.run())
    await follower.caught_up(60)
    for at in range(60, len(book.records), 7):
        log.receive(book.records[at : at + 7])
        await asyncio.sleep(0)
    await asyncio.wait_for(follower.caught_up(len(book.records)), 30)
    assert await follower.lag() == follower.backlog == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert digest(engine).models == expected_models


async def test_continues_after_a_restart(
    engine: Engine,
    make_projector: Callable[..., Projector],
    book: Logbook,
    expected_models: dict[str, str],
) -> None:
    log = StoredLog(book)
    make_projector().project(book.records[:77])
    follower = Follower(make_projector(), log)
    assert await follower.lag() == len(book.records) - 77
    running = asyncio.create_task(follower.run())
    await asyncio.wait_for(follower.caught_up(len(book.records)), 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert digest(engine).models == expected_models


async def test_whoever_waits_learns_why_it_ended(
    make_projector: Callable[..., Projector], book: Logbook
) -> None:
    log = StoredLog(book, 10)
    follower = Follower(make_projector(), log)
    running = asyncio.create_task(follower.run())
    await follower.caught_up(10)
    waiting = asyncio.create_task(follower.caught_up(11))
    await asyncio.sleep(0)
    log.close()
    with pytest.raises(LogUnavailableError):
        await waiting
    with pytest.raises(LogUnavailableError):
        await running


async def test_a_hole_stops_it(make_projector: Callable[..., Projector], book: Logbook) -> None:
    log = StoredLog(book, 10)
    log.receive(book.records[11:20])
    with pytest.raises(SequenceGapError, match="sequence 12 follows 10"):
        await Follower(make_projector(), log).run()


async def test_positions_are_checked_against_the_log(
    make_projector: Callable[..., Projector], book: Logbook
) -> None:
    projector = make_projector()
    await check_position(projector.position, StoredLog(book, 0))
    projector.project(book.records[:40])
    await check_position(projector.position, StoredLog(book))
    with pytest.raises(SequenceGapError, match="the log ends at 39"):
        await check_position(projector.position, StoredLog(book, 39))
    other = StoredLog(book)
    other.broker.records[39] = msgspec.structs.replace(book.records[39], wire=b"rewritten")
    with pytest.raises(SequenceGapError, match="something else at sequence 40"):
        await check_position(projector.position, other)
    other = StoredLog(book)
    other.broker.created_ns += 1
    with pytest.raises(SequenceGapError, match="was created at"):
        await Follower(projector, other).run()
