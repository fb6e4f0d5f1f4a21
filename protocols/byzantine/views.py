"""Which view a replica is in, and the view changes and NEW-VIEWs that may move it.

========= ============================================ ========= =================================
phase     event                                        becomes   note
========= ============================================ ========= =================================
active    own view change to w                         changing  votes in views below w end
changing  own view change to w' > w                    changing
changing  valid NEW-VIEW of w or higher                active    its slots are proposals
active    valid NEW-VIEW of a higher view              active    others moved without this replica
========= ============================================ ========= =================================

Nothing else moves a view. View changes whose certificates are not at hand yet wait and are judged
again when a missing event arrives; invalid ones are forgotten and harm no other (BYZ-14).
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.machine import LogEvent
from .certificates import Check, EventStore
from .config import Group
from .events import NewViewSent
from .view_change import Plan, check_new_view, check_view_change

MAX_HELD_PER_SENDER = 4
"""View changes kept per sender, the highest views: a liar cannot fill the memory."""


class ViewBook:
    """View, phase, and what is known about later views.

    Attributes:
        view: the view worked in, or moved to.
        is_active: whether its NEW-VIEW is in force (view 0 needs none).
        standing: id of the event that started it.
        floor: min_s; what is below must have executed before this replica votes.
        top: max_s; the primary's own proposals lie above.
        entered: local time at which it became active.
        quorum_at: per view, the event with which q valid view changes were held (BYZ-16).
        invalid: provably wrong NEW-VIEWs (E3), by id.

    Args:
        group: the replicas.
        store: events at hand.
        opened_id: what started view 0.
        is_bounded: whether unproven view changes are kept for a few views per sender only.
    """

    def __init__(
        self, group: Group, store: EventStore, opened_id: bytes, *, is_bounded: bool
    ) -> None:
        self.view = 0
        self.is_active = True
        self.standing = opened_id
        self.floor = 0
        self.top = 0
        self.entered = 0
        self.quorum_at: dict[int, bytes] = {}
        self.invalid: dict[bytes, LogEvent] = {}
        self._missing: dict[bytes, set[bytes]] = {}
        self._group = group
        self._store = store
        self._valid: dict[str, dict[int, LogEvent]] = {}
        self._unproven: dict[bytes, LogEvent] = {}
        self._new_views: dict[bytes, LogEvent] = {}
        self._is_bounded = is_bounded

    def view_changes(self, view: int) -> list[LogEvent]:
        """Valid view changes for ``view``, one per sender, by sender."""
        held = (self._valid[sender].get(view) for sender in sorted(self._valid))
        return [event for event in held if event is not None]

    def joins(self) -> int | None:
        """The smallest view above one's own, if f + 1 replicas are above (BYZ-15)."""
        above = []
        for held in self._valid.values():
            highest = max(held)
            if highest > self.view:
                above.append(highest)
        return min(above) if len(above) > self._group.f else None

    def leave(self, view: int) -> None:
        """The own view change to ``view`` is signed."""
        if view > self.view:
            self.view, self.is_active = view, False
            self._forget_below(view)

    def enter(self, view: int, event: LogEvent, start: Plan, now: int) -> None:
        """A valid NEW-VIEW is in force."""
        self.view, self.is_active, self.entered = view, True, now
        self.standing, self.floor, self.top = event.id, start.lowest, start.highest
        self._forget_below(view)

    def resume(self, view: int, standing: bytes, floor: int, top: int, *, is_active: bool) -> None:
        """Begin in a view."""
        self.view, self.is_active = view, is_active
        self.standing, self.floor, self.top = standing, floor, top

    def held(self) -> Iterator[LogEvent]:
        """View changes and NEW-VIEWs that may still move the view; of each sender the highest."""
        by_sender: dict[str, list[LogEvent]] = {}
        valid = [event for each in self._valid.values() for event in each.values()]
        for event in (*valid, *self._unproven.values(), *self._new_views.values()):
            by_sender.setdefault(event.author, []).append(event)
        for events in by_sender.values():
            events.sort(key=lambda event: event.content.new_view, reverse=True)
            yield from events[: 2 * MAX_HELD_PER_SENDER]

    def _forget_below(self, view: int) -> None:
        for sender, held in list(self._valid.items()):
            kept = {each: event for each, event in held.items() if each >= view}
            if kept:
                self._valid[sender] = kept
            else:
                del self._valid[sender]
        for waiting in (self._unproven, self._new_views):
            for each in [i for i, event in waiting.items() if event.content.new_view < view]:
                del waiting[each]
                self._missing.pop(each, None)
        self.quorum_at = {each: at for each, at in self.quorum_at.items() if each >= view}

    def is_relevant(self, new_view: int) -> bool:
        """Whether that view may still be entered."""
        return new_view > self.view or (new_view == self.view and not self.is_active)

    def judge_view_change(self, event: LogEvent) -> Check:
        """Take a view change: valid ones count, unproven ones wait."""
        check = check_view_change(self._store.get, self._group, event.content)
        if check.missing and not check.fault:
            self._unproven[event.id] = event
            self._missing[event.id] = check.missing
            if self._is_bounded:
                self._forget_lowest(event.author)
            return check
        self._unproven.pop(event.id, None)
        self._missing.pop(event.id, None)
        if check.is_proven:
            self._count(event)
        return check

    def _forget_lowest(self, sender: str) -> None:
        """Of one sender only so many view changes wait to be proven, the highest ones."""
        waiting = [event for event in self._unproven.values() if event.author == sender]
        if len(waiting) > MAX_HELD_PER_SENDER:
            lowest = min(waiting, key=lambda event: int(event.content.new_view)).id
            del self._unproven[lowest], self._missing[lowest]
            self._store.drop(lowest)

    def _count(self, event: LogEvent) -> None:
        view = event.content.new_view
        held = self._valid.setdefault(event.author, {})
        held.setdefault(view, event)
        if len(held) > MAX_HELD_PER_SENDER:
            del held[min(held)]
        if view not in self.quorum_at and len(self.view_changes(view)) >= self._group.q:
            self.quorum_at[view] = event.id

    def hold_new_view(self, event: LogEvent) -> None:
        """Keep a NEW-VIEW until it can be judged and matters."""
        self._new_views[event.id] = event

    def judge_new_view(self, event: LogEvent) -> tuple[Check, Plan | None]:
        """Judge a NEW-VIEW; a wrong one is remembered, an unproven one waits."""
        body: NewViewSent = event.content
        check, start = check_new_view(self._store.get, self._group, body)
        if check.fault:
            self.invalid[event.id] = event
        if check.missing and not check.fault:
            self._missing[event.id] = check.missing
        else:
            self._missing.pop(event.id, None)
        return check, start

    def lacks(self, event_id: bytes) -> bool:
        """Whether something waits for this event to be judged."""
        missing = self._missing
        return bool(missing) and any(event_id in each for each in missing.values())

    def missing(self) -> set[bytes]:
        """Ids of events without which something cannot be judged."""
        return set[bytes]().union(*self._missing.values())

    def waiting_view_changes(self) -> list[LogEvent]:
        """View changes to be judged again."""
        return list(self._unproven.values())

    def waiting_new_views(self) -> list[LogEvent]:
        """NEW-VIEWs to be judged again, lowest view first."""
        return sorted(
            self._new_views.values(), key=lambda event: (event.content.new_view, event.id)
        )
