"""The life of a slot: what the log says about requests, proposals, votes and execution.

Normal case (Castro & Liskov 1999, section 4.2), per slot of the active view:

=========== ========================================== ==========================================
a slot is   when                                       then
=========== ========================================== ==========================================
proposed    pre-prepare or NEW-VIEW slot accepted      a backup sends prepare (BYZ-2)
prepared    prepares and primary are q signers         the certificate is kept, commit (BYZ-3)
committed   q commits of one (view, digest), any view  decided (BYZ-4, BYZ-5)
executed    committed, and all slots below executed    every K-th: checkpoint (BYZ-6, BYZ-10)
=========== ========================================== ==========================================

Messages are kept per (view, slot, digest) and used when they fit, so the order in which they arrive
changes when a slot is decided but never what (BYZ-7). What is too far ahead is not kept: its id is,
and :meth:`ByzantineFold.wanted` asks for it again when it fits.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ...core.errors import PeerProtocolError
from ...core.kernel_events import CancelRequested
from ...core.machine import Context, LogEvent, Machine
from .certificates import EventStore
from .chains import AuthorChain
from .checkpoints import CheckpointBook
from .config import frozen_config, group_in
from .digests import batch_digest
from .events import HandoverRequested, PreparedEntry, PrePrepareSent
from .execution import Executed, Executor
from .requests import REQUESTER, Request, RequestPool, numbered
from .views import ViewBook
from .votes import VoteBook

VIEWS_AHEAD = 2
"""Views above one's own for which votes are held (BYZ-7)."""


class Proposal(msgspec.Struct, frozen=True):
    """The accepted proposal of a slot in the active view; ``id`` is the pre-prepare or NEW-VIEW."""

    digest: bytes
    id: bytes
    request_ids: tuple[bytes, ...]


class Signed(msgspec.Struct, frozen=True):
    """What was first signed under a uniqueness key; the event itself only where history is kept."""

    id: bytes
    body_sha256: bytes
    event: LogEvent | None


