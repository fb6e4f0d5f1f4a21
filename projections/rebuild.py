"""Rebuilding read models beside the live ones, and swapping them in.

A rebuild folds the mirror (or the log) again into the tables of a new generation while a projector
goes on with the live one. When little is left, one transaction locks the live position, folds the
rest, points the public views at the new tables and retires the old ones. The projector notices at
its next batch. Live tables are never emptied; retired ones are dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import msgspec
from sqlalchemy import Connection, Engine

from ..core.errors import NotFoundError, SequenceGapError
from ..core.hashing import sha256
from ..core.log import EventLog, Record
from ..core.machine import Protocols
from ..core.replay import DEFAULT_CAPACITY, Replay, Verdict
from .catalog import MODEL_VERSIONS
from .database import DatabaseUnavailableError, check_schema, reading, writing
from .follower import check_position, in_thread
from .generations import (
    BUILDING,
    BUILT,
    LIVE,
    Changes,
    Generation,
    GenerationTables,
    Position,
    ProjectorConflictError,
    advance,
    changes_of,
    create_generation,
    drop_generation,
    generations,
    lock_position,
    mark,
    put_live,
)
from .mirror import read_records, refold, restore_coordinations, restore_registry
from .projection import Folded
from .projector import MAX_BATCH

Progress = Callable[[int, int], None]
"""Told the sequence reached and the sequence aimed at."""


class Rebuilt(msgspec.Struct, frozen=True):
    """The result of a rebuild.

    Attributes:
        generation: the new generation.
        sequence: its position when the call ended.
        live: it is behind the public views.
        replaced: the generation that was live before the swap, ``None`` without a swap.
        dropped: the tables of the replaced one are gone; if not, a long query holds them, and the
            next rebuild drops them.
    """

    generation: int
    sequence: int
    live: bool
    replaced: int | None = None
    dropped: bool = False


async def rebuild(
    engine: Engine,
    root_public_key: bytes,
    protocols: Protocols,
    *,
    log: EventLog | None = None,
    pool: Executor | None = None,
    capacity: int = DEFAULT_CAPACITY,
    swap: bool = True,
    progress: Progress | None = None,
) -> Rebuilt:
    """Build a new generation of all read models, and put it behind the public views.

    Args:
        engine: the database; other generations that are not live are dropped first.
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.
        log: read from this log, check every signature again and compare with the mirror; by
            default the mirror is believed.
        pool: where signatures are checked; only with ``log``.
        capacity: coordinations kept in memory.
        swap: put it live at the end; :func:`swap_built` can do so later.
        progress: told after every batch.

    Raises:
        NotFoundError: nothing was projected yet.
        SequenceGapError: log and mirror differ.
        ProjectorConflictError: another rebuild took over.
        DatabaseError: see there.
    """
    work = await asyncio.to_thread(_Rebuild.begin, engine, root_public_key, protocols, capacity)
    if log is not None:
        await check_position(await asyncio.to_thread(work.live_position), log)
    await _catch_up(work, log, pool, progress)
    if swap:
        return await asyncio.to_thread(work.swap)
    return await asyncio.to_thread(work.finish)


async def swap_built(
    engine: Engine,
    root_public_key: bytes,
    protocols: Protocols,
    *,
    capacity: int = DEFAULT_CAPACITY,
    progress: Progress | None = None,
) -> Rebuilt:
    """Put the generation built by :func:`rebuild` with ``swap=False`` behind the public views.

    Raises:
        NotFoundError: there is none, or it is of other versions than this program's.
    """
    work = await asyncio.to_thread(_Rebuild.resume, engine, root_public_key, protocols, capacity)
    await _catch_up(work, None, None, progress)
    return await asyncio.to_thread(work.swap)


async def _catch_up(
    work: _Rebuild, log: EventLog | None, pool: Executor | None, progress: Progress | None
) -> None:
    """Come within one batch of the live position."""
    while True:
        target = (await asyncio.to_thread(work.live_position)).sequence
        if target - work.position.sequence <= work.limit:
            return
        if log is None:
            await in_thread(work.fold_mirror, min(target, work.position.sequence + work.limit))
        else:
            async for records in log.read_all(work.position.sequence):
                wanted = [record for record in records if record.sequence <= target]
                for start in range(0, len(wanted), work.limit):
                    await in_thread(work.fold_log, wanted[start : start + work.limit], pool)
                if len(wanted) < len(records):
                    break
        if progress is not None:
            progress(work.position.sequence, target)


class _Rebuild:
    """A generation being built: its fold, its tables and how far it has come."""

    def __init__(
        self,
        engine: Engine,
        root_public_key: bytes,
        protocols: Protocols,
        capacity: int,
        tables: GenerationTables,
        position: Position,
    ) -> None:
        self.position = position
        self.limit = min(MAX_BATCH, capacity)
        self._engine = engine
        self._tables = tables
        self._replay = Replay(root_public_key, protocols, capacity=capacity)
        with reading(engine) as connection:
            restore_registry(connection, self._replay, position.sequence)

    @classmethod
    def begin(
        cls, engine: Engine, root_public_key: bytes, protocols: Protocols, capacity: int
    ) -> _Rebuild:
        """Start a new generation."""
        check_schema(engine)
        with writing(engine) as connection:
            live = _live(connection)
            for each in generations(connection):
                if each.number != live.number:
                    drop_generation(connection, each.number)
            created_ns = live.position.stream_created_ns
            tables = create_generation(connection, BUILDING, created_ns)
        return cls(engine, root_public_key, protocols, capacity, tables, Position(created_ns))

    @classmethod
    def resume(
        cls, engine: Engine, root_public_key: bytes, protocols: Protocols, capacity: int
    ) -> _Rebuild:
        """Continue the generation that was built and not swapped."""
        check_schema(engine)
        with reading(engine) as connection:
            built = [each for each in generations(connection) if each.state == BUILT]
        if not built or built[-1].models != MODEL_VERSIONS:
            raise NotFoundError(
                "there is no built generation of this program's read models",
                hint="Run 'mabeam projection rebuild'.",
            )
        tables = GenerationTables(built[-1].number)
        return cls(engine, root_public_key, protocols, capacity, tables, built[-1].position)

    def live_position(self) -> Position:
        """Position of the live generation and the mirror."""
        with reading(self._engine) as connection:
            return _live(connection).position

    def fold_mirror(self, upto: int) -> None:
        """Fold mirrored records up to ``upto``, at most :attr:`limit`, and commit."""
        with reading(self._engine) as connection:
            verdicts = refold(connection, self._replay, self.position.sequence, upto)
        self._commit(verdicts)

    def fold_log(self, records: Sequence[Record], pool: Executor | None) -> None:
        """Verify and fold records of the log, at most :attr:`limit`, and commit."""
        before, upto = self.position.sequence, records[-1].sequence
        with reading(self._engine) as connection:
            mirrored = next(read_records(connection, before, upto), [])
            if mirrored != list(records):
                raise SequenceGapError(
                    f"log and mirror differ between sequence {before + 1} and {upto}",
                    hint="The mirror was changed: project the log into an empty database.",
                )
            missing = self._replay.unknown(records)
            restore_coordinations(connection, self._replay, sorted(missing), before)
        self._commit(self._replay.feed(records, pool))

    def finish(self) -> Rebuilt:
        """Keep the generation for a later swap."""
        with writing(self._engine) as connection:
            mark(connection, self._tables.number, BUILT)
        return Rebuilt(self._tables.number, self.position.sequence, live=False)

    def swap(self) -> Rebuilt:
        """Fold what is left and put the generation behind the public views, in one transaction."""
        with writing(self._engine) as connection:
            live = _live(connection)
            target = lock_position(connection, live.number)
            while self.position.sequence < target.sequence:
                upto = min(target.sequence, self.position.sequence + self.limit)
                verdicts = refold(connection, self._replay, self.position.sequence, upto)
                self._write(connection, verdicts)
            put_live(connection, self._tables, live)
        return Rebuilt(
            self._tables.number, self.position.sequence, True, live.number, self._drop(live.number)
        )

    def _drop(self, generation: int) -> bool:
        try:
            with writing(self._engine) as connection:
                drop_generation(connection, generation)
        except DatabaseUnavailableError:
            return False  # a reader holds it; it stays listed as retired
        return True

    def _commit(self, verdicts: list[Verdict]) -> None:
        with writing(self._engine) as connection:
            self._write(connection, verdicts)

    def _write(self, connection: Connection, verdicts: list[Verdict]) -> None:
        changes: Changes = changes_of(Folded(verdicts, self._replay))
        last = verdicts[-1].record
        position = Position(self.position.stream_created_ns, last.sequence, sha256(last.wire).hex())
        if not advance(connection, self._tables.number, self.position, position):
            raise ProjectorConflictError(
                f"generation {self._tables.number} was taken over by another rebuild",
                hint="Run one rebuild at a time.",
            )
        self._tables.write(connection, changes)
        self.position = position


def _live(connection: Connection) -> Generation:
    """The live generation, of whatever versions: a rebuild is how they change."""
    for each in generations(connection):
        if each.state == LIVE:
            return each
    raise NotFoundError(
        "nothing was projected into this database yet", hint="Run 'mabeam projector run'."
    )
