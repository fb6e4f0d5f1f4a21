"""Rebuilding beside a live projector, and swapping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from logbook import Logbook
from sqlalchemy import Engine, inspect, text, update
from stored_log import StoredLog

from mabeam.core.errors import NotFoundError, SequenceGapError
from mabeam.projections import catalog, generations
from mabeam.projections.database import reading, writing
from mabeam.projections.digest import digest
from mabeam.projections.generations import ProjectorConflictError, RebuildNeededError
from mabeam.projections.projector import Projector
from mabeam.projections.rebuild import Rebuilt, rebuild, swap_built
from mabeam.projections.schema import event_mirror, projection_generation
from mabeam.protocols import PROTOCOLS

MakeProjector = Callable[..., Projector]


def _tables(engine: Engine) -> set[str]:
    return {name for name in inspect(engine).get_table_names() if "_g" in name and name[-1] != "n"}


@pytest.mark.parametrize("source", ["mirror", "log"])
async def test_rebuilt_content_is_equal(
    engine: Engine,
    make_projector: MakeProjector,
    book: Logbook,
    expected_models: dict[str, str],
    source: str,
) -> None:
    make_projector().project(book.records)
    log = StoredLog(book) if source == "log" else None
    done = await rebuild(engine, book.root.public_key, PROTOCOLS, log=log, capacity=5)
    assert done == Rebuilt(2, len(book.records), live=True, replaced=1, dropped=True)
    assert digest(engine).models == expected_models
    assert _tables(engine) == {f"{name}_g2" for name in catalog.MODEL_VERSIONS}


async def test_a_live_projector_goes_on_and_switches(
    engine: Engine,
    make_projector: MakeProjector,
    book: Logbook,
    expected_models: dict[str, str],
) -> None:
    projector = make_projector()
    projector.project(book.records[:60])
    ahead = iter(range(60, 100, 4))

    def write_meanwhile(sequence: int, target: int) -> None:
        at = next(ahead, None)
        if at is not None:
            projector.project(book.records[at : at + 4])

    done = await rebuild(
        engine,
        book.root.public_key,
        PROTOCOLS,
        capacity=5,
        progress=write_meanwhile,
    )
    assert done.live
    assert done.sequence == 100
    assert projector.generation == 1
    projector.project(book.records[100:])
    assert projector.generation == 2
    assert digest(engine).models == expected_models


async def test_views_show_the_new_tables_and_never_nothing(
    engine: Engine, make_projector: MakeProjector, book: Logbook
) -> None:
    make_projector().project(book.records)
    counts = set()

    def look(sequence: int, target: int) -> None:
        with reading(engine) as connection:
            counts.add(connection.scalar(text("SELECT count(*) FROM vote")))

    await rebuild(engine, book.root.public_key, PROTOCOLS, capacity=5, progress=look)
    look(0, 0)
    assert len(counts) == 1
    assert counts != {0}


async def test_build_now_swap_later(
    engine: Engine,
    make_projector: MakeProjector,
    book: Logbook,
    expected_models: dict[str, str],
) -> None:
    projector = make_projector()
    projector.project(book.records[:80])
    built = await rebuild(engine, book.root.public_key, PROTOCOLS, swap=False, capacity=5)
    assert not built.live
    projector.project(book.records[80:])
    assert projector.generation == 1
    done = await swap_built(engine, book.root.public_key, PROTOCOLS, capacity=5)
    assert (done.generation, done.sequence) == (2, len(book.records))
    assert digest(engine).models == expected_models
    with pytest.raises(NotFoundError):
        await swap_built(engine, book.root.public_key, PROTOCOLS)


async def test_an_abandoned_rebuild_leaves_no_tables(
    engine: Engine, make_projector: MakeProjector, book: Logbook
) -> None:
    make_projector().project(book.records)

    def die(sequence: int, target: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await rebuild(engine, book.root.public_key, PROTOCOLS, capacity=5, progress=die)
    assert len(_tables(engine)) == 2 * len(catalog.MODEL_VERSIONS)
    await rebuild(engine, book.root.public_key, PROTOCOLS)
    assert _tables(engine) == {f"{name}_g2" for name in catalog.MODEL_VERSIONS}


async def test_the_later_of_two_rebuilds_wins(
    engine: Engine, make_projector: MakeProjector, book: Logbook
) -> None:
    make_projector().project(book.records)
    second: list[asyncio.Task[Rebuilt]] = []

    async def start_second() -> Rebuilt:
        return await rebuild(engine, book.root.public_key, PROTOCOLS)

    def interfere(sequence: int, target: int) -> None:
        if not second:
            second.append(asyncio.ensure_future(start_second()))

    with pytest.raises(ProjectorConflictError):
        await rebuild(engine, book.root.public_key, PROTOCOLS, capacity=1, progress=interfere)
    assert (await second[0]).live


async def test_read_models_of_other_versions_must_be_rebuilt(
    engine: Engine, make_projector: MakeProjector, book: Logbook, expected_models: dict[str, str]
) -> None:
    projector = make_projector()
    projector.project(book.records[:100])
    old = msgspec.json.encode({"vote": 0, "forecast": 3}).decode()
    with writing(engine) as connection:
        connection.execute(update(projection_generation).values(models=old))
    with pytest.raises(RebuildNeededError, match="forecast"):
        make_projector()
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE VIEW forecast AS SELECT 1 AS one")
    await rebuild(engine, book.root.public_key, PROTOCOLS)
    assert "forecast" not in inspect(engine).get_view_names()
    make_projector().project(book.records[100:])
    assert digest(engine).models == expected_models


async def test_a_projector_stops_at_read_models_it_does_not_know(
    engine: Engine,
    make_projector: MakeProjector,
    book: Logbook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    projector = make_projector()
    projector.project(book.records[:100])
    newer = catalog.MODEL_VERSIONS | {"vote": 99}
    with monkeypatch.context() as patch:
        patch.setattr(generations, "MODEL_VERSIONS", newer)
        await rebuild(engine, book.root.public_key, PROTOCOLS)
    with pytest.raises(RebuildNeededError, match="vote"):
        projector.project(book.records[100:])


async def test_a_rebuild_from_the_log_finds_a_changed_mirror(
    engine: Engine, make_projector: MakeProjector, book: Logbook
) -> None:
    make_projector().project(book.records)
    with writing(engine) as connection:
        connection.execute(
            update(event_mirror).where(event_mirror.c.sequence == 20).values(wire=b"changed")
        )
    with pytest.raises(SequenceGapError, match="log and mirror differ"):
        await rebuild(engine, book.root.public_key, PROTOCOLS, log=StoredLog(book), capacity=5)


async def test_nothing_projected_nothing_rebuilt(engine: Engine, book: Logbook) -> None:
    with pytest.raises(NotFoundError):
        await rebuild(engine, book.root.public_key, PROTOCOLS)
