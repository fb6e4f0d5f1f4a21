"""The mirror as a read-only log, for audits and tools that have no bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NoReturn, TypeVar

from sqlalchemy import Connection, Engine

from ..core.errors import AppendRefusedError, LogUnavailableError, SequenceGapError
from ..core.log import Appended, Head, Record, Submission
from .database import reading
from .generations import live_position
from .mirror import READ_BATCH, read_records

T = TypeVar("T")


class SqlLog:
    """:class:`~mabeam.core.log.EventLog` over the mirror, up to the live position.

    What it yields is as trustworthy as the database; whoever audits verifies it again. It cannot
    be appended to, and following polls.

    Args:
        engine: from :func:`~.database.open_database`.
        poll_interval_s: seconds between looks for new records when following.
    """

    def __init__(self, engine: Engine, *, poll_interval_s: float = 0.2) -> None:
        self._engine = engine
        self._poll_interval_s = poll_interval_s

    async def append(self, submission: Submission) -> Appended:
        """Refused: the mirror is written by the projector alone."""
        self._refuse()

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """Refused, see :meth:`append`."""
        self._refuse()

    async def head(self) -> Head:
        """The mirrored part of the log."""
        return await self._run(_head)

    async def record_at(self, sequence: int) -> Record | None:
        """The record mirrored at ``sequence``, or ``None``."""
        found = await self._run(lambda c: next(read_records(c, sequence - 1, sequence), []))
        return found[0] if found else None

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """All mirrored records of one coordination with sequence > ``after``, in order."""
        return await self._run(
            lambda c: [
                record
                for batch in read_records(c, after, _head(c).sequence, coordination=coordination)
                for record in batch
            ]
        )

    async def read_all(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """Every mirrored record with sequence > ``after`` up to the present head, in batches.

        Raises:
            SequenceGapError: rows are missing from the mirror.
        """
        end = (await self.head()).sequence
        while after < end:
            batch = await self._next_batch(after, min(end, after + READ_BATCH))
            after = batch[-1].sequence
            yield batch

    async def follow_all(self, after: int | None = None) -> AsyncGenerator[list[Record], None]:
        """Mirrored records, then new ones as they are projected; errors as :meth:`read_all`."""
        position = (await self.head()).sequence if after is None else after
        while True:
            async for batch in self.read_all(position):
                position = batch[-1].sequence
                yield batch
            await asyncio.sleep(self._poll_interval_s)

    async def follow(
        self, coordination: str, after: int | None = 0
    ) -> AsyncGenerator[Record, None]:
        """Mirrored records of one coordination, then new ones as they are projected."""
        while True:
            for record in await self.read(coordination, after or 0):
                after = record.sequence
                yield record
            await asyncio.sleep(self._poll_interval_s)

    async def _next_batch(self, after: int, upto: int) -> list[Record]:
        batch = await self._run(lambda c: next(read_records(c, after, upto), []))
        if [record.sequence for record in batch] != list(range(after + 1, upto + 1)):
            raise SequenceGapError(
                f"the mirror lacks records between {after + 1} and {upto}",
                hint="Rows were deleted: project the log into an empty database.",
            )
        return batch

    async def _run(self, query: Callable[[Connection], T]) -> T:
        def call() -> T:
            with reading(self._engine) as connection:
                return query(connection)

        return await asyncio.to_thread(call)

    def _refuse(self) -> NoReturn:
        raise AppendRefusedError(
            "the SQL mirror cannot be appended to", hint="Append to the log itself."
        )


def _head(connection: Connection) -> Head:
    position = live_position(connection)
    if position is None:
        raise LogUnavailableError(
            "nothing was projected into this database yet", hint="Run 'mabeam projector run'."
        )
    return Head(position.stream_created_ns, position.sequence)
