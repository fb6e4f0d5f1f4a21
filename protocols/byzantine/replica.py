"""A replica's role: what it would sign now, given what the log shows.

============== ===================================================================================
intent         condition
============== ===================================================================================
deadline       undecided; signed once, and then nothing else any more (BYZ-22a)
view change    a provably bad primary, f + 1 others ahead, a planned rotation; else after the timer
pre-prepare    primary of the active view, a batch is full or its delay is over
prepare        backup, proposal accepted; in ``single`` mode the agent's own code agrees first
commit         prepare certificate of the active view; the agent agrees here too
checkpoint     every K-th slot executed, and that of a handover
NEW-VIEW       primary of the view moved to, q valid view changes with its own (BYZ-17)
============== ===================================================================================

While a view change is due, nothing else is: the votes of one state never contradict it. For this to
hold across states, a host folds what it signed before it asks again, or signs nothing until it has
come back from the log. A replica that has decided keeps no timer, but still answers those that have
not (BYZ-21). So does one that has executed a handover, which proposes no more and votes for nothing
behind it: all that is missing is a quorum of checkpoints, and those need no primary (BYZ-24).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ...core.errors import UsageError
from ...core.kernel_events import Body, CancelRequested, DeadlinePassed
from ...core.machine import (
    After,
    Append,
    Ask,
    AskFailed,
    Context,
    Intent,
    Key,
    LogEvent,
    Snapshot,
)
from . import snapshots
from .digests import batch_digest, operation_digest
from .events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PRE_PREPARE,
    PREPARE,
    REFUSED,
    VIEW_CHANGE,
    CheckpointTaken,
    CommitSent,
    PreparedEntry,
    PrepareSent,
    PrePrepareSent,
    ProposalRefused,
    ProposalRequest,
    Verdict,
    ViewChangeSent,
)
from .fold import ByzantineFold
from .recomputation import cited_slots
from .requests import Request
from .slots import Proposal
from .view_change import Plan, new_view_body

MAX_DOUBLINGS = 16
"""View timeouts stop doubling here: 15 s have become 11 days."""

NO_HANDLER = "no_handler"


class VerdictReply(msgspec.Struct, frozen=True):
    """Turns an agent's verdict into its replica's vote or refusal; pure."""

    vote: Append
    view: int
    sequence: int
    digest: bytes

    def __call__(self, answer: Verdict | AskFailed) -> Append:
        """The vote; an agent without an opinion on proposals goes along.

        Raises:
            UsageError: the answer is no :class:`Verdict`.
        """
        if isinstance(answer, AskFailed):
            return self.vote if answer.code == NO_HANDLER else self._refusal(answer.code)
        if not isinstance(answer, Verdict):
            raise UsageError(
                f"the answer to a ProposalRequest is a {type(answer).__name__}, not a Verdict",
                hint="Return Verdict.accept() or Verdict.refuse(reason).",
            )
        return self.vote if answer.accepted else self._refusal(answer.reason)

    def _refusal(self, reason: str) -> Append:
        body = ProposalRefused(self.view, self.sequence, self.digest, reason[:64])
        return Append(("refuse", self.digest.hex()), REFUSED, body)


class ByzantineReplica(ByzantineFold):
    """The machine of one replica; with an author that is none, it only watches.

    It forgets what is settled: evidence and outcomes are the observer's business.

    Attributes:
        taken: slot of the highest checkpoint signed here.
    """

    keeps_history = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._me = context.author
        self._takes_part = context.author in self.group.replicas
        self.taken = 0
        self._prepares: set[tuple[int, int]] = set()
        self._commits: dict[int, int] = {}
        self._proposed: dict[int, int] = {}
        self._new_views: set[int] = set()
        self._endorsed: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._muted = False
        self._unvoted: dict[int, None] = {}  # accepted in this view, own commit not signed yet
        self._uncovered: dict[int, LogEvent] = {}  # own commits whose certificate is not at hand
        self._intents: tuple[Intent, ...] | None = None

    # Folding ------------------------------------------------------------------------------------

    def apply(self, event: LogEvent) -> None:
        """Fold one event; own ones are what this replica is bound by."""
        self._intents = None
        try:
            super().apply(event)
        finally:
            if event.event.header.author == self._me:
                self._note_own(event)
            if self._uncovered:
                self._restore()

    def _note_own(self, event: LogEvent) -> None:
        kind, content = event.type, event.content
        if kind == PREPARE:
            self._prepares.add((content.view, content.sequence))
            self._endorse(content.batch_digest)
        elif kind == COMMIT:
            view = self._commits.get(content.sequence, 0)
            self._commits[content.sequence] = max(view, content.view)
            self._endorse(content.batch_digest)
            if content.view >= view and not self._covers(content.sequence, content.view):
                self._uncovered[content.sequence] = event
            if content.view >= self.views.view:
                self._unvoted.pop(content.sequence, None)
        elif kind == PRE_PREPARE:
            highest = self._proposed.get(content.view, 0)
            self._proposed[content.view] = max(highest, content.sequence)
            self._endorse(content.batch_digest)
        elif kind == CHECKPOINT:
            self.taken = max(self.taken, content.sequence)
        elif kind == VIEW_CHANGE:
            for entry in content.prepared:
                self._keep(entry)
            self.leave(content.new_view)
        elif kind == NEW_VIEW:
            self._new_views.add(content.new_view)
        elif kind == REFUSED:
            self._refused.add(content.batch_digest)
        elif kind == DEADLINE_PASSED and content.name == OVERALL:
            self._muted = True

    def _keep(self, entry: PreparedEntry) -> None:
        known = self.prepared.get(entry.sequence)
        if entry.sequence > self.checkpoints.stable and (known is None or known.view < entry.view):
            self.prepared[entry.sequence] = entry

    def _restore(self) -> None:
        """Find the certificates behind own commits again: after a restart the own events are folded
        first, and the view in which they were signed may be over by then."""
        for sequence, commit in list(self._uncovered.items()):
            view, digest = commit.content.view, commit.content.batch_digest
            signers = self.prepares.signers((view, sequence, digest))
            primary = self.group.primary(view)
            ids = tuple(signers[each] for each in sorted(signers) if each != primary)
            refs = commit.event.header.refs
            if len(ids) + 1 >= self.group.q and refs:
                proposal_id, ids = refs[0], ids[: self.group.q - 1]
                self._keep(PreparedEntry(sequence, view, digest, proposal_id, ids))
            if self._covers(sequence, view):
                del self._uncovered[sequence]

    def _endorse(self, digest: bytes) -> None:
        if self.config.mode == "single":  # a service asks nobody
            self._endorsed.add(digest)

    def _accept(self, sequence: int, proposal: Proposal) -> None:
        self._unvoted[sequence] = None
        super()._accept(sequence, proposal)

    def _enter(self, view: int, event: LogEvent, start: Plan) -> None:
        self._unvoted.clear()
        super()._enter(view, event, start)

    def _collect(self) -> None:
        super()._collect()
        stable = self.checkpoints.stable
        self._unvoted = {s: None for s in self._unvoted if s > stable}
        self._commits = {s: view for s, view in self._commits.items() if s > stable}
        self._prepares = {key for key in self._prepares if key[1] > stable}

    def submit(self, event: LogEvent, client: str, client_seq: int, operation: Any) -> None:
        """See :meth:`.slots.SlotFold.submit`."""
        self._intents = None
        super().submit(event, client, client_seq, operation)

    def rest(self, position: int) -> None:
        """What the replicas order for is decided: keep no timer, answer those that have not."""
        self._intents = None
        self.decided_at = position

    @property
    def _rests(self) -> bool:
        """Nothing is left that a primary would be needed for."""
        return self.is_decided or self.is_stopped

    def is_done(self) -> bool:
        """Decided, or bound to silence by the own overall deadline."""
        return self.is_decided or self._muted

    # Snapshots ----------------------------------------------------------------------------------

    def milestone(self) -> int:
        """The stable checkpoint that has executed here."""
        return snapshots.milestone(self)

    def snapshot(self) -> Snapshot | None:
        """See :mod:`.snapshots`."""
        return snapshots.take(self)

    def restore(self, state: bytes) -> None:
        """See :mod:`.snapshots`."""
        self._intents = None
        snapshots.restore(self, state)

    def is_settled(self, key: Key) -> bool:
        """See :mod:`.snapshots`."""
        return snapshots.is_settled(self, key)

    def postponed(self, most: int) -> tuple[tuple[bytes, int, int], ...]:
        """Ids, views and slots of events too far ahead to be kept, the nearest slots first."""
        each = ((slot, view, id) for id, (view, slot) in self._postponed.items())
        return tuple((id, view, slot) for slot, view, id in sorted(each)[:most])

    def resume(self, state: snapshots.State) -> None:
        """Begin with what a snapshot says beyond what the books hold."""
        self.now = 1
        self.prepared = {entry.sequence: entry for entry in state.prepared}
        self.due_checkpoints = dict(state.due)
        self.taken = state.taken
        self.productive_view, self.suspected = state.view.productive, state.view.suspected
        self._signed_since = state.stable
        self._older_requests_upto = self.executor.executed + 2 * self.group.window
        self._postponed = {id: (view, slot) for id, view, slot in state.postponed}
        for sequence, proposal in state.view.carried:
            self._accept(sequence, proposal)

    # Intents ------------------------------------------------------------------------------------

    def intents(self) -> Iterable[Intent]:
        """See the table above."""
        if self._intents is None:
            self._intents = tuple(self._all()) if self._takes_part else ()
        return self._intents

    def _all(self) -> Iterator[Intent]:
        if self._muted or self.executor.fork is not None:
            return
        yield from self._checkpoint()
        yield from self._deadline()
        if self.suspected > self.views.view:
            yield from self._leave(self.suspected)
        elif self.views.is_active:
            yield from self._votes()
            yield from self._propose()
            yield from self._request_timer()
        else:
            yield from self._new_view()
            yield from self._new_view_timer()

    def _once(self, kind: str, key: tuple[str | int, ...], body: Body, *refs: bytes) -> Append:
        return Append(key, kind, body, tuple(dict.fromkeys(refs)), sign_once=True)

    def _deadline(self) -> Iterator[After]:
        if not self.is_decided:
            opened = self.context.opened_id
            key = ("deadline", OVERALL)
            then = self._once(DEADLINE_PASSED, key, DeadlinePassed(OVERALL), opened)
            yield After(key, opened, self.context.opened.overall_timeout_ms, then)

    def _checkpoint(self) -> Iterator[Append]:
        for sequence, root in self.due_checkpoints.items():
            if sequence > self.taken:
                body = CheckpointTaken(sequence, root)
                yield self._once(CHECKPOINT, ("checkpoint", sequence), body, *self._ran(sequence))

    def _ran(self, sequence: int) -> Iterator[bytes]:
        """A commit of each slot since the last checkpoint: the root answers for them (E6)."""
        for slot in cited_slots(self.group, sequence):
            yield self.executor.decisions[slot].commit_ids[0]

    # Votes --------------------------------------------------------------------------------------

    def _votes(self) -> Iterator[Intent]:
        view = self.views.view
        if self.executor.executed < self.views.floor:
            return  # BYZ-18: first catch up with the checkpoint the view starts from
        leads = self.group.primary(view) == self._me
        for sequence in self._unvoted:
            if self.is_stopped and sequence > self.executor.executed:
                continue
            proposal = self.accepted[sequence]
            if not leads and (view, sequence) not in self._prepares:
                yield from self._prepare(view, sequence, proposal)
            entry = self.prepared.get(sequence)
            if entry is not None and entry.view == view and self._commits.get(sequence, -1) < view:
                body = CommitSent(view, sequence, entry.batch_digest)
                key = ("commit", view, sequence)
                vote = self._once(COMMIT, key, body, entry.proposal_id, self.views.standing)
                yield from self._judged(vote, view, sequence, entry.batch_digest)

    def _prepare(self, view: int, sequence: int, proposal: Proposal) -> Iterator[Intent]:
        body = PrepareSent(view, sequence, proposal.digest)
        key = ("prepare", view, sequence)
        vote = self._once(PREPARE, key, body, proposal.id, self.views.standing)
        yield from self._judged(vote, view, sequence, proposal.digest)

    def _judged(self, vote: Append, view: int, sequence: int, digest: bytes) -> Iterator[Intent]:
        """The vote, after the agent's own code has agreed to the operation (``single`` mode)."""
        if self.config.mode != "single" or digest in self._endorsed:
            yield vote
            return
        batch = self.executor.batch(sequence, digest)
        if isinstance(vote.body, PrePrepareSent):
            batch = vote.body.request_ids
        if batch == ():
            yield vote
        request = self.requests.get(batch[0]) if batch else None
        if request is None or digest in self._refused:
            return
        if isinstance(request.operation, CancelRequested):  # the requester's right, not a question
            yield vote
            return
        question = ProposalRequest(
            request.operation,
            operation_digest(request.operation),
            request.client,
            self.context.opened.topic,
            self.context.coordination,
        )
        reply = VerdictReply(vote, view, sequence, digest)
        key = ("validate", request.id.hex())
        yield Ask(key, question, Verdict, reply, self.config.view_timeout_ms)

    # Proposals ----------------------------------------------------------------------------------

    def _propose(self) -> Iterator[Intent]:
        view, executed = self.views.view, self.executor.executed
        if self.group.primary(view) != self._me or self._rests or executed < self.views.floor:
            return
        stable = self.checkpoints.stable
        sequence = max(self._proposed.get(view, 0), self.views.top, stable) + 1
        assert self.config.max_inflight is not None
        if sequence > min(stable + self.group.window, executed + self.config.max_inflight):
            return
        if any(
            self.executor.batch(slot, proposal.digest) is None
            for slot, proposal in self.accepted.items()
        ):
            return  # a batch carried over may hold what would be proposed twice
        batch, is_full = self._batch()
        if not batch:
            return
        ids = tuple(request.id for request in batch)
        digest = batch_digest(self.group.coordination, ids)
        body = PrePrepareSent(view, sequence, digest, ids)
        key = ("pre_prepare", view, sequence)
        proposal = self._once(PRE_PREPARE, key, body, self.views.standing)
        if is_full:
            yield from self._judged(proposal, view, sequence, digest)
        else:
            yield After(key, self._since(batch[0]), self.config.batch_delay_ms, proposal)

    def _batch(self) -> tuple[list[Request], bool]:
        """The next batch and whether it is closed; in ``single`` mode one request at a time."""
        single = self.config.mode == "single"
        if single and any(
            slot > self.executor.executed and proposal.request_ids
            for slot, proposal in self.accepted.items()
        ):
            return [], False
        batch: list[Request] = []
        size = 0
        for request in self.requests.pending(self._slot_of):
            if self._is_refused(request):
                continue
            size += request.size
            if batch and size > self.config.batch_max_bytes:
                return batch, True
            batch.append(request)
            if single or len(batch) == self.config.batch_max_requests:
                return batch, True
        return batch, self.config.batch_delay_ms == 0

    def _is_refused(self, request: Request) -> bool:
        if not self._refused:
            return False
        return batch_digest(self.group.coordination, (request.id,)) in self._refused

    # View changes -------------------------------------------------------------------------------

    def _leave(self, new_view: int) -> Iterator[Append]:
        """The view change, unless something signed earlier would be missing from it (BYZ-13).

        After a restart that may be a commit whose certificate is not folded yet, or one too far
        above the checkpoint known to be stable.
        """
        stable = self.checkpoints.stable
        highest = stable + self.group.window
        if any(sequence > highest for sequence in self._commits):
            return
        if all(self._covers(s, commit.content.view) for s, commit in self._uncovered.items()):
            entries = tuple(
                self.prepared[sequence]
                for sequence in sorted(self.prepared)
                if stable < sequence <= highest
            )
            body = ViewChangeSent(new_view, stable, self.checkpoints.proof, entries)
            yield self._once(VIEW_CHANGE, ("view_change", new_view), body)

    def _covers(self, sequence: int, view: int) -> bool:
        entry: PreparedEntry | None = self.prepared.get(sequence)
        return sequence <= self.checkpoints.stable or (entry is not None and entry.view >= view)

    def _timeout_ms(self) -> int:
        """T_v: doubles with every view without an execution (BYZ-12)."""
        failed = min(max(0, self.views.view - self.productive_view), MAX_DOUBLINGS)
        return self.config.view_timeout_ms << failed

    def _since(self, request: Request) -> bytes:
        """A request waits from when it was seen, in a new view from when that began."""
        return request.id if request.seen > self.views.entered else self.views.standing

    def _request_timer(self) -> Iterator[After]:
        """BYZ-12: the oldest unexecuted request, whatever else makes progress."""
        oldest = None if self._rests else self.requests.oldest()
        if oldest is not None:
            view = self.views.view
            key = ("timer", view, "request", oldest.id.hex())
            for then in self._leave(view + 1):
                yield After(key, self._since(oldest), self._timeout_ms(), then)

    def _new_view_timer(self) -> Iterator[After]:
        """BYZ-16: from q valid view changes on, the new primary has T_v."""
        view = self.views.view
        since = self.views.quorum_at.get(view)
        if since is not None and not self._rests:
            for then in self._leave(view + 1):
                yield After(("timer", view, "new_view"), since, self._timeout_ms(), then)

    def _new_view(self) -> Iterator[Append]:
        """BYZ-17: exactly one NEW-VIEW, over all valid view changes at hand."""
        view = self.views.view
        if self.group.primary(view) != self._me or view in self._new_views:
            return
        held = self.views.view_changes(view)
        if len(held) >= self.group.q and any(event.author == self._me for event in held):
            body = new_view_body(self.group, view, held)
            yield self._once(NEW_VIEW, ("new_view", view), body, *body.view_change_ids)
