"""The schema goes up, down and up again, and is what the program declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from logbook import Logbook, eventful_log
from sqlalchemy import inspect, text

from mabeam import migrations
from mabeam.projections.database import SchemaTooNewError, open_database, writing
from mabeam.projections.digest import digest
from mabeam.projections.projector import Projector
from mabeam.projections.schema import KNOWN_REVISIONS, SCHEMA_REVISION, metadata
from mabeam.protocols import PROTOCOLS


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mabeam.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


def _names(url: str) -> set[str]:
    engine = open_database(url)
    found = inspect(engine)
    names = {*found.get_table_names(), *found.get_view_names()}
    engine.dispose()
    return names


def _project(url: str, book: Logbook) -> dict[str, str]:
    engine = open_database(url)
    Projector(engine, book.root.public_key, PROTOCOLS, book.created_ns).project(book.records)
    models = digest(engine).models
    engine.dispose()
    return models


def test_up_down_up(url: str) -> None:
    book = eventful_log()
    assert migrations.current(url) is None
    migrations.upgrade(url)
    assert migrations.current(url) == SCHEMA_REVISION
    fresh = _names(url)
    first = _project(url, book)
    assert _names(url) > fresh
    migrations.downgrade(url, "base")
    assert migrations.current(url) is None
    assert _names(url) == {"alembic_version"}
    migrations.upgrade(url)
    assert _names(url) == fresh
    assert _project(url, book) == first


def test_upgrading_twice_changes_nothing(url: str) -> None:
    migrations.upgrade(url)
    before = _names(url)
    migrations.upgrade(url)
    assert _names(url) == before


def test_upgraded_schema_is_the_declared_one(url: str) -> None:
    migrations.upgrade(url)
    engine = open_database(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_program_knows_every_revision() -> None:
    folder = Path(migrations.__file__).parent
    script = ScriptDirectory(str(folder))
    assert script.get_heads() == [SCHEMA_REVISION]
    revisions = [each.revision for each in script.walk_revisions()]
    assert revisions[::-1] == list(KNOWN_REVISIONS)


def test_a_newer_schema_is_left_alone(url: str) -> None:
    migrations.upgrade(url)
    engine = open_database(url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNewError):
        migrations.upgrade(engine)
    engine.dispose()
