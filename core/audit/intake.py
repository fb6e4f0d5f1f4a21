"""Intake: stored records in, authenticated events out, in log order.

Checks what can be checked record by record: that positions follow each other, that the bytes are
an event and that its author signed it. Signatures of a batch are checked ahead on an executor;
whatever depends on the registry is decided at the record's turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import Literal

from ..admission import Admission, Candidate, Rejection
from ..log import Record
from ..machine import LogEvent
from ..replay import MIN_POOLED, VERIFY_CHUNK, verify_signatures
from .findings import Finding

Scope = Literal["log", "selection"]
"""``log``: every record of the log. ``selection``: some coordinations and the registry."""


class Intake:
    """Authenticates records.

    Args:
        admission: decides what counts as an event; its keyring must be in step with the caller.
        scope: whether every position must be present.
        sink: takes findings about the storage itself.

    Attributes:
        position: last position read.
        first: first position read, 0 before.
        holes: positions (first, last) after which something may be missing.
        signatures: signatures checked.
    """

    def __init__(self, admission: Admission, scope: Scope, sink: Callable[[Finding], None]) -> None:
        self._admission = admission
        self._scope = scope
        self._sink = sink
        self.position = 0
        self.first = 0
        self.holes: list[tuple[int, int]] = []
        self.signatures = 0

    def read(
        self, records: Sequence[Record], pool: Executor | None = None
    ) -> Iterator[tuple[Record, LogEvent | Rejection]]:
        """Authenticate records in log order.

        The caller must fold a registry event before it takes the next pair.
        """
        registry_at = self._admission.keyring.sequence
        examined = [self._admission.examine(record) for record in records]
        candidates = [each for each in examined if isinstance(each, Candidate)]
        good = chain.from_iterable(self._verified(candidates, pool))
        for record, each in zip(records, examined, strict=True):
            self._step(record)
            if isinstance(each, Candidate):
                yield record, self._admission.conclude(each, next(good))
            elif self._admission.keyring.sequence != registry_at:
                yield record, self.admit(record)
            else:
                yield record, each

    def admit(self, record: Record) -> LogEvent | Rejection:
        """Authenticate one record against the registry as it is now; checks no position."""
        candidate = self._admission.examine(record)
        if isinstance(candidate, Rejection):
            return candidate
        self.signatures += 1
        return self._admission.conclude(candidate, candidate.verify())

    def hole(self, first: int, last: int, code: str, message: str) -> None:
        """Note that positions ``first`` to ``last`` cannot be relied on."""
        self.holes.append((first, last))
        self._sink(Finding("wrong", code, message, first))

    def _verified(self, candidates: list[Candidate], pool: Executor | None) -> Iterator[list[bool]]:
        self.signatures += len(candidates)
        claims = [(each.event.id, each.event.signature, each.public_key) for each in candidates]
        if pool is None or len(claims) < MIN_POOLED:
            return map(verify_signatures, [claims])
        chunks = [claims[at : at + VERIFY_CHUNK] for at in range(0, len(claims), VERIFY_CHUNK)]
        return iter(pool.map(verify_signatures, chunks))

    def _step(self, record: Record) -> None:
        expected, self.first = self.position + 1, self.first or record.sequence
        found = record.sequence
        if found < expected:
            self.hole(
                found,
                self.position,
                "sequence_order",
                f"position {found} comes after {self.position}: the stored order was changed",
            )
        elif found > expected and self._scope == "log":
            self.hole(
                expected,
                found - 1,
                "sequence_gap",
                f"positions {expected} to {found - 1} are missing from the log",
            )
        self.position = max(self.position, found)
