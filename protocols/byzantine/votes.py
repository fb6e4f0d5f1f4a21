"""Counting: votes per (view, sequence, digest) by distinct signers, never per sender or message.

A signer that votes for two digests of one slot counts in both groups and in each once (BYZ-4).
Discarding it everywhere would make the result depend on the order of arrival; that two quorums
share an honest signer is what keeps both groups from filling up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

VoteKey = tuple[int, int, bytes]
"""View, sequence and batch digest."""

_EMPTY: Mapping[str, bytes] = {}


class VoteBook:
    """Votes of one kind: event id per signer, per key."""

    def __init__(self) -> None:
        self._votes: dict[VoteKey, dict[str, bytes]] = {}

    def add(self, key: VoteKey, signer: str, event_id: bytes) -> int:
        """Count a vote; a signer's first event per key stays.

        Returns:
            The number of distinct signers under the key.
        """
        signers = self._votes.get(key)
        if signers is None:
            signers = self._votes[key] = {}
        signers.setdefault(signer, event_id)
        return len(signers)

    def signers(self, key: VoteKey) -> Mapping[str, bytes]:
        """Event id per signer."""
        return self._votes.get(key, _EMPTY)

    def items(self) -> Iterator[tuple[VoteKey, Mapping[str, bytes]]]:
        """All keys with their signers."""
        yield from self._votes.items()

    def drop(self, obsolete: Callable[[int], bool]) -> None:
        """Forget the slots for which ``obsolete`` holds."""
        for key in [key for key in self._votes if obsolete(key[1])]:
            del self._votes[key]
