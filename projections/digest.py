"""Content digests of read models: equal content has equal digests on every database.

The digest of a table is SHA-256 over its rows, sorted by primary key, each encoded as a msgpack
array of its values in the order of the columns.
"""

from __future__ import annotations

import hashlib

import msgspec
from sqlalchemy import Connection, Engine, Table, select

from ..core.errors import NotFoundError
from .catalog import PROJECTIONS
from .database import reading
from .generations import LIVE, GenerationTables, generations
from .schema import event_mirror
from .views import EVENT_VIEW

_FETCH = 1000
_encode = msgspec.msgpack.Encoder().encode


class Digests(msgspec.Struct, frozen=True):
    """Digests of one state of the database.

    Attributes:
        generation: the generation looked at.
        sequence: its position.
        models: hex SHA-256 by read model; ``event`` stands for the mirror up to the position.
    """

    generation: int
    sequence: int
    models: dict[str, str]


def digest(engine: Engine, generation: int | None = None) -> Digests:
    """Digest every read model of a generation.

    Args:
        engine: the database.
        generation: which one; the live one by default.

    Raises:
        NotFoundError: there is no such generation, or none is live yet.
    """
    with reading(engine) as connection:
        found = next(
            (
                each
                for each in generations(connection)
                if each.number == generation or (generation is None and each.state == LIVE)
            ),
            None,
        )
        if found is None:
            raise NotFoundError(
                f"there is no generation {generation}"
                if generation
                else "nothing was projected yet",
                hint="See 'mabeam projection ls'.",
            )
        tables = GenerationTables(found.number)
        models = {
            each.name: table_digest(connection, tables.table(each.name)) for each in PROJECTIONS
        }
        models[EVENT_VIEW] = table_digest(connection, event_mirror, found.position.sequence)
        return Digests(found.number, found.position.sequence, models)


def table_digest(connection: Connection, table: Table, upto: int | None = None) -> str:
    """Hex digest of a table, of rows with sequence <= ``upto`` if given."""
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_FETCH)
    if upto is not None:
        query = query.where(table.c.sequence <= upto)
    total = hashlib.sha256()
    for row in connection.execute(query):
        total.update(_encode(tuple(row)))
    return total.hexdigest()
