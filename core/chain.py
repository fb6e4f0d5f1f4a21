"""Author chains: omission, truncation and forks of what an author signed become visible.

Each author numbers its events of one coordination 0, 1, 2 … and names the previous one. Two events
with one number prove a fork; a missing number is a gap: reported until filled, never a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from .envelope import Event
from .errors import PeerProtocolError
from .hashing import ZERO32

MAX_PENDING = 4096
"""Events of one author beyond a gap that are remembered, by id and clock only."""


class Gap(msgspec.Struct, frozen=True):
    """Missing events of one author: ``first`` to ``last`` inclusive."""

    author: str
    first: int
    last: int


class ChainHead(msgspec.Struct, frozen=True, array_like=True):
    """How far an author's chain is known without a gap.

    Attributes:
        author: the author.
        number: of the next event.
        last: id of the one before; zeros for the first.
        at_ns: its clock.
    """

    author: str
    number: int
    last: bytes
    at_ns: int


class _Pending(NamedTuple):
    """What is kept of an event beyond a gap; its author chooses the size of the rest."""

    id: bytes
    at_ns: int


class _Chain:
    __slots__ = ("at_ns", "first", "ids", "pending")

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.first = 0  # number of the oldest id kept
        self.pending: dict[int, _Pending] = {}
        self.at_ns = 0

    @property
    def length(self) -> int:
        """Number of the next event without a gap."""
        return self.first + len(self.ids)


class ChainBook:
    """The chains of all authors of one coordination.

    Args:
        recent: ids to keep per author at least, ``None`` for all. An event older than those kept
            cannot be compared any more and is rejected as ``late``.
    """

    def __init__(self, recent: int | None = None) -> None:
        self._recent = recent
        self._chains: dict[str, _Chain] = {}

    def gaps(self) -> list[Gap]:
        """Open gaps, by author."""
        gaps = []
        for author in sorted(self._chains):
            chain = self._chains[author]
            expected = chain.length
            for number in sorted(chain.pending):
                if number > expected:
                    gaps.append(Gap(author, expected, number - 1))
                expected = number + 1
        return gaps

    def head(self, author: str) -> tuple[int, bytes, int]:
        """Next sequence number, id of the previous event and its clock, for continuing a chain."""
        chain = self._chains.get(author)
        if chain is None:
            return 0, ZERO32, 0
        if chain.pending:
            number = max(chain.pending)
            last = chain.pending[number]
            return number + 1, last.id, last.at_ns
        return chain.length, chain.ids[-1] if chain.ids else ZERO32, chain.at_ns

    def heads(self) -> tuple[ChainHead, ...]:
        """The heads of all chains, by author; what lies beyond a gap is not said."""
        return tuple(
            ChainHead(author, chain.length, chain.ids[-1] if chain.ids else ZERO32, chain.at_ns)
            for author, chain in sorted(self._chains.items())
        )

    def restore(self, heads: Iterable[ChainHead]) -> None:
        """Go on behind these heads; for a book that knows nothing of their authors."""
        for head in heads:
            chain = self._chains[head.author] = _Chain()
            chain.at_ns = head.at_ns
            if head.number:
                chain.first, chain.ids = head.number - 1, [head.last]

    def lacks(self, author: str, number: int) -> bool:
        """Whether the author's event with that number has not been seen."""
        chain = self._chains.get(author)
        return chain is None or (number >= chain.length and number not in chain.pending)

    def find(self, author: str, number: int) -> bytes | None:
        """Id of the author's event with that number, if seen and still kept."""
        chain = self._chains.get(author)
        if chain is None:
            return None
        if number < chain.length:
            return chain.ids[number - chain.first] if number >= chain.first else None
        beyond = chain.pending.get(number)
        return beyond.id if beyond else None

    def add(self, event: Event) -> None:
        """Take an admitted event into its author's chain.

        Raises:
            PeerProtocolError: ``duplicate`` (the same event again), ``equivocation`` with both ids
                as evidence (a fork, E7), ``chain_mismatch`` (it names another predecessor),
                ``clock_skew`` (its clock runs backwards) or ``late`` (older than what is kept).
        """
        header = event.header
        chain = self._chains.get(header.author)
        if chain is None:
            chain = self._chains[header.author] = _Chain()
        if header.author_seq == chain.length and not chain.pending:
            self._link(chain, event)
        else:
            self._add_out_of_turn(chain, event)

    def _add_out_of_turn(self, chain: _Chain, event: Event) -> None:
        header = event.header
        number = header.author_seq
        if number < chain.first:
            raise PeerProtocolError(
                "late", f"event {number} of {header.author!r} is older than what is remembered"
            )
        known = self.find(header.author, number)
        if known is not None:
            if known == event.id:
                raise PeerProtocolError("duplicate", "the same event is stored twice")
            raise PeerProtocolError(
                "equivocation",
                f"{header.author!r} signed two events with number {number}",
                evidence=(known, event.id),
            )
        if number > chain.length:
            if len(chain.pending) >= MAX_PENDING:
                raise PeerProtocolError("over_limit", "too many events beyond a gap in the chain")
            chain.pending[number] = _Pending(event.id, header.at_ns)
            return
        try:
            self._link(chain, event)
        finally:
            self._drain(chain)

    def _drain(self, chain: _Chain) -> None:
        while (beyond := chain.pending.pop(chain.length, None)) is not None:
            chain.ids.append(beyond.id)
            chain.at_ns = max(chain.at_ns, beyond.at_ns)

    def _link(self, chain: _Chain, event: Event) -> None:
        header = event.header
        previous = chain.ids[-1] if chain.ids else ZERO32
        before = chain.at_ns
        chain.ids.append(event.id)
        chain.at_ns = max(before, header.at_ns)
        if self._recent is not None and len(chain.ids) > 2 * self._recent:
            chain.first += self._recent
            del chain.ids[: self._recent]
        if header.prev != previous:
            raise PeerProtocolError(
                "chain_mismatch",
                f"event {header.author_seq} of {header.author!r} names another predecessor",
            )
        if header.at_ns < before:
            raise PeerProtocolError("clock_skew", f"the clock of {header.author!r} runs backwards")
