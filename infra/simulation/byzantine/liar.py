"""The liar: knows the protocol, and lies where nothing but validation can catch it (TST-3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ....core.hashing import sha256
from ....core.machine import Append, LogEvent
from ....protocols.byzantine.digests import null_digest
from ....protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    PRE_PREPARE,
    PREPARE,
    VIEW_CHANGE,
    NewViewSent,
    PreparedEntry,
    SlotProposal,
    ViewChangeSent,
)
from .puppet import DishonestReplica, Strings
from .usurpation import Usurpation

replace = msgspec.structs.replace
LIE = sha256(b"lie")

Told = tuple[str, Any]
"""What kind of lie, and the lie."""


class Liar(DishonestReplica):
    """Forges, omits and repeats certificates, starts views wrongly, takes wrong checkpoints.

    In some runs it first sees to it that it leads a view with something at stake: see
    :mod:`.usurpation`.
    """

    name = "liar"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._silent_below = 0
        self._last: ViewChangeSent | None = None
        self._plot = Usurpation(self)

    def noticed(self, strings: Strings, event: LogEvent) -> None:
        """See whether it is time to strike."""
        if self._plot.concerns(strings):
            self._plot.noticed(strings, event)

    def say(self, strings: Strings, append: Append) -> None:
        """A lie instead of, or next to, the truth."""
        body: Any = append.body
        if self._plot.concerns(strings):
            self._plot.say(strings, append)
        elif not self.may_misbehave():
            strings.speak(append)
        elif isinstance(body, ViewChangeSent):
            self._instead(strings, append, self._view_changes(strings, body))
        elif isinstance(body, NewViewSent):
            self._instead(strings, append, self._new_views(strings, body))
        elif append.type == CHECKPOINT:
            self._instead(strings, append, iter([("a wrong state", replace(body, state_root=LIE))]))
        elif append.type == PRE_PREPARE and self.rng.random() < 0.6:
            self._silent_below = body.view + 1  # a view without a vote of its own must change
            strings.pretend(append)
        elif append.type in (PREPARE, COMMIT) and body.view < self._silent_below:
            strings.pretend(append)
        else:
            strings.speak(append)

    def _instead(self, strings: Strings, append: Append, lies: Iterator[tuple[str, Any]]) -> None:
        """The first lie that is no truth; the truth as well, now and then."""
        found = next((each for each in lies if each[1] != append.body), None)
        if found is not None:
            kind, lie = found
            self.lie(strings, [(append.type, lie, append.refs)], kind)
        if found is None or self.rng.random() < 0.25:
            strings.speak(append)
        else:
            strings.pretend(append, replaced=True)

    def _view_changes(self, strings: Strings, body: ViewChangeSent) -> Iterator[Told]:
        """Forged, omitted, relabelled and stale entries; a checkpoint nobody took."""
        stale, self._last = self._last, body
        stored = [event.id for event in strings.machine.store.events()][-4:] or [LIE]
        forged = PreparedEntry(
            body.stable_sequence + 1, body.new_view - 1, LIE, stored[0], tuple(stored)
        )
        unknown = PreparedEntry(body.stable_sequence + 1, body.new_view - 1, LIE, LIE, (LIE,))
        rest = body.prepared[1:]
        choices = [
            ("a forged certificate", replace(body, prepared=(forged, *rest))),
            ("a certificate of nothing", replace(body, prepared=(unknown, *rest))),
            ("nothing prepared", replace(body, prepared=())),
            (
                "a checkpoint nobody took",
                replace(body, stable_sequence=body.stable_sequence + 2, prepared=()),
            ),
            ("no checkpoint", replace(body, stable_sequence=0, checkpoint_ids=())),
        ]
        if stale is not None:
            choices.append(("stale", replace(stale, new_view=body.new_view)))
        if body.prepared:
            first = body.prepared[0]
            newer = replace(first, view=body.new_view - 1)
            short = replace(first, prepare_ids=first.prepare_ids[:1])
            other = replace(first, batch_digest=LIE)
            choices += [
                ("a certificate of a later view", replace(body, prepared=(newer, *rest))),
                ("a certificate of another digest", replace(body, prepared=(other, *rest))),
                ("a certificate too short", replace(body, prepared=(short, *rest))),
                ("a slot twice", replace(body, prepared=(first, *body.prepared))),
                ("a certificate left out", replace(body, prepared=rest)),
            ]
        yield self.rng.choice(choices)

    def _new_views(self, strings: Strings, body: NewViewSent) -> Iterator[Told]:
        """Wrong slots over true view changes, and too few view changes."""
        top = body.slots[-1].sequence if body.slots else strings.machine.checkpoints.stable
        null, ids = null_digest(strings.coordination.id, top + 1), body.view_change_ids
        choices = [
            ("a slot too many", replace(body, slots=(*body.slots, SlotProposal(top + 1, LIE)))),
            ("a null slot more", replace(body, slots=(*body.slots, SlotProposal(top + 1, null)))),
            ("no slots", replace(body, slots=())),
            ("too few view changes", replace(body, view_change_ids=ids[:-1])),
            ("a view change twice", replace(body, view_change_ids=(*ids[:-1], ids[0]))),
        ]
        if body.slots:
            first, *rest = body.slots
            other = replace(first, batch_digest=LIE)
            nothing = null_digest(strings.coordination.id, first.sequence)
            dropped = replace(first, batch_digest=nothing)
            choices += [
                ("another digest", replace(body, slots=(other, *rest))),
                ("a slot replaced by null", replace(body, slots=(dropped, *rest))),
            ]
        yield self.rng.choice(choices)


class StaleViewChanger(DishonestReplica):
    """Leaves view after view with what it had prepared at the start, whatever came since."""

    name = "stale_view_changer"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._first: ViewChangeSent | None = None

    def say(self, strings: Strings, append: Append) -> None:
        """The truth, and a view change ahead of time."""
        strings.speak(append)
        if append.type not in (PREPARE, COMMIT) or self.rng.random() < 0.5:
            return
        view = strings.machine.views.view + self.rng.choice((1, 1, 2, 5))
        for intent in strings.machine._leave(view):
            body = intent.body
            assert isinstance(body, ViewChangeSent)
            self._first = self._first or body
            said = body if self.rng.random() < 0.5 else replace(self._first, new_view=view)
            kind = "ahead of time" if said is body else "stale"
            self.lie(strings, [(VIEW_CHANGE, said, intent.refs)], kind)
