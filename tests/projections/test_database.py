"""What goes wrong with databases is said in typed errors with a hint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from logbook import Logbook
from sqlalchemy import Engine, event, text

from mabeam.core.errors import MabeamError, UsageError
from mabeam.projections.database import (
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    SchemaOutdatedError,
    SchemaTooNewError,
    check_schema,
    open_database,
    reading,
    writing,
)
from mabeam.projections.digest import digest
from mabeam.projections.projector import Projector
from mabeam.protocols import PROTOCOLS


@pytest.mark.parametrize(
    "url",
    ["sqlite:////no/such/folder/x.db", "postgresql://nobody@127.0.0.1:1/x"],
)
def test_unreachable(url: str) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        check_schema(open_database(url))
    assert caught.value.hint
    assert caught.value.exit_code == 5


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"certainly no database" * 100)
    with pytest.raises(DatabaseUnavailableError):
        check_schema(open_database(f"sqlite:///{tmp_path}/x.db"))


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", ""])
def test_not_an_address(url: str) -> None:
    with pytest.raises(UsageError):
        open_database(url)


def test_read_only(database_url: str, engine: Engine, book: Logbook) -> None:
    readers = open_database(database_url, access="read")
    with pytest.raises(DatabaseReadOnlyError) as caught:
        Projector(readers, book.root.public_key, PROTOCOLS, book.created_ns)
    assert caught.value.hint
    readers.dispose()


def test_reading_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError):
        open_database(f"sqlite:///{tmp_path}/x.db", access="read")
    assert list(tmp_path.iterdir()) == []


def test_schema_missing_or_newer(database_url: str, engine: Engine, book: Logbook) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNewError):
        Projector(engine, book.root.public_key, PROTOCOLS, book.created_ns)
    with writing(engine) as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(SchemaOutdatedError, match="needs 0001") as caught:
        Projector(engine, book.root.public_key, PROTOCOLS, book.created_ns)
    assert "db upgrade" in caught.value.hint


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_disk_full(engine: Engine, make_projector: Callable[..., Projector], book: Logbook) -> None:
    projector = make_projector()
    projector.project(book.records[:40])
    before = digest(engine)
    with engine.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(DatabaseFullError) as caught:
        projector.project(book.records[40:])
    assert caught.value.hint
    assert digest(engine) == before


@contextmanager
def _impatient(engine: Engine, setting: str) -> Iterator[None]:
    """Give up waiting for locks early, on every connection used from here on."""

    def checked_out(connection: Any, *_: object) -> None:
        connection.cursor().execute(setting)
        connection.commit()

    event.listen(engine, "checkout", checked_out)
    try:
        yield
    finally:
        event.remove(engine, "checkout", checked_out)


def test_a_writer_that_holds_the_lock_too_long_is_named(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    projector = make_projector()
    if engine.dialect.name == "sqlite":
        short = "PRAGMA busy_timeout = 50"
    else:
        short = "SET lock_timeout = '50ms'"
    with writing(engine) as holder:
        holder.execute(text("UPDATE projection_position SET sequence = sequence"))
        with pytest.raises(DatabaseUnavailableError, match="lock"), _impatient(engine, short):
            projector.project(book.records)


def test_reads_see_one_state(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    projector = make_projector()
    projector.project(book.records[:40])
    query = text("SELECT count(*) FROM event")
    with reading(engine) as connection:
        before = connection.scalar(query)
        projector.project(book.records[40:])
        assert connection.scalar(query) == before == 40


def test_a_mistake_of_ours_is_no_database_error(engine: Engine) -> None:
    with pytest.raises(Exception, match="syntax") as caught, writing(engine) as connection:
        connection.exec_driver_sql("SELEKT 1")
    assert not isinstance(caught.value, MabeamError) or engine.dialect.name == "sqlite"
