"""A replica that starts again behind its own word: what it committed to is in its view change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from mabeam.core.kernel_events import Body
from mabeam.core.machine import After, Append, LogEvent
from mabeam.protocols.byzantine import ByzantineConfig, Proof, is_proof
from mabeam.protocols.byzantine.digests import batch_digest
from mabeam.protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CheckpointTaken,
    CommitSent,
    NewViewSent,
    PrepareSent,
    PrePrepareSent,
    RequestSubmitted,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.replica import ByzantineReplica
from tests.protocols.byzantine.network import COORDINATION, OPENED, context_for, log_event


class Log:
    """Everything anybody signed, in order; r3 is the replica under test."""

    def __init__(self, config: ByzantineConfig) -> None:
        self.context = context_for(4, config, "r3", 10**9)
        self.replica = ByzantineReplica(self.context)
        self.events: list[LogEvent] = []
        self.own: list[LogEvent] = []

    def say(self, author: str, kind: str, body: Body, refs: Iterable[bytes] = ()) -> LogEvent:
        """Somebody signs something."""
        number = sum(event.author == author for event in self.events)
        event = log_event(len(self.events) + 1, author, kind, body, tuple(refs), number)
        self.events.append(event)
        return event

    def show(self, *events: LogEvent) -> None:
        """The replica reads these."""
        for event in events:
            self.replica.apply(event)

    def wished(self, kind: str) -> list[Append]:
        """What of a kind the replica would sign, now or when a timer runs out."""
        wishes = self.replica.intents()
        drafts = [each.then if isinstance(each, After) else each for each in wishes]
        return [each for each in drafts if isinstance(each, Append) and each.type == kind]

    def sign(self, kind: str) -> LogEvent:
        """The replica signs what it wishes to."""
        [wish] = self.wished(kind)
        event = self.say("r3", kind, wish.body, wish.refs)
        self.own.append(event)
        self.show(event)
        return event

    def restart(self) -> None:
        """It forgets everything but its own word."""
        self.replica = ByzantineReplica(self.context)
        self.show(*self.own)

    def all_but(self, *hidden: LogEvent) -> list[LogEvent]:
        """What others signed, except these."""
        return [each for each in self.events if each.author != "r3" and each not in hidden]

    def commit(self, view: int, slot: int, request: LogEvent) -> tuple[LogEvent, list[LogEvent]]:
        """The replica commits what the primary proposes; that commit, and what led to it."""
        digest = batch_digest(COORDINATION, [request.id])
        body = PrePrepareSent(view, slot, digest, (request.id,))
        proposal = self.say(f"r{view}", PRE_PREPARE, body, (self.replica.views.standing,))
        self.show(proposal)
        self.sign(PREPARE)
        other = self.say("r2", PREPARE, PrepareSent(view, slot, digest), (proposal.id,))
        self.show(other)
        return self.sign(COMMIT), [proposal, other]


def is_amnesia(log: Log, commit: LogEvent, view_change: LogEvent) -> bool:
    return is_proof(Proof("E2", "r3", (commit, view_change)), log.replica.group)


def test_a_certificate_of_a_lower_view_replaces_none_of_a_higher_one() -> None:
    """r3 enters view 1 by its NEW-VIEW, commits there and restarts; view 0 comes back first."""
    log = Log(ByzantineConfig(mode="service", batch_delay_ms=0))
    first, second = (
        log.say(author, REQUEST, RequestSubmitted(1, author)) for author in ("r1", "r2")
    )
    old = batch_digest(COORDINATION, [first.id])
    proposal = log.say("r0", PRE_PREPARE, PrePrepareSent(0, 1, old, (first.id,)), (OPENED,))
    votes = [log.say(r, PREPARE, PrepareSent(0, 1, old), (proposal.id,)) for r in ("r1", "r2")]
    moves = [log.say(f"r{i}", VIEW_CHANGE, ViewChangeSent(1, 0, (), ())) for i in range(3)]
    ids = tuple(event.id for event in moves)
    log.show(first, second, *moves, log.say("r1", NEW_VIEW, NewViewSent(1, ids, ())))
    commit, others = log.commit(1, 1, second)

    log.restart()
    log.show(first, second, *others, proposal, *votes)
    assert log.replica.prepared[1].view == 1
    log.show(*(log.say(r, VIEW_CHANGE, ViewChangeSent(2, 0, (), ())) for r in ("r0", "r2")))
    moved = log.sign(VIEW_CHANGE)
    assert [(each.sequence, each.view) for each in moved.content.prepared] == [(1, 1)]
    assert not is_amnesia(log, commit, moved)


@pytest.mark.parametrize("hidden_authors", [("r0",), ("r0", "r1")])
def test_no_view_change_while_a_commit_is_beyond_the_window(hidden_authors: Sequence[str]) -> None:
    """The log has lost checkpoints, so the window starts lower than when r3 voted."""
    config = ByzantineConfig(mode="service", checkpoint_interval=1, window=1, batch_delay_ms=0)
    log = Log(config)
    requests = [log.say("r1", REQUEST, RequestSubmitted(i, i)) for i in (1, 2, 3)]
    log.show(*requests)
    first, _ = log.commit(0, 1, requests[0])
    digest = first.content.batch_digest
    commits = [log.say(r, COMMIT, CommitSent(0, 1, digest)) for r in ("r0", "r1")]
    log.show(*commits)
    own = log.sign(CHECKPOINT)
    taken = CheckpointTaken(1, own.content.state_root)
    checkpoints = [log.say(r, CHECKPOINT, taken, (commits[0].id,)) for r in ("r0", "r1")]
    log.show(*checkpoints)
    commit, _ = log.commit(0, 2, requests[1])

    log.restart()
    hidden = [event for event in checkpoints if event.author in hidden_authors]
    log.show(*log.all_but(*hidden))
    assert log.replica.checkpoints.stable == 0
    assert log.wished(VIEW_CHANGE) == []

    log.show(*hidden)
    moved = log.sign(VIEW_CHANGE)
    assert moved.content.stable_sequence == 1
    assert [each.sequence for each in moved.content.prepared] == [2]
    assert not is_amnesia(log, commit, moved)
