"""Checkpoints: q replicas report the same state after the same slot, and what is below is settled.

Stability is monotone and needs nothing but votes, so a replica that is behind learns it like every
other (BYZ-10). Claims of progress without q matching events have no effect (BYZ-11).
"""

from __future__ import annotations

from .votes import VoteBook


class CheckpointBook:
    """Votes for checkpoints and the highest stable one.

    Attributes:
        stable: h, sequence of the last stable checkpoint, 0 for none.
        root: its state root, empty for none.
        proof: ids of q events that prove it, by signer.
    """

    def __init__(self, quorum: int) -> None:
        self.stable = 0
        self.root = b""
        self.proof: tuple[bytes, ...] = ()
        self._quorum = quorum
        self._votes = VoteBook()

    def signers(self, sequence: int, root: bytes) -> set[str]:
        """Who has reported this state, unless it is stable already."""
        return set(self._votes.signers((0, sequence, root)))

    def resume(self, stable: int, root: bytes, proof: tuple[bytes, ...]) -> None:
        """Begin with a stable checkpoint."""
        self.stable, self.root, self.proof = stable, root, proof

    def add(self, sequence: int, root: bytes, signer: str, event_id: bytes) -> bool:
        """Count a checkpoint; whether it made a higher one stable."""
        if sequence <= self.stable:
            return False
        key = (0, sequence, root)
        if self._votes.add(key, signer, event_id) < self._quorum:
            return False
        signers = self._votes.signers(key)
        self.stable, self.root = sequence, root
        self.proof = tuple(signers[each] for each in sorted(signers)[: self._quorum])
        self._votes.drop(lambda each: each <= sequence)
        return True