class SlotFold(Machine):
    """Requests, proposals, votes, execution and checkpoints; views are a subclass's business.

    Attributes:
        refusals: the reason of each replica's last refusal, in the order of this reader's log.
        refused: every replica and reason of a refusal, whatever the order; where history is kept.
        keeps_history: whether requests, decided slots and uniqueness records stay for ever, as
            outcomes and evidence need them. Otherwise those more than a window below the last
            stable checkpoint are dropped, and what a service holds is bounded by its window.
    """

    keeps_history: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        self.context = context
        self.config = frozen_config(context)
        self.group = group_in(context)
        self.store = EventStore()
        self.requests = RequestPool()
        self.executor = Executor(self.group, self.requests)
        self.checkpoints = CheckpointBook(self.group.q)
        self.views = ViewBook(
            self.group, self.store, context.opened_id, is_bounded=not self.keeps_history
        )
        self.prepares = VoteBook()
        self.commits = VoteBook()
        self.accepted: dict[int, Proposal] = {}
        self.prepared: dict[int, PreparedEntry] = {}
        self.deadlines: dict[str, LogEvent] = {}
        self.refusals: dict[str, str] = {}
        self.refused: set[tuple[str, str]] = set()
        self.equivocations: dict[tuple[Any, ...], tuple[LogEvent, LogEvent]] = {}
        self.suspected = 0
        self.productive_view = 0
        self.due_checkpoints: dict[int, bytes] = {}
        self.decided_at: int | None = None
        self.deciding: Executed | None = None
        self.now = 0
        self.chains: dict[str, AuthorChain] = {}
        self._signed: dict[tuple[Any, ...], Signed] = {}
        self._signed_before: dict[tuple[Any, ...], Signed] = {}
        self._signed_since = 0
        self._view_changes: dict[int, list[bytes]] = {}
        self._held: dict[int, list[LogEvent]] = {}
        self._unaccepted: set[int] = set()  # held, and nothing accepted for the slot
        self._slot_of: dict[bytes, int] = {}
        self._postponed: dict[bytes, tuple[int, int]] = {}
        self._older_requests_upto = 0  # slots that may hold requests from before a snapshot
        self._members = frozenset(self.group.replicas)
        if self.config.proposal is not None:
            self._add_request(context.opened.request_id, REQUESTER, 0, self.config.proposal, 0)

    @property
    def is_decided(self) -> bool:
        """``single``: an operation has executed (BYZ-20); ``service``: it was ended."""
        return self.decided_at is not None

    @property
    def is_stopped(self) -> bool:
        """A handover has executed: what is still open is the stable checkpoint (BYZ-24)."""
        return self.executor.handover is not None

    # Requests and proposals -----------------------------------------------------------------------

    def _on_request(self, event: LogEvent) -> None:
        config = self.config
        if config.mode == "single" and config.proposers == "requester":
            raise PeerProtocolError("not_authorised", "only the requester proposes here")
        content = event.content
        if fault := content.fault():
            raise PeerProtocolError("malformed_body", f"{event.author}: {fault}")
        self.submit(event, event.author, content.client_seq, content.operation)

    def submit(self, event: LogEvent, client: str, client_seq: int, operation: Any) -> None:
        """Take an event as a request for ``operation``."""
        if event.id in self.requests:
            return
        self.now += 1
        self._note_number(event)
        if self.keeps_history:
            self.store.add(event, None)
        size = len(event.event.body)
        self._add_request(event.id, client, client_seq, operation, size, event.sequence)
        if self._unaccepted:
            self._accept_held()
        self._execute(event)

    def _note_number(self, event: LogEvent) -> None:
        """Who announces the end needs to know which authors have been heard in full (BYZ-22b)."""
        if self.keeps_history:
            author = event.event.header.author
            self.chains.setdefault(author, AuthorChain()).add(event.event.header.author_seq)

    def _add_request(
        self,
        id: bytes,
        client: str,
        client_seq: int,
        operation: Any,
        size: int,
        position: int = 0,
    ) -> None:
        self.requests.add(Request(id, client, client_seq, operation, size, self.now, position))

    def _on_pre_prepare(self, event: LogEvent) -> None:
        content: PrePrepareSent = event.content
        view, sequence, digest = content.view, content.sequence, content.batch_digest
        if event.author != self.group.primary(view):
            raise PeerProtocolError("not_primary", f"{event.author} does not lead view {view}")
        if self._postpone(event, view, sequence):
            return
        self.store.add(event, sequence)
        sound = digest == batch_digest(self.group.coordination, content.request_ids)
        if not sound or len(set(content.request_ids)) != len(content.request_ids):
            self._suspect(view)
            raise PeerProtocolError("digest_mismatch", f"slot {sequence}: not the batch's digest")
        self.executor.note_batch(sequence, digest, content.request_ids)
        self._complete(sequence, digest, content.request_ids)
        self._execute(event)
        if view < self.views.view or sequence <= self.checkpoints.stable:
            return
        self._hold(sequence, event)
        accepted = self.accepted.get(sequence)
        if self._is_current(view) and accepted and accepted.digest != digest:
            self._suspect(view)
        self._accept_held(sequence)

    def _complete(self, sequence: int, digest: bytes, request_ids: tuple[bytes, ...]) -> None:
        """What a NEW-VIEW carried over by its digest alone becomes known: it is in that slot."""
        accepted = self.accepted.get(sequence)
        if accepted is not None and accepted.digest == digest and not accepted.request_ids:
            self.accepted[sequence] = Proposal(digest, accepted.id, request_ids)
            for request_id in request_ids:
                self._slot_of[request_id] = sequence

    def _hold(self, sequence: int, event: LogEvent) -> None:
        self._held.setdefault(sequence, []).append(event)
        if sequence not in self.accepted:
            self._unaccepted.add(sequence)

    def _suspect(self, view: int) -> None:
        """The primary of the active view is provably bad: move on at once (BYZ-13)."""
        if self._is_current(view):
            self.suspected = max(self.suspected, view + 1)

    def _is_current(self, view: int) -> bool:
        return self.views.is_active and view == self.views.view

    def _accept_held(self, sequence: int | None = None) -> None:
        """Accept what fits now: the first acceptable proposal of a slot stays (BYZ-2)."""
        if not self.views.is_active:
            return
        for each in sorted(self._unaccepted) if sequence is None else (sequence,):
            if each in self.accepted:
                continue
            for event in self._held.get(each, ()):
                if event.content.view == self.views.view and self._is_acceptable(event.content):
                    ids = event.content.request_ids
                    self._accept(each, Proposal(event.content.batch_digest, event.id, ids))
                    break

    def _is_acceptable(self, content: PrePrepareSent) -> bool:
        """BYZ-2: window, and every request at hand, valid, not executed, not in another slot."""
        sequence, stable = content.sequence, self.checkpoints.stable
        if not max(stable, self.views.top) < sequence <= stable + self.group.window:
            return False
        for request_id in content.request_ids:
            request = self.requests.get(request_id)
            if request is None or request_id in self._slot_of:
                return False
            if not self.requests.is_executable(request):
                return False
        return True

    def _accept(self, sequence: int, proposal: Proposal) -> None:
        self.accepted[sequence] = proposal
        self._unaccepted.discard(sequence)
        for request_id in proposal.request_ids:
            self._slot_of[request_id] = sequence
        self._check_prepared(sequence)

    # Votes --------------------------------------------------------------------------------------

    def _is_near(self, view: int, sequence: int) -> bool:
        horizon = self.checkpoints.stable + 2 * self.group.window
        return view <= self.views.view + VIEWS_AHEAD and sequence <= horizon

    def _postpone(self, event: LogEvent, view: int, sequence: int) -> bool:
        """Whether the event is too far ahead to be kept (BYZ-7).

        Who keeps everything reads nothing again, so it keeps that too: an observer signs no view
        changes and learns of a view only by its NEW-VIEW, which a proposal may precede.
        """
        if self.keeps_history or self._is_near(view, sequence):
            self._postponed.pop(event.id, None)
            return False
        self._postponed[event.id] = (view, sequence)
        return True

    def _on_prepare(self, event: LogEvent) -> None:
        content = event.content
        view, sequence = content.view, content.sequence
        if self._postpone(event, view, sequence):
            return
        self.store.add(event, sequence)
        if sequence <= self.checkpoints.stable:
            return
        self.prepares.add((view, sequence, content.batch_digest), event.author, event.id)
        if self._is_current(view):
            self._check_prepared(sequence)

    def _check_prepared(self, sequence: int) -> None:
        """BYZ-3: keep the certificate the first time it exists in the active view.

        One of a higher view stays: a replica that is behind again after a restart may have voted
        there, and its next view change must say so.
        """
        proposal = self.accepted.get(sequence)
        view = self.views.view
        known = self.prepared.get(sequence)
        if proposal is None or (known is not None and known.view >= view):
            return
        signers = self.prepares.signers((view, sequence, proposal.digest))
        primary = self.group.primary(view)
        backups = [each for each in sorted(signers) if each != primary]
        if len(backups) + 1 >= self.group.q:
            ids = tuple(signers[each] for each in backups[: self.group.q - 1])
            self.prepared[sequence] = PreparedEntry(
                sequence, view, proposal.digest, proposal.id, ids
            )

    def _on_commit(self, event: LogEvent) -> None:
        content = event.content
        view, sequence, digest = content.view, content.sequence, content.batch_digest
        if self._postpone(event, min(view, self.views.view), sequence):
            return
        self.store.add(event, sequence)
        if sequence <= min(self.checkpoints.stable, self.executor.executed):
            return
        key = (view, sequence, digest)
        if self.commits.add(key, event.author, event.id) == self.group.q:
            self.executor.decide(view, sequence, digest, self.commits.signers(key))
            self._execute(event)

    def _execute(self, event: LogEvent) -> None:
        """Execute what can be, and note checkpoints that fall due (BYZ-6, BYZ-10)."""
        while (done := self.executor.step()) is not None:
            if self.views.is_active:
                self.productive_view = self.views.view
            if done.sequence % self.group.interval == 0 or self.is_stopped:
                self.due_checkpoints[done.sequence] = done.root
            if self.decided_at is None and self._decides(done):
                self.decided_at, self.deciding = event.sequence, done
        self._hand_over(event)
        self._rotate()

    def _decides(self, done: Executed) -> bool:
        """Whether this slot ends it: the first operation of all, or the cancel of a service."""
        if self.config.mode == "single":
            return bool(done.requests)
        return self.cancel_in(done) is not None

    def cancel_in(self, done: Executed) -> CancelRequested | None:
        """The cancel that took effect in this slot, if one did (BYZ-25)."""
        single = self.config.mode == "single"
        for request_id in done.requests[:1] if single else done.requests:
            operation = self.executor.operation(request_id)
            if isinstance(operation, CancelRequested):
                return operation
        return None

    def _on_cancel(self, event: LogEvent) -> None:
        """The requester's cancel is ordered like any request; the kernel has checked who asks."""
        self.submit(event, *numbered(event), event.content)

    def _on_handover(self, event: LogEvent) -> None:
        """The requester's handover is ordered like any request (BYZ-24)."""
        if self.config.mode != "service":
            raise PeerProtocolError("wrong_phase", "only a service can be handed over")
        if event.author != self.context.requester:
            raise PeerProtocolError("not_authorised", "only the requester may hand it over")
        content: HandoverRequested = event.content
        if content.successor == self.group.coordination or content.successor.startswith("_"):
            raise PeerProtocolError("invalid_config", f"{content.successor!r} cannot follow it")
        self.submit(event, *numbered(event), content)

    def _hand_over(self, event: LogEvent) -> None:
        """It ends when the state after the handover is stable, as executed here (BYZ-24)."""
        executor, stable = self.executor, self.checkpoints
        is_stable = (stable.stable, stable.root) == (executor.executed, executor.root)
        if self.decided_at is None and self.is_stopped and is_stable:
            self.decided_at, self.deciding = event.sequence, executor.log[-1]

    def _rotate(self) -> None:
        """A planned view change every M slots (``rotation_slots``)."""
        every = self.config.rotation_slots
        if every and not self.is_stopped and self.executor.executed >= self.views.top + every:
            self._suspect(self.views.view)

    def _on_checkpoint(self, event: LogEvent) -> None:
        content = event.content
        sequence = content.sequence
        if self._postpone(event, 0, sequence):
            return
        self.store.add(event, sequence)
        if self.checkpoints.add(sequence, content.state_root, event.author, event.id):
            self._collect()
            self._accept_held()
            self._hand_over(event)

    def _collect(self) -> None:
        """Drop working memory at or below h; one window more serves slower peers' certificates."""
        stable = self.checkpoints.stable
        done = min(stable, self.executor.executed)
        self.prepares.drop(lambda slot: slot <= stable)
        self.commits.drop(lambda slot: slot <= done)
        for slots in (self.accepted, self.prepared, self._held):
            for each in [each for each in slots if each <= stable]:
                del slots[each]
        for due in [each for each in self.due_checkpoints if each <= stable]:
            del self.due_checkpoints[due]
        self._slot_of = {i: slot for i, slot in self._slot_of.items() if slot > stable}
        self._unaccepted = {slot for slot in self._unaccepted if slot > stable}
        self.store.drop_upto(done - self.group.window)
        if not self.keeps_history:
            self._forget(done - self.group.window)

    def _forget(self, slot: int) -> None:
        """Drop the decided past up to ``slot``; uniqueness records go by whole windows."""
        self.executor.drop_upto(slot)
        if self.checkpoints.stable >= self._signed_since + self.group.window:
            self._signed_since = self.checkpoints.stable
            self._signed, self._signed_before = {}, self._signed
