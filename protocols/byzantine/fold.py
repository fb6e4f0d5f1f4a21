"""What the log says to a replica or an observer: dispatch, views and deadlines on top of the slots.

Every event is folded once, by its type. An event that certificates were waiting for makes them be
judged again. Whatever this fold rejects has no effect, except that an equivocation is remembered as
evidence: both votes stay in their own groups, because dropping them would make certificates depend
on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from ...core.errors import PeerProtocolError
from ...core.machine import LogEvent
from .events import (
    CANCEL,
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    HANDOVER,
    NEW_VIEW,
    OVERALL,
    PRE_PREPARE,
    PREPARE,
    REFUSED,
    REQUEST,
    UNIQUENESS,
    VIEW_CHANGE,
    HandoverRequested,
)
from .execution import Executed
from .slots import Proposal, Signed, SlotFold
from .view_change import Plan


class ByzantineFold(SlotFold):
    """State that follows from events alone; roles add what they would do."""

    # Reading ------------------------------------------------------------------------------------

    def slot_of(self, request_id: bytes) -> Executed | None:
        """The executed slot in which a request took effect; for observers, which keep all slots."""
        for done in reversed(self.executor.log):
            if request_id in done.requests:
                return done
        return None

    def is_asked_to_hand_over(self) -> bool:
        """Whether the requester has asked for a handover, executed or not; for observers."""
        known = map(self.requests.get, self.requests.known())
        return any(each and isinstance(each.operation, HandoverRequested) for each in known)

    def phase(self) -> str:
        """``active``, ``changing``, ``handing_over``, ``decided`` or ``halted``."""
        if self.executor.fork is not None:
            return "halted"
        if self.is_decided:
            return "decided"
        if self.is_stopped:
            return "handing_over"
        return "active" if self.views.is_active else "changing"

    def waiting_for(self) -> tuple[str, ...]:
        """Replicas whose vote for the next slot, view change or last checkpoint is missing; nobody
        while no request is pending."""
        if self.phase() == "changing":
            heard = {event.author for event in self.views.view_changes(self.views.view)}
        elif self.phase() == "active":
            proposal = self.accepted.get(self.executor.executed + 1)
            if proposal is None:
                is_idle = self.requests.oldest() is None
                return () if is_idle else (self.group.primary(self.views.view),)
            key = (self.views.view, self.executor.executed + 1, proposal.digest)
            heard = set(self.commits.signers(key))
        elif self.phase() == "handing_over":
            heard = self.checkpoints.signers(self.executor.executed, self.executor.root)
        else:
            return ()
        return tuple(each for each in self.group.replicas if each not in heard)

    def wanted(self) -> frozenset[bytes]:
        """Ids of events to read again from the log (5.3): referenced, or now within reach."""
        missing = self.executor.missing()
        if self._postponed:
            missing |= {i for i, (view, s) in self._postponed.items() if self._is_near(view, s)}
        missing |= {each for each in self.views.missing() if each not in self.store}
        if self._unaccepted and self._older_requests_upto > self.executor.executed:
            missing |= self._unknown_requests()
        return frozenset(missing)

    def _unknown_requests(self) -> set[bytes]:
        """Requests older than a snapshot without which proposals cannot be accepted (BYZ-2); all
        others the host folds by itself."""
        return {
            each
            for slot in self._unaccepted
            if self.executor.executed < slot <= self._older_requests_upto
            for event in self._held.get(slot, ())
            if self._is_current(event.content.view)
            for each in event.content.request_ids
            if each not in self.requests
        }

    # Folding ------------------------------------------------------------------------------------

    def apply(self, event: LogEvent) -> None:
        """Fold one event; seen again it has no effect."""
        if event.event.id in self.store:
            return
        header = event.event.header
        author, kind = header.author, header.type
        handler = _HANDLERS.get(kind)
        self.now += 1
        self._note_number(event)
        if handler is None:
            self._judge_again(event)
            return
        if author not in self._members and kind not in _FROM_OUTSIDE:
            raise PeerProtocolError("not_participant", f"{author} is no replica")
        twice = self._second(event)
        handler(self, event)
        self._judge_again(event)
        if twice is not None:
            self._distrust(event)
            raise PeerProtocolError(
                "equivocation",
                f"{event.author} signed two different {event.type}",
                evidence=(twice.id, event.id),
            )

    def _second(self, event: LogEvent) -> Signed | None:
        """An earlier event under the same uniqueness key with different content (COM-17)."""
        header = event.event.header
        fields = _UNIQUE.get(header.type)
        if fields is None:
            return None
        key = (header.author, header.type, fields(event.content))
        first = self._signed_before.get(key) or self._signed.get(key)
        if first is None:
            kept = event if self.keeps_history else None
            self._signed[key] = Signed(event.event.id, header.body_sha256, kept)
            return None
        if first.body_sha256 == header.body_sha256:
            return None
        if first.event is not None:
            values = (getattr(event.content, name) for name in UNIQUENESS[header.type])
            pair = first.event, event
            self.equivocations.setdefault((header.author, header.type, *values), pair)
        return first

    def _distrust(self, event: LogEvent) -> None:
        """A primary that signed two proposals for a slot, or two NEW-VIEWs, is bad (BYZ-13)."""
        if event.type == PRE_PREPARE:
            self._suspect(event.content.view)
        elif event.type == NEW_VIEW:
            self._suspect(event.content.new_view)

    def _judge_again(self, event: LogEvent) -> None:
        """An event that certificates waited for has arrived."""
        if not self.views.lacks(event.event.id):
            return
        if event.event.id not in self.store and event.event.id not in self._postponed:
            # Not what a certificate can hold: kept for the judgement, or it would be wanted again.
            self.store.add(event, self.checkpoints.stable + self.group.window)
        for waiting in self.views.waiting_view_changes():
            self.views.judge_view_change(waiting)
        self._join()
        self._try_new_views()

    # Views --------------------------------------------------------------------------------------

    def _on_view_change(self, event: LogEvent) -> None:
        if not self.views.is_relevant(event.content.new_view):
            if self.keeps_history:
                self.store.add(event, None)
            return
        self.store.add(event, None)
        self._view_changes.setdefault(event.content.new_view, []).append(event.id)
        check = self.views.judge_view_change(event)
        self._join()
        if check.fault:
            raise PeerProtocolError("invalid_certificate", f"{event.author}: {check.fault}")

    def _join(self) -> None:
        """BYZ-15: f + 1 replicas have moved on."""
        view = self.views.joins()
        if view is not None and self.suspected <= self.views.view:
            self.suspected = view

    def _on_new_view(self, event: LogEvent) -> None:
        view = event.content.new_view
        if event.author != self.group.primary(view):
            raise PeerProtocolError("not_primary", f"{event.author} does not lead view {view}")
        self.store.add(event, self._needed_until(event))
        if self.views.is_relevant(view):
            self.views.hold_new_view(event)
            self._try_new_views()
        if event.id in self.views.invalid:
            raise PeerProtocolError(
                "invalid_certificate", f"NEW-VIEW {view} is wrong", evidence=(event.id,)
            )

    def _needed_until(self, new_view: LogEvent) -> int | None:
        """A NEW-VIEW proposes slots; view changes name it until those are settled."""
        if self.keeps_history:
            return None
        stable = self.checkpoints.stable
        slots = (slot.sequence for slot in new_view.content.slots)
        return min(max(slots, default=stable), stable + 2 * self.group.window)

    def _try_new_views(self) -> None:
        """Enter a view whose NEW-VIEW is proven; flee from one whose NEW-VIEW is wrong (BYZ-18)."""
        for event in self.views.waiting_new_views():
            view = event.content.new_view
            if not self.views.is_relevant(view):
                continue
            check, start = self.views.judge_new_view(event)
            if start is not None:
                self._enter(view, event, start)
            elif check.fault and view == self.views.view:
                self.suspected = max(self.suspected, view + 1)

    def _enter(self, view: int, event: LogEvent, start: Plan) -> None:
        self.views.enter(view, event, start, self.now)
        self._drop_view_changes()
        self.accepted.clear()
        self._unaccepted = set(self._held)
        self._slot_of.clear()
        for slot in start.slots:
            if slot.sequence > self.checkpoints.stable:
                ids = self.executor.batch(slot.sequence, slot.batch_digest) or ()
                self._accept(slot.sequence, Proposal(slot.batch_digest, event.id, ids))
        self._accept_held()
        self._rotate()

    def leave(self, view: int) -> None:
        """The own view change is signed: no votes in lower views from here on (BYZ-13)."""
        self.views.leave(view)
        self._drop_view_changes()
        self._join()
        self._try_new_views()

    def _drop_view_changes(self) -> None:
        """Nothing names the view changes of lower views any more."""
        for view in [each for each in self._view_changes if each < self.views.view]:
            for event_id in self._view_changes.pop(view):
                if not self.keeps_history:
                    self.store.drop(event_id)

    # Deadlines ----------------------------------------------------------------------------------

    def _on_deadline(self, event: LogEvent) -> None:
        if event.content.name == OVERALL:
            if event.author not in self._members:
                raise PeerProtocolError("not_participant", f"{event.author} is no replica")
            first = self.deadlines.setdefault(event.author, event)
            if self.keeps_history or first is event:
                self.store.add(event, None)

    def _on_refused(self, event: LogEvent) -> None:
        if self.keeps_history:
            self.store.add(event, None)
            self.refused.add((event.author, event.content.reason))
        self.refusals[event.author] = event.content.reason


_FROM_OUTSIDE = frozenset({CANCEL, DEADLINE_PASSED, HANDOVER, REQUEST})
_UNIQUE = {kind: attrgetter(*fields) for kind, fields in UNIQUENESS.items()}

_HANDLERS: dict[str, Callable[[ByzantineFold, LogEvent], None]] = {
    REQUEST: ByzantineFold._on_request,
    PRE_PREPARE: ByzantineFold._on_pre_prepare,
    PREPARE: ByzantineFold._on_prepare,
    COMMIT: ByzantineFold._on_commit,
    CHECKPOINT: ByzantineFold._on_checkpoint,
    VIEW_CHANGE: ByzantineFold._on_view_change,
    NEW_VIEW: ByzantineFold._on_new_view,
    DEADLINE_PASSED: ByzantineFold._on_deadline,
    REFUSED: ByzantineFold._on_refused,
    CANCEL: ByzantineFold._on_cancel,
    HANDOVER: ByzantineFold._on_handover,
}
