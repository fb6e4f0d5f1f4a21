"""The projector: from stored records to the mirror and the read models, exactly once.

Records are prepared (decoded, signatures under way) ahead of the batch that is folded and written,
so that signatures are checked while rows are. A batch is one transaction: mirror rows, read models
and position together, or nothing. Whatever goes wrong stops the projector: its fold is then ahead
of the database, and a new one continues from there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from ..core.admission import DEFAULT_CLOCK_SKEW_MS
from ..core.errors import LocalProtocolError, MabeamError, SequenceGapError
from ..core.hashing import sha256
from ..core.log import Record
from ..core.machine import Protocols
from ..core.replay import DEFAULT_CAPACITY, Prepared, Replay
from .database import check_schema, reading, writing
from .generations import (
    LIVE,
    GenerationTables,
    Position,
    ProjectorConflictError,
    advance,
    changes_of,
    check_stream,
    create_generation,
    live_generation,
)
from .mirror import mirror_row, restore_coordinations, restore_registry
from .projection import Folded
from .schema import event_mirror
from .writing import insert_rows

MAX_BATCH = 1000
"""Records in one transaction, at most."""

AHEAD = 2
"""Batches prepared before the one being folded, so that there is always a signature to check."""


class ProjectorStoppedError(LocalProtocolError):
    """A bug: the projector met an unexpected error, wrote nothing of the batch, and stopped."""

    code = "projector_stopped"


@dataclass
class ProjectorCounts:
    """What this projector has done since it was made, for metrics.

    Attributes:
        records: records projected.
        batches: transactions committed.
        restored: coordinations brought back into memory.
        rejections: records without effect, by protocol (empty if unknown) and reason.
    """

    records: int = 0
    batches: int = 0
    restored: int = 0
    rejections: Counter[tuple[str, str]] = field(default_factory=Counter)


class Projector:
    """Writes one log into one database. Not thread-safe; use one thread at a time.

    Args:
        engine: from :func:`~.database.open_database`; the schema must be up to date.
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.
        stream_created_ns: creation time of the log (``Head.created_ns``).
        pool: where signatures are checked (:func:`~.verification.verification_pool`, or threads);
            inline without one.
        capacity: coordinations kept in memory.
        max_clock_skew_ms: see :class:`~mabeam.core.admission.Admission`.

    Raises:
        SchemaOutdatedError, SchemaTooNewError: the schema is not the one this program needs.
        RebuildNeededError: the read models are of other versions.
        SequenceGapError: the database mirrors another log.
        DatabaseError: any other trouble with the database.
    """

    def __init__(
        self,
        engine: Engine,
        root_public_key: bytes,
        protocols: Protocols,
        stream_created_ns: int,
        *,
        pool: Executor | None = None,
        capacity: int = DEFAULT_CAPACITY,
        max_clock_skew_ms: int = DEFAULT_CLOCK_SKEW_MS,
    ) -> None:
        self.counts = ProjectorCounts()
        self._engine = engine
        self._pool = pool
        self._limit = min(MAX_BATCH, capacity)
        self._replay = Replay(
            root_public_key, protocols, capacity=capacity, max_clock_skew_ms=max_clock_skew_ms
        )
        self._pending: deque[Prepared] = deque()
        self._failure: MabeamError | None = None
        check_schema(engine)
        with writing(engine) as connection:
            live = live_generation(connection)
            if live is None:
                self._tables = create_generation(connection, LIVE, stream_created_ns)
                self._position = Position(stream_created_ns)
            else:
                self._tables, self._position = GenerationTables(live.number), live.position
        check_stream(self._position, stream_created_ns)
        with reading(engine) as connection:
            restore_registry(connection, self._replay, self._position.sequence)
        self._offered = self._position.sequence

    @property
    def position(self) -> Position:
        """The last record whose effects are committed."""
        return self._position

    @property
    def generation(self) -> int:
        """The generation of read models being written."""
        return self._tables.number

    @property
    def failure(self) -> MabeamError | None:
        """Why the projector stopped, if it did."""
        return self._failure

    def project(self, records: Sequence[Record]) -> None:
        """Project records and commit all of them; errors as for :meth:`offer`."""
        self.offer(records)
        self.flush()

    def offer(self, records: Sequence[Record]) -> None:
        """Take the next records; commits all but the last :data:`AHEAD` batches.

        Raises:
            SequenceGapError: they do not follow what was offered before.
            ProjectorStoppedError: a bug; nothing of the batch was written.
            DatabaseError: the database failed; nothing of the batch was written.
        """
        for start in range(0, len(records), self._limit):
            batch = records[start : start + self._limit]
            self._check_open()
            self._check_contiguous(batch)
            self._pending.append(self._replay.prepare(batch, self._pool))
            self._offered = batch[-1].sequence
            if len(self._pending) > AHEAD:
                self._guarded(self._pending.popleft())

    def flush(self) -> None:
        """Commit everything offered; errors as for :meth:`offer`."""
        self._check_open()
        while self._pending:
            self._guarded(self._pending.popleft())

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_contiguous(self, batch: Sequence[Record]) -> None:
        for expected, record in enumerate(batch, self._offered + 1):
            if record.sequence != expected:
                raise SequenceGapError(
                    f"sequence {record.sequence} follows {expected - 1}: the log has a hole",
                    hint="Run 'mabeam doctor'; a log never skips a sequence.",
                )

    def _guarded(self, prepared: Prepared) -> None:
        try:
            self._commit(prepared)
        except MabeamError as error:
            self._failure = error
            raise
        except Exception as error:
            first, last = prepared.records[0].sequence, prepared.records[-1].sequence
            self._failure = ProjectorStoppedError(
                f"unexpected {type(error).__name__} in records {first} to {last}: {error}",
                hint="Report this with the records; nothing of them was written.",
            )
            raise self._failure from error

    def _commit(self, prepared: Prepared) -> None:
        replay, records = self._replay, prepared.records
        if missing := replay.unknown(records):
            with reading(self._engine) as connection:
                self.counts.restored += restore_coordinations(
                    connection, replay, sorted(missing), self._position.sequence
                )
        batch = Folded(replay.fold(prepared), replay)
        rows, changes = [mirror_row(each) for each in batch.verdicts], changes_of(batch)
        last = records[-1]
        position = Position(
            self._position.stream_created_ns, last.sequence, sha256(last.wire).hex()
        )
        with writing(self._engine) as connection:
            tables = self._advance(connection, position)
            insert_rows(connection, event_mirror, rows)
            tables.write(connection, changes)
        self._tables, self._position = tables, position
        self._count(batch)

    def _advance(self, connection: Connection, position: Position) -> GenerationTables:
        """Take the lock on the live generation by moving it; find it again if it was swapped."""
        if advance(connection, self._tables.number, self._position, position):
            return self._tables
        live = live_generation(connection)
        if live is not None and live.position == self._position:
            tables = GenerationTables(live.number)
            if advance(connection, tables.number, self._position, position):
                return tables
        raise ProjectorConflictError(
            f"the database is at sequence {live.position.sequence if live else 0}, this projector "
            f"at {self._position.sequence}",
            hint="Run one projector per database.",
        )

    def _count(self, batch: Folded) -> None:
        counts = self.counts
        counts.batches += 1
        counts.records += len(batch.verdicts)
        for verdict in batch.rejected:
            config = verdict.coordination.config if verdict.coordination else None
            reason = verdict.rejection.reason if verdict.rejection else ""
            counts.rejections[config.protocol if config else "", reason] += 1
