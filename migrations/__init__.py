"""Migrations of the schema that outlives rebuilds: mirror, positions and generations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from ..projections.database import SchemaTooNewError, open_database, reading, writing
from ..projections.schema import KNOWN_REVISIONS, SCHEMA_REVISION, event_mirror, metadata
from ..projections.views import EVENT_VIEW, replace_view

_LOCK = 7_308_604_759_846_774_116  # "mabeam" has no meaning to PostgreSQL; any constant will do


def upgrade(database: Engine | str, revision: str = "head") -> None:
    """Bring the schema to ``revision``, in one transaction; nothing happens if it is there already.

    Raises:
        SchemaTooNewError: the database was migrated by a newer program.
        DatabaseError: see there.
    """
    with _migrating(database) as (connection, config):
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None and found not in KNOWN_REVISIONS:
            raise SchemaTooNewError(
                f"the database is at schema {found}, this program knows {SCHEMA_REVISION}",
                hint="Use the newer mabeam that upgraded it.",
            )
        command.upgrade(config, revision)
        if found != MigrationContext.configure(connection).get_current_revision():
            replace_view(connection, EVENT_VIEW, event_mirror)


def downgrade(database: Engine | str, revision: str) -> None:
    """Take the schema back to ``revision`` (``base`` removes everything, the mirror included)."""
    with _migrating(database) as (_, config):
        command.downgrade(config, revision)


def current(database: Engine | str) -> str | None:
    """The revision of the schema, ``None`` if there is none."""
    with _engine(database) as engine, reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _migrating(database: Engine | str) -> Iterator[tuple[Connection, Config]]:
    with _engine(database) as engine, writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.attributes["connection"] = connection
        config.attributes["metadata"] = metadata
        yield connection, config


@contextmanager
def _engine(database: Engine | str) -> Iterator[Engine]:
    if isinstance(database, Engine):
        yield database
        return
    engine = open_database(database)
    try:
        yield engine
    finally:
        engine.dispose()
