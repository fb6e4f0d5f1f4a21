"""What a coordinator can prove so far: one proof per rule and accused, found as events arrive.

Every event is compared only with what it can contradict, so nothing is searched twice:

==== =============================== ============================================================
rule looked for when                 compared with
==== =============================== ============================================================
E1   the fold notes an equivocation  the other event under the same key; E4 for view changes
E2   a commit or a view change       the author's view changes or commits
E3   a NEW-VIEW, or what it lacked   the view changes it names
E5   a vote above view 0; a NEW-VIEW the proven NEW-VIEWs of its view; the votes of its view
E6   a checkpoint, or its execution  the root this fold executed; only then is it executed again
E8   a vote or an overall deadline   the author's earliest deadline and its last vote
==== =============================== ============================================================

What falls outside the bounds below, or is overtaken by the end of the slot's events in memory, is
still found in the whole log by :func:`~mabeam.protocols.byzantine.forensics.proofs_in`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.evidence import fits
from ...core.kernel_events import EvidenceSubmitted
from ...core.machine import LogEvent
from .certificates import EventStore
from .config import Group
from .events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PREPARE,
    VIEW_CHANGE,
    VOTES,
)
from .execution import Executor
from .forensics import basis_of, stray_vote_proof, wrong_new_view_proof
from .proofs import (
    Proof,
    is_amnesia,
    is_proof,
    is_stray_vote,
    is_vote_after_deadline,
    judged_new_view,
    submission,
)
from .recomputation import batches_of, checkpoints_of, wrong_checkpoint
from .view_change import Plan

MAX_NEW_VIEWS = 4
"""NEW-VIEWs of one primary that votes are compared with, the newest: a liar fills only its own."""

MAX_CHECKPOINTS = 8
"""Checkpoints of one replica that wait for this fold to execute their slot."""


class Accusations:
    """Proofs against replicas.

    Attributes:
        proofs: what to submit, by (rule, accused), in the order found.
    """

    def __init__(self, group: Group, store: EventStore, executor: Executor) -> None:
        self.proofs: dict[tuple[str, str], EvidenceSubmitted] = {}
        self._group = group
        self._store = store
        self._executor = executor
        self._judged: set[tuple[str, str]] = set()
        self._commits: dict[str, list[LogEvent]] = {}
        self._view_changes: dict[str, list[LogEvent]] = {}
        self._deadlines: dict[str, LogEvent] = {}
        self._last_votes: dict[str, LogEvent] = {}
        self._new_views: dict[str, list[LogEvent]] = {}
        self._lacking: dict[bytes, set[bytes]] = {}
        self._plans: dict[bytes, tuple[Plan, tuple[LogEvent, ...]]] = {}
        self._checkpoints: dict[str, dict[int, LogEvent]] = {}
        self._compared = 0

    def accuse(self, proof: Proof) -> None:
        """Keep a proof that holds, unless there is one already or it fits into no event."""
        key = (proof.rule, proof.accused)
        if key not in self._judged and is_proof(proof, self._group):
            evidence = submission(proof)
            if fits(evidence):
                self._judged.add(key)
                self.proofs[key] = evidence

    def submitted(self, rule: str, accused: str) -> None:
        """Somebody has proven this; the log needs it once."""
        self._judged.add((rule, accused))
        self.proofs.pop((rule, accused), None)

    def _is_open(self, rule: str, accused: str) -> bool:
        return (rule, accused) not in self._judged

    def take(self, event: LogEvent) -> None:
        """Compare an event that the fold has taken."""
        if event.author in self._group.replicas:
            for proof in self._found(event):
                self.accuse(proof)
        for waiting in self._completed(event):
            self._judge_new_view(waiting)
        if event.type == CHECKPOINT or self._executor.executed > self._compared:
            self._compared = self._executor.executed
            self._compare_checkpoints()

    def _found(self, event: LogEvent) -> Iterator[Proof]:
        if event.type == COMMIT:
            self._commits.setdefault(event.author, []).append(event)
            yield from self._amnesia(event.author, [event], self._view_changes)
        elif event.type == VIEW_CHANGE:
            self._view_changes.setdefault(event.author, []).append(event)
            yield from self._amnesia(event.author, [event], self._commits)
        elif event.type == NEW_VIEW:
            self._hold_new_view(event)
        elif event.type == CHECKPOINT:
            self._hold_checkpoint(event)
        if event.type in (PREPARE, COMMIT):
            yield from self._stray(event)
        if event.type in VOTES or event.type == DEADLINE_PASSED:
            yield from self._after_deadline(event)

    # E2 and E8 ----------------------------------------------------------------------------------

    def _amnesia(
        self, author: str, new: list[LogEvent], others: dict[str, list[LogEvent]]
    ) -> Iterator[Proof]:
        if not self._is_open("E2", author):
            return
        for one in new:
            for other in others.get(author, ()):
                commit, change = (one, other) if one.type == COMMIT else (other, one)
                if is_amnesia(commit, change):
                    yield Proof("E2", author, (commit, change))
                    return

    def _after_deadline(self, event: LogEvent) -> Iterator[Proof]:
        author, number = event.author, event.event.header.author_seq
        if event.type in VOTES:
            last = self._last_votes.setdefault(author, event)
            if number > last.event.header.author_seq:
                self._last_votes[author] = event
        elif event.content.name == OVERALL:
            first = self._deadlines.setdefault(author, event)
            if number < first.event.header.author_seq:
                self._deadlines[author] = event
        deadline, vote = self._deadlines.get(author), self._last_votes.get(author)
        if deadline is not None and vote is not None and is_vote_after_deadline(deadline, vote):
            yield Proof("E8", author, (deadline, vote))

    # E3 and E5 ----------------------------------------------------------------------------------

    def _hold_new_view(self, event: LogEvent) -> None:
        held = self._new_views.setdefault(event.author, [])
        held.append(event)
        if len(held) > MAX_NEW_VIEWS:
            dropped = held.pop(0)
            self._lacking.pop(dropped.id, None)
            self._plans.pop(dropped.id, None)
        self._judge_new_view(event)

    def _completed(self, event: LogEvent) -> list[LogEvent]:
        """NEW-VIEWs that say more with this event: a view change, or the last they lacked."""
        found: list[bytes] = []
        for new_view_id in [each for each, lacks in self._lacking.items() if event.id in lacks]:
            self._lacking[new_view_id].discard(event.id)
            if event.type == VIEW_CHANGE or not self._lacking[new_view_id]:
                found.append(new_view_id)
        held = map(self._store.get, found)
        return [each for each in held if each is not None]

    def _judge_new_view(self, event: LogEvent) -> None:
        judged = judged_new_view(event, self._store.get, self._group)
        if judged is None:
            return
        check, start = judged
        self._lacking.pop(event.id, None)
        if check.fault:
            if self._is_open("E3", event.author):
                self.accuse(wrong_new_view_proof(event, self._store.get, self._group))
        elif start is None:
            self._lacking[event.id] = set(check.missing)
        else:
            self._plans[event.id] = (start, basis_of(event, self._store.get))
            for vote in self._store.events():
                if vote.type in (PREPARE, COMMIT) and vote.content.view == event.content.new_view:
                    for proof in self._stray(vote):
                        self.accuse(proof)

    def _stray(self, vote: LogEvent) -> Iterator[Proof]:
        view = vote.content.view
        if view == 0 or not self._is_open("E5", vote.author):
            return
        for new_view in self._new_views.get(self._group.primary(view), ()):
            plan = self._plans.get(new_view.id)
            if plan is not None and is_stray_vote(vote, new_view, plan[0], self._store.get):
                yield stray_vote_proof(vote, new_view, plan[1], self._store.get)

    # E6 -----------------------------------------------------------------------------------------

    def _hold_checkpoint(self, event: LogEvent) -> None:
        held = self._checkpoints.setdefault(event.author, {})
        held.setdefault(event.content.sequence, event)
        if len(held) > MAX_CHECKPOINTS:
            del held[min(held)]

    def _compare_checkpoints(self) -> None:
        """Look at checkpoints of slots executed by now; a root like one's own is no offence."""
        for author, held in self._checkpoints.items():
            if not held:
                continue
            for sequence in sorted(each for each in held if each <= self._executor.executed):
                event = held.pop(sequence)
                root = self._executor.log[sequence - 1].root
                if event.content.state_root != root and self._is_open("E6", author):
                    self._execute_again(author, sequence)

    def _execute_again(self, author: str, sequence: int) -> None:
        events = self._store.events()
        own = [e for e in checkpoints_of(events, author) if e.content.sequence <= sequence]
        batches = batches_of(events, self._group)
        wrong = wrong_checkpoint(own, self._store.get, batches, self._group)
        if wrong is not None:
            self.accuse(Proof("E6", author, wrong))

    # Memory -------------------------------------------------------------------------------------

    def drop_upto(self, slot: int) -> None:
        """Forget commits of slots nobody asks for any more."""
        for author, commits in self._commits.items():
            self._commits[author] = [each for each in commits if each.content.sequence > slot]
