"""E6: a checkpoint whose root is not what the slots it cites give.

A checkpoint's refs name, for each slot since the checkpoint before, one commit: the digests its
signer executed. So the proof rests on the accused's own claim and not on which commits have a
quorum, and names no honest replica even where a fork gave a slot two certificates. All slots from
the first on are executed again, which is why such a proof is practical for early checkpoints only;
a later one is still found by whoever reads the whole log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ...core.envelope import MAX_REFS
from ...core.machine import LogEvent
from .config import Group
from .digests import batch_digest, next_root, null_digest
from .events import CANCEL, CHECKPOINT, COMMIT, HANDOVER, PRE_PREPARE, HandoverRequested
from .requests import REQUESTER, Request, RequestPool, numbered

Lookup = Callable[[bytes], LogEvent | None]


class _NotGivenError(Exception):
    """Something needed to execute again is not at hand; nothing is proven."""


def cited_slots(group: Group, sequence: int) -> Sequence[int]:
    """The slots a checkpoint answers for by its refs: all since the last regular one before it.

    None if they can be too many to name.
    """
    if group.interval > MAX_REFS:
        return range(0)
    return range((sequence - 1) // group.interval * group.interval + 1, sequence + 1)


def batches_of(events: Iterable[LogEvent], group: Group) -> dict[bytes, LogEvent]:
    """By digest, a pre-prepare that lists the batch; who sent it makes no difference."""
    return {
        event.content.batch_digest: event
        for event in events
        if event.type == PRE_PREPARE
        and event.content.batch_digest
        == batch_digest(group.coordination, event.content.request_ids)
    }


def wrong_checkpoint(
    checkpoints: Sequence[LogEvent],
    lookup: Lookup,
    batches: Mapping[bytes, LogEvent],
    group: Group,
) -> tuple[LogEvent, ...] | None:
    """The events that prove the last of one author's checkpoints wrong.

    Args:
        checkpoints: one author's, of every interval from the first on, by slot; the last one may
            be that of a handover, at any slot.
        lookup: events at hand.
        batches: see :func:`batches_of`.
        group: the replicas.

    Returns:
        The proof, the wrong checkpoint first; ``None`` if nothing is proven.
    """
    if not checkpoints or group.interval > MAX_REFS:
        return None
    last = checkpoints[-1]
    if (contradiction := _no_citation(last, lookup, group)) is not None:
        return contradiction
    slots = [slot for each in checkpoints for slot in cited_slots(group, each.content.sequence)]
    cited = [each for checkpoint in checkpoints for each in checkpoint.event.header.refs]
    if slots != list(range(1, len(slots) + 1)) or len(cited) != len(slots):
        return None
    again = _Execution(lookup, batches, group)
    try:
        for slot, commit_id in zip(slots, cited, strict=True):
            commit = again.given(commit_id)
            if not _is_commit(commit, slot, group):
                return None  # an earlier checkpoint is wrong in its own right
            again.step(slot, commit.content.batch_digest)
    except _NotGivenError:
        return None
    end = last.content.sequence
    is_due = again.stopped_at == end if again.stopped_at else end % group.interval == 0
    if is_due and again.root == last.content.state_root:
        return None
    earlier = [each for each in checkpoints if each is not last]
    return (last, *earlier, *(each for each in again.used.values() if each not in checkpoints))


def _no_citation(checkpoint: LogEvent, lookup: Lookup, group: Group) -> tuple[LogEvent, ...] | None:
    """The proof that a checkpoint does not cite one commit of each of its slots."""
    sequence: int = checkpoint.content.sequence
    refs = checkpoint.event.header.refs
    if len(refs) != len(cited_slots(group, sequence)):
        return (checkpoint,)
    for slot, commit_id in zip(cited_slots(group, sequence), refs, strict=True):
        event = lookup(commit_id)
        if event is not None and not _is_commit(event, slot, group):
            return (checkpoint, event)
    return None


def _is_commit(event: LogEvent, slot: int, group: Group) -> bool:
    return (
        event.type == COMMIT
        and event.author in group.replicas
        and bool(event.content.sequence == slot)
    )


class _Execution:
    """Executes slots as a replica does and keeps what it needed for that.

    Attributes:
        root: state root so far.
        used: events needed so far.
        stopped_at: slot whose handover ended the service, 0 before it.
    """

    def __init__(self, lookup: Lookup, batches: Mapping[bytes, LogEvent], group: Group) -> None:
        self.root = group.genesis
        self.used: dict[bytes, LogEvent] = {}
        self.stopped_at = 0
        self._lookup = lookup
        self._batches = batches
        self._group = group
        self._pool = RequestPool()

    def given(self, event_id: bytes) -> LogEvent:
        event = self._lookup(event_id)
        if event is None:
            raise _NotGivenError
        self.used[event_id] = event
        return event

    def step(self, slot: int, digest: bytes) -> None:
        if self.stopped_at:
            return
        ids: tuple[bytes, ...] = ()
        if digest != null_digest(self._group.coordination, slot):
            ids = self._batch(digest)
        done = self._pool.execute_batch(map(self._request, ids))
        self.root = next_root(self.root, slot, digest, done)
        ending = self._pool.ending
        if ending is not None and isinstance(ending.operation, HandoverRequested):
            self.stopped_at = slot

    def _batch(self, digest: bytes) -> tuple[bytes, ...]:
        own = self._group.proposal_id
        if own and digest == batch_digest(self._group.coordination, (own,)):
            return (own,)
        proposal = self._batches.get(digest)
        if proposal is None:
            raise _NotGivenError
        self.used[proposal.id] = proposal
        ids: tuple[bytes, ...] = proposal.content.request_ids
        if len(set(ids)) != len(ids):
            raise _NotGivenError
        return ids

    def _request(self, request_id: bytes) -> Request:
        if request_id == self._group.proposal_id:
            return Request(request_id, REQUESTER, 0, None, 0, 0)
        event = self.given(request_id)
        # What else a request does has no part in the root. Whoever may hand over is not asked: no
        # correct replica executes a slot with anybody else's handover in it.
        ending = event.content if event.type in (CANCEL, HANDOVER) else None
        return Request(request_id, *numbered(event), ending, 0, 0)


def checkpoints_of(events: Iterable[LogEvent], author: str) -> list[LogEvent]:
    """An author's checkpoints, one a slot, by slot."""
    own: dict[int, LogEvent] = {}
    for event in events:
        if event.type == CHECKPOINT and event.author == author:
            own.setdefault(event.content.sequence, event)
    return [own[slot] for slot in sorted(own)]
