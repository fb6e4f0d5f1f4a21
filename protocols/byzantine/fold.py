"""What the log says to a replica or an observer: dispatch, views and deadlines on top of the slots.

Every event is folded once, by its type. An event that certificates were waiting for makes them be
judged again. Whatever this fold rejects has no effect, except that an equivocation is remembered as
evidence: both votes stay in their own groups, because dropping them would make certificates depend
on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable

from ...core.errors import PeerProtocolError
from ...core.machine import LogEvent
from .chains import AuthorChain
from .events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PRE_PREPARE,
    PREPARE,
    REFUSED,
    REQUEST,
    UNIQUENESS,
    VIEW_CHANGE,
)
from .execution import Executed
from .slots import Proposal, SlotFold
from .view_change import Plan


class ByzantineFold(SlotFold):
    """State that follows from events alone; roles add what they would do."""

    # Reading ------------------------------------------------------------------------------------

    def first(self) -> Executed | None:
        """The first executed slot with a request in it."""
        return next((each for each in self.executor.log if each.requests), None)

    def phase(self) -> str:
        """``active``, ``changing``, ``decided`` or ``halted``."""
        if self.executor.fork is not None:
            return "halted"
        if self.is_decided:
            return "decided"
        return "active" if self.views.is_active else "changing"

    def waiting_for(self) -> tuple[str, ...]:
        """Replicas whose vote for the next slot, or whose view change, is not there yet."""
        if self.phase() == "changing":
            heard = {event.author for event in self.views.view_changes(self.views.view)}
        elif self.phase() == "active":
            proposal = self.accepted.get(self.executor.executed + 1)
            if proposal is None:
                return (self.group.primary(self.views.view),)
            key = (self.views.view, self.executor.executed + 1, proposal.digest)
            heard = set(self.commits.signers(key))
        else:
            return ()
        return tuple(each for each in self.group.replicas if each not in heard)

    def wanted(self) -> frozenset[bytes]:
        """Ids of events to read again from the log (5.3): referenced, or now within reach."""
        fitting = {i for i, (view, s) in self._postponed.items() if self._is_near(view, s)}
        missing = {each for each in self.views.missing() if each not in self.store}
        return frozenset(fitting | missing | self.executor.missing())

    # Folding ------------------------------------------------------------------------------------

    def apply(self, event: LogEvent) -> None:
        """Fold one event; seen again it has no effect."""
        handler = _HANDLERS.get(event.event.header.type)
        if event.event.id in self.store:
            return
        self.now += 1
        self.chains.setdefault(event.author, AuthorChain()).add(event.event.header.author_seq)
        if handler is None:
            return
        if event.author not in self._members and event.type not in (DEADLINE_PASSED, REQUEST):
            raise PeerProtocolError("not_participant", f"{event.author} is no replica")
        twice = self._second(event)
        handler(self, event)
        self._judge_again(event.id)
        if twice is not None:
            self._distrust(event)
            raise PeerProtocolError(
                "equivocation",
                f"{event.author} signed two different {event.type}",
                evidence=(twice.id, event.id),
            )

    def _second(self, event: LogEvent) -> LogEvent | None:
        """An earlier event under the same uniqueness key with different content (COM-17)."""
        fields = UNIQUENESS.get(event.event.header.type)
        if fields is None:
            return None
        content = event.content
        key = (event.author, event.type, *(getattr(content, name) for name in fields))
        first = self._signed.setdefault(key, event)
        if first.event.header.body_sha256 == event.event.header.body_sha256:
            return None
        self.equivocations.setdefault(key, (first, event))
        return first

    def _distrust(self, event: LogEvent) -> None:
        """A primary that signed two proposals for a slot, or two NEW-VIEWs, is bad (BYZ-13)."""
        if event.type == PRE_PREPARE:
            self._suspect(event.content.view)
        elif event.type == NEW_VIEW:
            self._suspect(event.content.new_view)

    def _judge_again(self, event_id: bytes) -> None:
        """An event that certificates waited for has arrived."""
        if not self.views.lacks(event_id):
            return
        for waiting in self.views.waiting_view_changes():
            self.views.judge_view_change(waiting)
        self._join()
        self._try_new_views()

    # Views --------------------------------------------------------------------------------------

    def _on_view_change(self, event: LogEvent) -> None:
        self.store.add(event, None)
        if not self.views.is_relevant(event.content.new_view):
            return
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
        self.store.add(event, None)
        if self.views.is_relevant(view):
            self.views.hold_new_view(event)
            self._try_new_views()
        if event.id in self.views.invalid:
            raise PeerProtocolError(
                "invalid_certificate", f"NEW-VIEW {view} is wrong", evidence=(event.id,)
            )

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
        self.accepted.clear()
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
        self._join()
        self._try_new_views()

    # Deadlines ----------------------------------------------------------------------------------

    def _on_deadline(self, event: LogEvent) -> None:
        if event.content.name == OVERALL:
            if event.author not in self._members:
                raise PeerProtocolError("not_participant", f"{event.author} is no replica")
            self.deadlines.setdefault(event.author, event)
            self.store.add(event, None)

    def _on_refused(self, event: LogEvent) -> None:
        self.store.add(event, None)
        self.refusals[event.author] = event.content.reason


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
}
