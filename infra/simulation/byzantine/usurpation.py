"""Usurpation: dishonest replicas bring a view of their own about, and start it with a lie.

A wrong NEW-VIEW only matters where the view changes it stands on hold something. So the plot waits
until slots have executed that no checkpoint covers yet, then makes view after view fail: a view led
by an accomplice for want of proposals, one led by somebody honest because its primary is held up.
Everything else is the truth, or nobody would move along.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from ....core.machine import Append, LogEvent
from ....protocols.byzantine.digests import null_digest
from ....protocols.byzantine.events import (
    COMMIT,
    NEW_VIEW,
    PRE_PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CommitSent,
    NewViewSent,
    RequestSubmitted,
    SlotProposal,
)
from .puppet import DishonestReplica, Strings

SHARE = 0.4
"""Share of the seeds in which there is a plot."""

_FIRST_NUMBER = 1_000


class Usurpation:
    """The part of one replica in the plot; all dishonest ones of a run are in it, or none.

    It draws from generators of its own: a seed without a plot stays as it is.

    Args:
        replica: whose part.

    Attributes:
        is_on: whether there is a plot, and nobody has brought it to its end here.
    """

    def __init__(self, replica: DishonestReplica) -> None:
        seed = replica.world.seed
        self.is_on = random.Random(f"{seed}/usurpation").random() < SHARE
        self._rng = random.Random(f"{seed}/usurpation/{replica.id}")
        self._replica = replica
        self._failing: set[int] = set()
        self._asked = 0

    def concerns(self, strings: Strings) -> bool:
        """Whether there is a plot here: a service, because a single decision ends the matter."""
        return self.is_on and strings.machine.config.mode == "service"

    def noticed(self, strings: Strings, event: LogEvent) -> None:
        """Make the view fail that others work in, or are about to enter."""
        machine = strings.machine
        if not _is_ripe(strings):
            return
        if event.type == VIEW_CHANGE and event.content.new_view > machine.views.view:
            self._fail(strings, event.content.new_view)
        elif machine.views.is_active and machine.views.view not in self._failing:
            self._fail(strings, machine.views.view)
            self._ask(strings)

    def _fail(self, strings: Strings, view: int) -> None:
        if view in self._failing:
            return
        self._failing.add(view)
        machine = strings.machine
        ahead = max(0, view - machine.views.view)
        timeout_s = (machine._timeout_ms() << min(ahead, 4)) / 1000
        primary = machine.group.primary(view)
        self._replica.hold_up(primary, (1.2 * timeout_s, 2.0 * timeout_s), ("cut",))

    def _ask(self, strings: Strings) -> None:
        """Nobody leaves a view in which there is nothing to do."""
        self._asked += 1
        body = RequestSubmitted(_FIRST_NUMBER + self._asked, "hurry")
        strings.fold(strings.sign((REQUEST, body, ()), lie="so that timers run"))

    def say(self, strings: Strings, append: Append) -> None:
        """The truth, but no proposals while the plot goes on, and the lie at its end."""
        body = append.body
        if isinstance(body, NewViewSent) and body.slots:
            self.is_on = False
            self._usurp(strings, append, body)
        elif append.type == PRE_PREPARE and _is_ripe(strings):
            strings.pretend(append)
        else:
            strings.speak(append)

    def _usurp(self, strings: Strings, append: Append, body: NewViewSent) -> None:
        """Something else for a slot that has executed, and a vote for it."""
        slots = tuple(self._wrong(strings, body))
        lie = msgspec.structs.replace(body, slots=slots)
        strings.sign((NEW_VIEW, lie, append.refs), lie="executed slots are replaced")
        for slot in set(slots) - set(body.slots):
            vote = CommitSent(body.new_view, slot.sequence, slot.batch_digest)
            strings.sign((COMMIT, vote, ()), lie="a vote for that")
        strings.pretend(append, replaced=True)

    def _wrong(self, strings: Strings, body: NewViewSent) -> Iterator[SlotProposal]:
        chosen = self._rng.choice(body.slots).sequence
        for slot in body.slots:
            null = null_digest(strings.coordination.id, slot.sequence)
            yield SlotProposal(slot.sequence, null) if slot.sequence == chosen else slot


def _is_ripe(strings: Strings) -> bool:
    machine = strings.machine
    return machine.executor.executed > machine.checkpoints.stable
