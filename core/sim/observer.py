"""An observer: sees all of the log at once, and folds it as it grows."""

from __future__ import annotations

from ..log import Record
from ..machine import LogEvent, Protocols
from ..replay import Replay, Verdict
from .network import Network


class Observer:
    """Keeps the fold of a network's log up to date.

    Args:
        network: whose log.
        root_public_key: the deployment's root key.
        protocols: known protocols.
    """

    def __init__(self, network: Network, root_public_key: bytes, protocols: Protocols) -> None:
        self._network = network
        self._root_public_key = root_public_key
        self._protocols = protocols
        self._begin()

    def _begin(self) -> None:
        self._generation = self._network.generation
        self._replay = Replay(self._root_public_key, self._protocols)
        self._verdicts: dict[str, list[Verdict]] = {}
        self._events: dict[int, LogEvent | None] = {}
        self._position = 0

    def fold(self) -> Replay:
        """The fold of everything stored now."""
        if self._generation != self._network.generation:
            self._begin()  # the log has lost what was folded
        records = self._network.broker.records
        for verdict in self._replay.feed(records[self._position :]):
            name = verdict.record.subject.split(".")[3]
            self._verdicts.setdefault(name, []).append(verdict)
            self._events[verdict.record.sequence] = verdict.event
        self._position = len(records)
        return self._replay

    def verdicts(self, coordination: str) -> list[Verdict]:
        """The verdicts on the records of a coordination."""
        self.fold()
        return self._verdicts.get(coordination, [])

    def admitted(self, record: Record) -> LogEvent | None:
        """The event of a stored record, if it is admitted."""
        self.fold()
        return self._events.get(record.sequence)
