"""A daemon's live view of the registry: keyring and admission kept in step with the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from ..admission import DEFAULT_CLOCK_SKEW_MS, Admission, Candidate, Rejection
from ..chain import ChainBook
from ..errors import PeerProtocolError
from ..kernel_events import build_catalog
from ..keyring import Keyring
from ..log import EventLog, Record
from ..machine import LogEvent, Protocols
from ..names import REGISTRY
from ..telemetry import Telemetry


class RegistryView:
    """Folds ``_registry`` records as they come; each sequence once.

    Attributes:
        keyring: the fold.
        admission: admits records against the keyring.
        chains: author chains of the registry.
        sequence: last registry record seen, folded or rejected.
    """

    def __init__(
        self,
        root_public_key: bytes,
        protocols: Protocols,
        telemetry: Telemetry,
        *,
        max_clock_skew_ms: int = DEFAULT_CLOCK_SKEW_MS,
    ) -> None:
        self.keyring = Keyring(root_public_key)
        self.admission = Admission(
            build_catalog(kind for spec in protocols.values() for kind in spec.event_types),
            self.keyring,
            max_clock_skew_ms,
        )
        self.chains = ChainBook()
        self.sequence = 0
        self.control_sequence = 0
        self._telemetry = telemetry
        self._moved = asyncio.Event()

    def public_key(self, author: str, key_id: bytes) -> bytes | None:
        """See :meth:`mabeam.core.keyring.Keyring.public_key`."""
        return self.keyring.public_key(author, key_id)

    def admit(self, record: Record, own: Container[bytes] = ()) -> LogEvent | None:
        """Admit a record of any coordination; rejected ones are counted and dropped.

        Args:
            record: the stored record.
            own: ids of events this process signed itself; their signature is not checked again.
        """
        result: LogEvent | Candidate | Rejection = self.admission.examine(record)
        if isinstance(result, Candidate):
            good = result.event.id in own or result.verify()
            result = self.admission.conclude(result, good)
        if isinstance(result, Rejection):
            self._telemetry.count("admission_rejected", reason=result.reason)
            return None
        return result

    def apply(self, record: Record) -> None:
        """Fold the next registry record; older ones are ignored."""
        if record.sequence <= self.sequence:
            return
        self.sequence = record.sequence
        if record.subject.split(".", 5)[4] == "ctl":
            self.control_sequence = record.sequence
        event = self.admit(record)
        if event is not None:
            try:
                self.chains.add(event.event)
                self.keyring.apply(event)
            except PeerProtocolError as error:
                self._telemetry.count("fold_rejected", reason=error.reason)
        self._moved.set()
        self._moved = asyncio.Event()

    async def load(self, log: EventLog) -> None:
        """Fold everything stored so far."""
        for record in await log.read(REGISTRY, self.sequence):
            self.apply(record)

    async def follow(self, log: EventLog) -> None:
        """Fold new records for ever."""
        async for record in log.follow(REGISTRY, self.sequence):
            self.apply(record)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is tried after every registry record."""
        while not condition():
            await self._moved.wait()
