"""The projector: the same content however it is cut, restarted or interrupted."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from logbook import Logbook, busy_log
from sqlalchemy import Engine, text

from mabeam.core.errors import SequenceGapError
from mabeam.core.log import Record
from mabeam.projections import projector as projector_module
from mabeam.projections.database import reading
from mabeam.projections.digest import digest
from mabeam.projections.generations import ProjectorConflictError
from mabeam.projections.projector import Projector, ProjectorStoppedError
from mabeam.projections.verification import verification_pool
from mabeam.protocols import PROTOCOLS


def _pieces(records: list[Record], rng: random.Random) -> list[list[Record]]:
    pieces = []
    while records:
        size = rng.randint(1, 40)
        pieces.append(records[:size])
        records = records[size:]
    return pieces


def test_one_batch_gives_what_single_records_give(
    engine: Engine,
    make_projector: Callable[..., Projector],
    book: Logbook,
    expected_models: dict[str, str],
) -> None:
    make_projector().project(book.records)
    assert digest(engine).models == expected_models


@pytest.mark.parametrize("seed", range(4))
def test_killed_between_batches_of_any_size(
    engine: Engine,
    make_projector: Callable[..., Projector],
    book: Logbook,
    expected_models: dict[str, str],
    seed: int,
) -> None:
    rng = random.Random(seed)
    projector = make_projector()
    for piece in _pieces(book.records, rng):
        projector.offer(piece)
        if rng.random() < 0.4:
            projector = make_projector(capacity=rng.choice([4, 50, 1000]))
            projector.project(book.records[projector.position.sequence : piece[-1].sequence])
    projector.flush()
    assert digest(engine).models == expected_models


def test_forgotten_coordinations_are_restored(
    engine: Engine,
    make_projector: Callable[..., Projector],
    book: Logbook,
    expected_models: dict[str, str],
) -> None:
    projector = make_projector(capacity=2)
    projector.project(book.records)
    assert projector.counts.restored > 0
    assert digest(engine).models == expected_models


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_signatures_may_be_checked_elsewhere(engine: Engine, kind: str) -> None:
    book = busy_log(40)
    pool: Executor = ThreadPoolExecutor(2) if kind == "threads" else verification_pool(1)
    with pool:
        projector = Projector(
            engine, book.root.public_key, PROTOCOLS, book.created_ns, pool=pool, capacity=100
        )
        projector.project(book.records)
    assert projector.position.sequence == len(book.records)
    assert not projector.counts.rejections


def test_nothing_is_written_by_a_batch_that_fails(
    engine: Engine,
    make_projector: Callable[..., Projector],
    book: Logbook,
    expected_models: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    projector = make_projector()
    projector.project(book.records[:50])
    before = digest(engine)
    with monkeypatch.context() as patch:
        patch.setattr(projector_module, "insert_rows", _insert_and_fail)
        with pytest.raises(ProjectorStoppedError, match="records 51 to 100: no such luck"):
            projector.project(book.records[50:100])
    with pytest.raises(ProjectorStoppedError):
        projector.project(book.records[50:])
    assert digest(engine) == before
    make_projector().project(book.records[50:])
    assert digest(engine).models == expected_models


def _insert_and_fail(*arguments: Any) -> None:
    from mabeam.projections.writing import insert_rows

    insert_rows(*arguments)
    raise RuntimeError("no such luck")


def test_every_record_is_mirrored_once(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    projector = make_projector()
    projector.project(book.records)
    with reading(engine) as connection:
        rows = connection.execute(text("SELECT sequence, wire FROM event ORDER BY sequence")).all()
    assert [(row.sequence, bytes(row.wire)) for row in rows] == [
        (record.sequence, record.wire) for record in book.records
    ]
    assert projector.counts.records == len(book.records)
    assert projector.counts.rejections["simple_consensus", "equivocation"] == 3


@pytest.mark.parametrize("hole", [0, 30])
def test_a_hole_is_never_skipped(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook, hole: int
) -> None:
    projector = make_projector()
    projector.project(book.records[:20])
    with pytest.raises(SequenceGapError):
        projector.project(book.records[20:hole] + book.records[hole + 1 :])
    assert digest(engine).sequence == 20


def test_two_projectors_do_not_share_a_database(
    make_projector: Callable[..., Projector], book: Logbook
) -> None:
    first, second = make_projector(), make_projector()
    first.project(book.records[:10])
    with pytest.raises(ProjectorConflictError):
        second.project(book.records[:20])


def test_another_log_is_refused(engine: Engine, book: Logbook) -> None:
    Projector(engine, book.root.public_key, PROTOCOLS, book.created_ns)
    with pytest.raises(SequenceGapError, match="was created at"):
        Projector(engine, book.root.public_key, PROTOCOLS, book.created_ns + 1)
