"""Reading SQL for people: one read-only query, typed errors, plain values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from ..core.errors import NotFoundError, UsageError
from ..projections.database import check_schema, open_database, reading
from ..projections.generations import live_generation

_JSON_COLUMNS = frozenset({"roles", "capabilities", "waiting_for", "body", "outcome", "models"})


class QueryError(UsageError):
    """The database refused a query."""

    code = "query"


@contextmanager
def open_for_reading(url: str) -> Iterator[Engine]:
    """An engine that can only read.

    Raises:
        NotFoundError: the SQLite file does not exist (reading must not create it).
    """
    check_exists(url)
    engine = open_database(url, access="read")
    try:
        yield engine
    finally:
        engine.dispose()


def check_exists(url: str) -> None:
    """Raise :class:`NotFoundError` for a SQLite file that is not there."""
    if not url.startswith("sqlite"):
        return
    path = make_url(url).database
    if path and not path.startswith(("file:", ":memory:")) and not Path(path).exists():
        raise NotFoundError(
            f"there is no database {path}",
            hint="Run 'mabeam db upgrade', then a projector; or read the log with --from-log.",
        )


def rows_of(url: str, query: str) -> list[dict[str, Any]]:
    """Rows of one of our own queries on the public views."""
    with open_for_reading(url) as engine:
        check_schema(engine)
        with reading(engine) as connection:
            if live_generation(connection) is None:
                raise NotFoundError(
                    "nothing was projected into this database yet",
                    hint="Run 'mabeam projector run', or read the log with --from-log.",
                )
        columns, rows = run_query(engine, query)
    return [
        {name: _decoded(name, value) for name, value in zip(columns, row, strict=True)}
        for row in rows
    ]


def run_query(
    engine: Engine, query: str, limit: int | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one query in a read-only transaction; returns column names and rows.

    Raises:
        QueryError: not SQL the database understands, or it would write.
    """
    with reading(engine) as connection:
        unbound = connection.execution_options(no_parameters=True)  # `%` is only a character
        try:
            result = unbound.exec_driver_sql(query)
        except DBAPIError as error:
            refusal = _query_error(error)
            if refusal is None:
                raise
            raise refusal from None
        if not result.returns_rows:
            raise QueryError("the statement returns no rows", hint="Write a SELECT.")
        rows = result.fetchall() if limit is None else result.fetchmany(limit)
        return list(result.keys()), [tuple(row) for row in rows]


def _query_error(error: DBAPIError) -> QueryError | None:
    """The fault of a query; ``None`` if the database itself is in trouble."""
    text = " ".join(str(error.orig).split())
    kind = type(error.orig).__name__
    if "readonly" in text or "read-only" in text:
        return QueryError(
            "the query would write; only reading is permitted here",
            hint="The projector alone writes; ask for rows with SELECT.",
        )
    is_sqlite = getattr(error.orig, "sqlite_errorname", "") == "SQLITE_ERROR"
    if is_sqlite or (getattr(error.orig, "sqlstate", None) or "").startswith("42"):
        return QueryError(text, hint="See the tables and columns with 'mabeam db docs'.")
    return QueryError(text) if kind in ("ProgrammingError", "DataError") else None


def _decoded(name: str, value: Any) -> Any:
    if name in _JSON_COLUMNS and isinstance(value, str):
        return json.loads(value)
    return value
