"""Writing rows fast: the one place where SQLite and PostgreSQL differ.

Rows go to SQLite by ``executemany`` of a fixed statement and to PostgreSQL by binary ``COPY``. Rows
of a scope are replaced by deleting the scope first, so both only ever need plain inserts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Boolean, Connection, LargeBinary, Table, Text

from .projection import Change, Projection, Row


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows given in the order of the table's columns."""
    if not rows:
        return
    if is_postgres(connection):
        _copy(connection, table, rows)
    else:
        connection.exec_driver_sql(_insert(table, "?"), list(rows))


def write_change(
    connection: Connection, projection: Projection, table: Table, change: Change
) -> None:
    """Apply a projection's change of one batch to its table."""
    if change.scopes:
        connection.exec_driver_sql(
            f'DELETE FROM {table.name} WHERE "{projection.scope}" {any_of(connection)}',
            (listed(connection, change.scopes),),
        )
    if projection.policy != "keep":
        insert_rows(connection, table, change.rows)
    elif change.rows:
        statement = _insert(table, "%s" if is_postgres(connection) else "?")
        connection.exec_driver_sql(statement + " ON CONFLICT DO NOTHING", list(change.rows))
    if change.amendments and projection.amendment is not None:
        connection.execute(projection.amendment(table), list(change.amendments))


def is_postgres(connection: Connection) -> bool:
    """Whether this is PostgreSQL rather than SQLite."""
    return connection.dialect.name == "postgresql"


def any_of(connection: Connection) -> str:
    """SQL for "is one of", to follow a column; its one parameter comes from :func:`listed`."""
    return "= ANY(%s)" if is_postgres(connection) else "IN (SELECT value FROM json_each(?))"


def listed(connection: Connection, values: Collection[str]) -> Any:
    """``values`` as the parameter of :func:`any_of`."""
    return list(values) if is_postgres(connection) else msgspec.json.encode(list(values)).decode()


@cache
def _insert(table: Table, placeholder: str) -> str:
    places = ", ".join([placeholder] * len(table.columns))
    return f"INSERT INTO {table.name} VALUES ({places})"


def _copy(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(_copy_statement(table)) as copy:
        copy.set_types(_copy_types(table))
        for row in rows:
            copy.write_row(row)


@cache
def _copy_statement(table: Table) -> str:
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    return f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)"


@cache
def _copy_types(table: Table) -> tuple[str, ...]:
    return tuple(_copy_type(column.type) for column in table.columns)


def _copy_type(kind: object) -> str:
    if isinstance(kind, Text):
        return "text"
    if isinstance(kind, LargeBinary):
        return "bytea"
    return "bool" if isinstance(kind, Boolean) else "int8"
