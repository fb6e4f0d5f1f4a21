"""An in-memory log that already holds the records of a logbook, or a part of them."""

from __future__ import annotations

from collections.abc import Iterable

from logbook import Logbook

from mabeam.core.log import Record
from mabeam.core.memory_transport import MemoryBroker, MemoryLog


class StoredLog(MemoryLog):
    """A log to read; new records arrive through :meth:`receive`."""

    def __init__(self, book: Logbook, upto: int | None = None) -> None:
        self.broker = MemoryBroker()
        self.broker.created_ns = book.created_ns
        super().__init__(self.broker)
        self.receive(book.records[:upto])

    def receive(self, records: Iterable[Record]) -> None:
        """Store records and wake whoever follows."""
        for record in records:
            self.broker.records.append(record)
            coordination = record.subject.split(".")[3]
            self.broker.by_coordination.setdefault(coordination, []).append(record)
        self.broker.any_append.fire()
