"""The mirror read as a log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from logbook import Logbook
from sqlalchemy import Engine, delete
from stored_log import StoredLog

from mabeam.core.errors import AppendRefusedError, LogUnavailableError, SequenceGapError
from mabeam.core.kernel_events import AgentRevoked
from mabeam.core.log import Submission
from mabeam.projections.database import writing
from mabeam.projections.projector import Projector
from mabeam.projections.schema import event_mirror
from mabeam.projections.sql_log import SqlLog


async def test_it_is_the_log(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    make_projector().project(book.records)
    mirror, log = SqlLog(engine), StoredLog(book)
    assert await mirror.head() == await log.head()
    assert [r async for batch in mirror.read_all() for r in batch] == book.records
    assert [r async for batch in mirror.read_all(120) for r in batch] == book.records[120:]
    for coordination in ("agreed", "running", "_registry", "no-such"):
        assert await mirror.read(coordination) == await log.read(coordination)
        assert await mirror.read(coordination, 30) == await log.read(coordination, 30)
    for sequence in (0, 1, 99, len(book.records), len(book.records) + 1):
        assert await mirror.record_at(sequence) == await log.record_at(sequence)


async def test_following_sees_what_is_projected_later(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    projector = make_projector()
    projector.project(book.records[:100])
    mirror = SqlLog(engine, poll_interval_s=0.01)
    everything, one = mirror.follow_all(90), mirror.follow("running")
    assert await anext(everything) == book.records[90:100]
    running = [record for record in book.records if ".running." in record.subject]
    assert [await anext(one) for _ in range(3)] == running[:3]
    await asyncio.to_thread(projector.project, book.records[100:])
    assert await anext(everything) == book.records[100:]
    assert [await anext(one) for _ in running[3:]] == running[3:]


async def test_missing_rows_are_not_skipped(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    make_projector().project(book.records)
    with writing(engine) as connection:
        connection.execute(delete(event_mirror).where(event_mirror.c.sequence == 50))
    with pytest.raises(SequenceGapError):
        [batch async for batch in SqlLog(engine).read_all()]


async def test_it_cannot_be_written_and_may_be_empty(engine: Engine, book: Logbook) -> None:
    event = book.author("agent-a").sign("x", b"", "agent.revoked", AgentRevoked("agent-a"))
    with pytest.raises(AppendRefusedError):
        await SqlLog(engine).append(Submission(event, "ctl", "node-1"))
    with pytest.raises(LogUnavailableError):
        await SqlLog(engine).head()
