"""A bundle as a read-only log, for whatever reads logs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NoReturn

from ..errors import AppendRefusedError, VerificationError
from ..log import Appended, Head, Record, Submission
from .bundle import decode_bundle


class BundleLog:
    """An :class:`~mabeam.core.log.EventLog` over a bundle.

    It holds the registry and one coordination, so positions are not contiguous; nothing ever
    arrives, so :meth:`follow` and :meth:`follow_all` end after the last record.

    Args:
        data: the bytes of a bundle.

    Raises:
        VerificationError: the bundle is damaged.
    """

    def __init__(self, data: bytes) -> None:
        bundle, damage = decode_bundle(data)
        if bundle is None:
            raise VerificationError(
                f"line {damage[0].line}, {damage[0].where}: {damage[0].message}",
                hint="See 'mabeam audit verify --bundle' for everything that is wrong with it.",
            )
        self.bundle = bundle

    async def append(self, submission: Submission) -> Appended:
        """Refused."""
        self._refuse()

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """Refused."""
        self._refuse()

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """Its records of that coordination with sequence > ``after``."""
        return [
            record
            for record in self.bundle.records
            if record.sequence > after and record.subject.split(".", 4)[3:4] == [coordination]
        ]

    async def read_all(self, after: int = 0) -> AsyncIterator[list[Record]]:
        """Its records with sequence > ``after``, as one batch."""
        batch = [record for record in self.bundle.records if record.sequence > after]
        if batch:
            yield batch

    async def follow(
        self, coordination: str, after: int | None = 0
    ) -> AsyncGenerator[Record, None]:
        """Its records of that coordination with sequence > ``after``, then the end."""
        for record in await self.read(coordination, after or 0):
            yield record

    async def follow_all(self, after: int | None = None) -> AsyncIterator[list[Record]]:
        """Its records with sequence > ``after``, then the end; none for ``None``."""
        if after is not None:
            async for batch in self.read_all(after):
                yield batch

    async def record_at(self, sequence: int) -> Record | None:
        """The record at that position, if it is in the bundle."""
        return next((r for r in self.bundle.records if r.sequence == sequence), None)

    async def head(self) -> Head:
        """The state of the log when it was exported."""
        return Head(self.bundle.header.log_created_ns, self.bundle.header.position)

    def _refuse(self) -> NoReturn:
        raise AppendRefusedError("a bundle is read only", hint="Append to the log itself.")
