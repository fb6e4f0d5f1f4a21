"""Opening the database, and its failures as typed errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InternalError,
    OperationalError,
    TimeoutError,
)

from ..core.errors import MabeamError, UsageError
from .schema import KNOWN_REVISIONS, SCHEMA_REVISION

BUSY_TIMEOUT_S = 30
"""How long a writer waits for another one (SQLite has one writer at a time)."""

Access = Literal["read", "write"]


class DatabaseError(MabeamError):
    """The database refused or failed an operation."""

    code = "database"
    exit_code = 5


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached, opened or waited for."""

    code = "database_unavailable"


class DatabaseReadOnlyError(DatabaseError):
    """The database must be written and may only be read."""

    code = "database_read_only"


class DatabaseFullError(DatabaseError):
    """The disk or the quota of the database is used up; nothing of the batch was written."""

    code = "database_full"


class SchemaOutdatedError(DatabaseError):
    """The database lacks migrations this program needs."""

    code = "schema_outdated"


class SchemaTooNewError(DatabaseError):
    """The database was migrated by a newer program."""

    code = "schema_too_new"


def open_database(url: str, *, access: Access = "write") -> Engine:
    """An engine with the settings every part of mabeam relies on; connects lazily.

    A lost commit is repeated from the log, and a position never outlives its rows. Hence SQLite
    runs with a write-ahead log and ``synchronous=NORMAL``, PostgreSQL with
    ``synchronous_commit=off``.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://…``.
        access: ``read`` refuses to write.

    Raises:
        UsageError: not the address of such a database.
        DatabaseUnavailableError: there is no such file to read.
    """
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise UsageError(
            f"{url!r} is no database address",
            hint="Write sqlite:///FILE or postgresql://HOST/NAME.",
        ) from error
    if address.get_backend_name() == "sqlite":
        if access == "read" and address.database and not Path(address.database).exists():
            raise DatabaseUnavailableError(f"{address.database} does not exist", hint=_REACH)
        engine = create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_S})
        _configure_sqlite(engine, access)
        return engine
    if address.get_backend_name() != "postgresql":
        raise UsageError(
            f"databases of kind {address.get_backend_name()!r} are not supported",
            hint="Use SQLite or PostgreSQL.",
        )
    options = "-c synchronous_commit=off -c timezone=UTC"
    if access == "read":
        options += " -c default_transaction_read_only=on"
    return create_engine(
        address.set(drivername="postgresql+psycopg"),
        connect_args={"options": options, "application_name": "mabeam", "connect_timeout": 10},
        pool_pre_ping=True,
    )


def _configure_sqlite(engine: Engine, access: Access) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not inside the driver
        if access == "read":
            connection.execute("PRAGMA query_only=ON")
        else:
            connection.execute("PRAGMA page_size=16384")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA cache_size=-65536")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=8000")

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        write = connection.get_execution_options().get("mabeam_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection whose queries all see one state of the database."""
    with database_errors(engine), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes, committed at the end unless the block raises."""
    with database_errors(engine), engine.connect() as connection:
        connection = connection.execution_options(mabeam_write=True)
        with connection.begin():
            yield connection


def check_schema(engine: Engine) -> None:
    """Refuse a database whose schema is not the one this program was written for.

    Raises:
        SchemaOutdatedError: it must be upgraded first.
        SchemaTooNewError: this program must be upgraded first.
    """
    with reading(engine) as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found == SCHEMA_REVISION:
        return
    if found is None or found in KNOWN_REVISIONS:
        raise SchemaOutdatedError(
            f"{_name(engine)} is at schema {found or 'none'}, this program needs {SCHEMA_REVISION}",
            hint="Run 'mabeam db upgrade'.",
        )
    raise SchemaTooNewError(
        f"{_name(engine)} is at schema {found}, this program knows {SCHEMA_REVISION}",
        hint="Use a newer mabeam, or downgrade the schema with the one that upgraded it.",
    )


@contextmanager
def database_errors(engine: Engine) -> Iterator[None]:
    """Turn what the driver raises into :class:`DatabaseError` and its kinds."""
    try:
        yield
    except MabeamError:
        raise
    except Exception as error:
        translated = _translate(error, _name(engine))
        if translated is None:
            raise
        raise translated from error


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _translate(error: Exception, name: str) -> DatabaseError | None:
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    kind = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    if isinstance(kind, str):
        for prefixes, failure, hint in _FAILURES:
            if kind.startswith(prefixes):
                return failure(f"{name}: {_first_line(original)}", hint=hint)
    connecting = isinstance(error, DBAPIError) and (error.connection_invalidated or kind is None)
    if connecting and type(original).__name__ in ("OperationalError", "ConnectionTimeout"):
        return DatabaseUnavailableError(
            f"{name} cannot be reached: {_first_line(original)}", hint=_REACH
        )
    if isinstance(error, OperationalError | InternalError | TimeoutError):
        return DatabaseError(f"{name}: {_first_line(original)}")
    return None  # our mistake, not the database's


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_REACH = "Check the address, that the server runs, and that the folder exists."
_FAILURES: tuple[tuple[tuple[str, ...], type[DatabaseError], str], ...] = (
    (
        ("SQLITE_READONLY", "25006", "42501"),
        DatabaseReadOnlyError,
        "Grant this user the right to write, or point to the primary database.",
    ),
    (
        ("SQLITE_FULL", "53100"),
        DatabaseFullError,
        "Free space; the projector then continues where it stopped.",
    ),
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40P01", "57014"),
        DatabaseUnavailableError,
        "Another program holds a lock; end long queries and try again.",
    ),
    (
        ("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_NOTADB", "08", "57P", "53", "3D000", "28"),
        DatabaseUnavailableError,
        _REACH,
    ),
    (("42P01",), SchemaOutdatedError, "Run 'mabeam db upgrade'."),
)
