"""The public SQL surface: one view per read model, and ``event`` over the mirror.

A view shows every column of its table, times also as text (``…_at``), and JSON as ``jsonb`` where
the database has it, so that ``column ->> 'name'`` works everywhere. Views stay while generations
change.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Connection, Table, inspect
from sqlalchemy.exc import DBAPIError

from .catalog import PROJECTIONS
from .schema import event_mirror
from .writing import is_postgres

EVENT_VIEW = "event"


def view_columns(table: Table) -> Iterator[tuple[str, str, str]]:
    """Name, comment and kind (``text``, ``integer``, ``json`` …) of every column of the view."""
    for column in table.columns:
        yield column.name, column.comment or "", _kind(column)
        if column.info.get("time"):
            yield _readable(column.name), f"`{column.name}` as ISO 8601 text in UTC.", "text"


def public_views() -> dict[str, Table]:
    """Name of every public view and the table that declares its columns."""
    return {each.name: each.table for each in PROJECTIONS} | {EVENT_VIEW: event_mirror}


def replace_view(connection: Connection, name: str, table: Table) -> None:
    """Let the public view ``name`` show ``table`` from this transaction on.

    Views that users built on it stay, unless columns were removed: PostgreSQL then refuses to drop
    the view, and the error names what depends on it.
    """
    query = _query(connection, table)
    if not is_postgres(connection):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")
        return
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"CREATE OR REPLACE VIEW {name} AS {query}")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", "") != _INVALID_TABLE_DEFINITION:
            raise
        connection.exec_driver_sql(f"DROP VIEW {name}")
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")
    for column, comment, _ in view_columns(table):
        quoted = comment.replace("'", "''").replace("%", "%%")
        connection.exec_driver_sql(f"COMMENT ON COLUMN {name}.\"{column}\" IS '{quoted}'")


def drop_stale_views(connection: Connection, stale: set[str]) -> None:
    """Drop public views of read models that no longer exist."""
    for name in sorted(stale & set(inspect(connection).get_view_names())):
        connection.exec_driver_sql(f"DROP VIEW {name}")


_INVALID_TABLE_DEFINITION = "42P16"


def _kind(column: Column[object]) -> str:
    if column.info.get("json"):
        return "json"
    return {"TEXT": "text", "BIGINT": "integer", "BOOLEAN": "boolean", "BLOB": "bytes"}[
        str(column.type)
    ]


def _query(connection: Connection, table: Table) -> str:
    parts = []
    for column in table.columns:
        name = f'"{column.name}"'
        if column.info.get("json") and is_postgres(connection):
            parts.append(f"{name}::jsonb AS {name}")
        else:
            parts.append(name)
        if column.info.get("time"):
            parts.append(f'{_time(connection, name)} AS "{_readable(column.name)}"')
    return f"SELECT {', '.join(parts)} FROM {table.name}"


def _readable(name: str) -> str:
    """``stored_ns`` is readable as ``stored_at``, ``at_ns`` as ``at``."""
    stem = name.removesuffix("_ns")
    return stem if stem == "at" else f"{stem}_at"


def _time(connection: Connection, name: str) -> str:
    """Readable time from integers alone, so that both databases give the same text."""
    if is_postgres(connection):
        return (
            f"to_char(to_timestamp({name} / 1000000000) AT TIME ZONE 'UTC', "
            f"'YYYY-MM-DD\"T\"HH24:MI:SS') || '.' || "
            f"lpad((mod({name}, 1000000000) / 1000)::text, 6, '0') || 'Z'"
        )
    return (
        f"strftime('%Y-%m-%dT%H:%M:%S', {name} / 1000000000, 'unixepoch') || "
        f"printf('.%06dZ', ({name} % 1000000000) / 1000)"
    )
