"""The registry with its past: what an opening cites is recomputed as of that position."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from ..chain import ChainBook
from ..keyring import Keyring
from ..machine import LogEvent

MAX_PAST_EVENTS = 200_000
"""Registry events kept for looking back; older snapshots can no longer be recomputed."""

_KEPT_SNAPSHOTS = 16


class RegistryHistory:
    """Folds the registry and answers for its past positions.

    Attributes:
        keyring: the registry as of the last event folded.
        chains: author chains of the registry.
        events: number of events in force.
        past: the latest of them, at most ``max_past_events``.
    """

    def __init__(self, root_public_key: bytes, max_past_events: int = MAX_PAST_EVENTS) -> None:
        self.keyring = Keyring(root_public_key)
        self.chains = ChainBook()
        self.events = 0
        self._limit = max_past_events
        self._base = Keyring(root_public_key)
        self.past: list[LogEvent] = []
        self._snapshots: OrderedDict[int, Keyring] = OrderedDict()

    def fold(self, event: LogEvent) -> None:
        """Fold an admitted registry event.

        Raises:
            PeerProtocolError: it has no effect, for the reason given.
        """
        self.chains.add(event.event)
        self.keyring.apply(event)
        self.events += 1
        self.past.append(event)
        if len(self.past) > self._limit:
            half = self._limit // 2 + 1
            for old in self.past[:half]:
                self._base.apply(old)
            del self.past[:half]
            self._snapshots.clear()

    def at(self, sequence: int) -> Keyring | None:
        """The registry as of a position; read only. ``None`` if that is too long ago."""
        if sequence >= self.keyring.sequence:
            return self.keyring
        if sequence < self._base.sequence:
            return None
        known = [position for position in self._snapshots if position <= sequence]
        start = self._snapshots[max(known)] if known else self._base
        keyring = start.copy()
        for event in self.past[self._index(start.sequence) : self._index(sequence)]:
            keyring.apply(event)
        self._snapshots[sequence] = keyring
        self._snapshots.move_to_end(sequence)
        if len(self._snapshots) > _KEPT_SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return keyring

    def recent(self, count: int) -> Iterator[Keyring]:
        """The registry as it is now and, oldest first, as it was in up to ``count`` steps before.

        Each is valid only until the next is taken.
        """
        yield self.keyring
        steps = self.past[-count:]
        if not steps:
            return
        before = self.past[-count - 1].sequence if len(self.past) > count else self._base.sequence
        past = self.at(before)
        if past is None:
            return
        keyring = past.copy()
        for event in steps:
            yield keyring
            keyring.apply(event)

    def _index(self, sequence: int) -> int:
        return bisect_right(self.past, sequence, key=lambda event: event.sequence)
