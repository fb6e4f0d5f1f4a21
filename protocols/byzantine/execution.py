"""Execution: committed slots in strict sequence, each request at most once (BYZ-4, BYZ-6, BYZ-9).

A slot is decided by a commit certificate of any view. It executes when every slot below has, and
when the batch behind its digest and the requests in it are at hand; until then it waits. State
follows from the decided prefix alone: whoever executes the same slots has the same root.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .config import Group
from .digests import next_root, null_digest
from .events import HandoverRequested
from .requests import RequestPool


class Decision(msgspec.Struct, frozen=True):
    """A commit certificate: the digest of a slot, the view, and the commits by signer."""

    sequence: int
    view: int
    digest: bytes
    commit_ids: tuple[bytes, ...]


class Executed(msgspec.Struct, frozen=True):
    """An executed slot: the requests that took effect, in order, and the state after them."""

    sequence: int
    digest: bytes
    requests: tuple[bytes, ...]
    root: bytes


class Executor:
    """The decided slots and how far they have executed.

    Attributes:
        decisions: commit certificate per slot, the first one known.
        executed: the last executed slot, 0 before the first.
        log: executed slots, in sequence; the oldest ones may have been dropped.
        root: state root after the last of them.
        fork: two digests committed for one slot, if that ever happened.
        batches: request ids behind each digest seen.
    """

    def __init__(self, group: Group, requests: RequestPool) -> None:
        self.decisions: dict[int, Decision] = {}
        self.executed = 0
        self.log: list[Executed] = []
        self.root = group.genesis
        self.fork: tuple[Decision, Decision] | None = None
        self.batches: dict[bytes, tuple[bytes, ...]] = {}
        self._batch_at: dict[bytes, int] = {}
        self._roots: dict[int, bytes] = {}  # of slots that executed before a snapshot
        self._dropped = 0
        self._group = group
        self._requests = requests

    def decide(self, view: int, sequence: int, digest: bytes, commits: Mapping[str, bytes]) -> None:
        """Take note of a quorum of commits; a second digest for the slot is a fork (BYZ-9)."""
        known = self.decisions.get(sequence)
        if known is not None and known.digest == digest:
            return
        ids = tuple(commits[signer] for signer in sorted(commits))
        decision = Decision(sequence, view, digest, ids)
        if known is None:
            self.decisions[sequence] = decision
        elif self.fork is None:
            self.fork = (known, decision)

    def note_batch(self, sequence: int, digest: bytes, request_ids: tuple[bytes, ...]) -> None:
        """Learn what is behind a digest that was proposed for a slot."""
        if sequence > self._dropped:
            self.batches[digest] = request_ids
            self._batch_at[digest] = max(sequence, self._batch_at.get(digest, 0))

    @property
    def handover(self) -> HandoverRequested | None:
        """The handover in the last executed slot: none executes after it (BYZ-24)."""
        ending = self._requests.ending
        operation = ending.operation if ending is not None else None
        return operation if isinstance(operation, HandoverRequested) else None

    def missing(self) -> set[bytes]:
        """Ids of requests that the next slot waits for."""
        if self.handover is not None:
            return set()
        decision = self.decisions.get(self.executed + 1)
        ids = self.batch(decision.sequence, decision.digest) if decision else None
        return {each for each in ids or () if each not in self._requests}

    def batch(self, sequence: int, digest: bytes) -> tuple[bytes, ...] | None:
        """Request ids of a digest; none for the null batch, ``None`` if not known."""
        known = self.batches.get(digest)
        if known is None and digest == null_digest(self._group.coordination, sequence):
            return ()
        return known

    def step(self) -> Executed | None:
        """Execute the next slot, if it is decided and everything in it is at hand."""
        sequence = self.executed + 1
        decision = self.decisions.get(sequence)
        if decision is None or self.fork is not None or self.handover is not None:
            return None
        ids = self.batch(sequence, decision.digest)
        if ids is None:
            return None
        found = [self._requests.get(each) for each in ids]
        if any(request is None for request in found):
            return None
        effective = self._requests.execute_batch(request for request in found if request)
        self.root = next_root(self.root, sequence, decision.digest, effective)
        done = Executed(sequence, decision.digest, effective, self.root)
        self.log.append(done)
        self.executed = sequence
        self._requests.close(sequence)
        return done

    def drop_upto(self, slot: int) -> None:
        """Forget decided slots up to ``slot``, all of them executed; the root binds them."""
        over = sum(done.sequence <= slot for done in self.log)
        del self.log[:over]
        self._roots = {each: root for each, root in self._roots.items() if each > slot}
        for sequence in [each for each in self.decisions if each <= slot]:
            del self.decisions[sequence]
        for digest in [each for each, at in self._batch_at.items() if at <= slot]:
            del self.batches[digest], self._batch_at[digest]
        self._requests.forget_upto(slot)
        self._dropped = max(self._dropped, slot)

    def resume(
        self, roots: Mapping[int, bytes], decisions: Iterable[Decision], settled: int
    ) -> None:
        """Begin behind the highest of the slots whose roots are given; what is behind digests up to
        ``settled`` is over."""
        self.executed = max(roots)
        self.root, self._roots, self._dropped = roots[self.executed], dict(roots), settled
        self.decisions = {each.sequence: each for each in decisions}

    def root_after(self, slot: int) -> bytes | None:
        """State root after an executed slot that is still remembered."""
        if slot in self._roots:
            return self._roots[slot]
        return next((done.root for done in reversed(self.log) if done.sequence == slot), None)

    def operation(self, request_id: bytes) -> Any:
        """The operation of an executed request."""
        request = self._requests.get(request_id)
        assert request is not None
        return request.operation
