"""Generations of read models: create, find, advance, swap and drop.

Every state change happens in the caller's transaction. Whoever moves a generation forward first
moves its position, which locks out everybody else; the swap takes the same lock.
"""

from __future__ import annotations

import re

import msgspec
from sqlalchemy import Connection, MetaData, Table, delete, func, insert, inspect, select, update

from ..core.errors import SequenceGapError
from .catalog import MODEL_VERSIONS, PROJECTIONS
from .database import DatabaseError
from .projection import Change, Folded, Projection
from .schema import projection_generation, projection_position
from .views import drop_stale_views, replace_view
from .writing import is_postgres, write_change

LIVE, BUILDING, BUILT, RETIRED = "live", "building", "built", "retired"


class ProjectorConflictError(DatabaseError):
    """Another program moves the same read models forward."""

    code = "projector_conflict"


class RebuildNeededError(DatabaseError):
    """The live read models are of other versions than this program writes."""

    code = "rebuild_needed"


class Position(msgspec.Struct, frozen=True):
    """How far a set of read models has come.

    Attributes:
        stream_created_ns: creation time of the log, nanoseconds since 1970.
        sequence: last record projected, 0 before the first.
        record_sha256: hash of that record's stored bytes, hex; empty before the first.
    """

    stream_created_ns: int
    sequence: int = 0
    record_sha256: str = ""


class Generation(msgspec.Struct, frozen=True):
    """One set of read model tables, as ``mabeam projection ls`` shows it."""

    number: int
    state: str
    models: dict[str, int]
    position: Position


Changes = list[tuple[Projection, Change]]
"""The changes of one batch to all read models."""


class GenerationTables:
    """The tables of one generation, for writing."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._metadata = MetaData()
        self._tables = {
            each.name: each.table.to_metadata(self._metadata, name=table_name(each.name, number))
            for each in PROJECTIONS
        }

    def table(self, model: str) -> Table:
        """The table of a read model."""
        return self._tables[model]

    def create(self, connection: Connection) -> None:
        """Create all tables, empty."""
        self._metadata.create_all(connection, checkfirst=False)

    def write(self, connection: Connection, changes: Changes) -> None:
        """Apply the changes of one batch."""
        for projection, change in changes:
            write_change(connection, projection, self._tables[projection.name], change)


def changes_of(batch: Folded) -> Changes:
    """What a folded batch changes in every read model; pure."""
    return [(each, each.apply(batch)) for each in PROJECTIONS]


def table_name(model: str, generation: int) -> str:
    """Table of a read model in a generation."""
    return f"{model}_g{generation}"


def generations(connection: Connection) -> list[Generation]:
    """All generations, oldest first."""
    number, position = projection_generation.c.generation, projection_position.c
    rows = connection.execute(
        select(
            projection_generation,
            position.stream_created_ns,
            position.sequence,
            position.record_sha256,
        )
        .join_from(
            projection_generation, projection_position, number == position.generation, isouter=True
        )
        .order_by(number)
    )
    return [
        Generation(
            row.generation,
            row.state,
            msgspec.json.decode(row.models, type=dict[str, int]),
            Position(row.stream_created_ns or 0, row.sequence or 0, row.record_sha256 or ""),
        )
        for row in rows
    ]


def live_generation(connection: Connection) -> Generation | None:
    """The generation behind the public views.

    Raises:
        RebuildNeededError: it was written by a program with other read models.
    """
    live = next((each for each in generations(connection) if each.state == LIVE), None)
    if live is not None and live.models != MODEL_VERSIONS:
        changed = sorted(set(live.models.items()) ^ set(MODEL_VERSIONS.items()))
        raise RebuildNeededError(
            f"the read models {', '.join(dict.fromkeys(name for name, _ in changed))} in the "
            "database are of other versions than this program's",
            hint="Run 'mabeam projection rebuild' with the newest program, and only that one.",
        )
    return live


def live_position(connection: Connection) -> Position | None:
    """Position of the mirror and of the live read models, whatever their versions."""
    return next((g.position for g in generations(connection) if g.state == LIVE), None)


def create_generation(
    connection: Connection, state: str, stream_created_ns: int
) -> GenerationTables:
    """Create the next generation, empty, at the beginning of the log."""
    newest = connection.scalar(select(func.max(projection_generation.c.generation))) or 0
    tables = GenerationTables(newest + 1)
    models = msgspec.json.encode(MODEL_VERSIONS, order="sorted").decode()
    connection.execute(
        insert(projection_generation).values(generation=tables.number, state=state, models=models)
    )
    connection.execute(
        insert(projection_position).values(
            generation=tables.number,
            stream_created_ns=stream_created_ns,
            sequence=0,
            record_sha256="",
        )
    )
    tables.create(connection)
    if state == LIVE:
        _show(connection, tables)
    return tables


def advance(connection: Connection, generation: int, old: Position, new: Position) -> bool:
    """Move a generation's position; ``False`` if it is not at ``old`` (or gone)."""
    position = projection_position.c
    result = connection.execute(
        update(projection_position)
        .where(position.generation == generation, position.sequence == old.sequence)
        .where(position.record_sha256 == old.record_sha256)
        .values(sequence=new.sequence, record_sha256=new.record_sha256)
    )
    return result.rowcount == 1


def lock_position(connection: Connection, generation: int) -> Position:
    """A generation's position, which nobody else can move until this transaction ends."""
    row = connection.execute(
        select(projection_position)
        .where(projection_position.c.generation == generation)
        .with_for_update()
    ).first()
    if row is None:
        raise ProjectorConflictError(
            f"generation {generation} was dropped by another program",
            hint="Only one rebuild may run at a time.",
        )
    return Position(row.stream_created_ns, row.sequence, row.record_sha256)


def mark(connection: Connection, generation: int, state: str) -> None:
    """Change the state of a generation."""
    connection.execute(
        update(projection_generation)
        .where(projection_generation.c.generation == generation)
        .values(state=state)
    )


def put_live(connection: Connection, tables: GenerationTables, old: Generation) -> None:
    """Put a generation behind the public views and retire the old one, in this transaction."""
    mark(connection, old.number, RETIRED)
    connection.execute(
        delete(projection_position).where(projection_position.c.generation == old.number)
    )
    mark(connection, tables.number, LIVE)
    _show(connection, tables)
    drop_stale_views(connection, set(old.models) - set(MODEL_VERSIONS))


def _show(connection: Connection, tables: GenerationTables) -> None:
    if is_postgres(connection):
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
    for each in PROJECTIONS:
        replace_view(connection, each.name, tables.table(each.name))


def drop_generation(connection: Connection, generation: int) -> None:
    """Drop the tables of a generation that is not live, and forget it.

    Its position goes first: whoever still writes it holds the position before the tables.
    """
    for table in (projection_position, projection_generation):
        connection.execute(delete(table).where(table.c.generation == generation))
    ours = re.compile(rf"[a-z_]+_g{generation}")
    for name in sorted(filter(ours.fullmatch, inspect(connection).get_table_names())):
        connection.exec_driver_sql(f"DROP TABLE {name}")


def check_stream(position: Position, stream_created_ns: int) -> None:
    """Refuse to continue with another log than the one projected so far.

    Raises:
        SequenceGapError: the log was created at another time.
    """
    if position.stream_created_ns != stream_created_ns:
        raise SequenceGapError(
            f"the database mirrors the log created at {position.stream_created_ns} ns, this log "
            f"was created at {stream_created_ns} ns",
            hint="Point to the right log, or project this one into an empty database.",
        )
