"""When a member reads the log again for what it knows to be missing.

What is missing is looked for soon and then ever more rarely: a liar may have named events that
never were, and left a gap in its own chain that lasts for ever. More such inventions may hasten the
next look but never put it off, and looking takes at most a fifth of the time.
"""

from __future__ import annotations

import msgspec

REREAD_S = 0.2
"""First pause before the log is read again for events the machine wants; doubles."""

LONGEST_REREAD_S = 5.0

MAX_REREADS = 16
"""So often the log is read again for the same wanted events before that gets rare."""

LONGEST_GAP_S = 60.0
"""The same where only an author's chain has a gap."""

REST = 4
"""After reading again for some time, none is done for so many times that long."""

Gap = tuple[str, int]


class Reading(msgspec.Struct, frozen=True):
    """What to read now: all of the log, or only what is behind the floor; for gaps as well?"""

    everything: bool
    fills_gaps: bool


class Rereading:
    """The schedule of one membership.

    Attributes:
        at: loop time of the next look, in seconds; ``None`` while nothing is missing.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self._pause = REREAD_S
        self._count = 0
        self._rests_until = 0.0
        self._wanted: frozenset[bytes] = frozenset()
        self._gaps: frozenset[Gap] = frozenset()

    def look(self, now: float, wanted: frozenset[bytes], gaps: frozenset[Gap]) -> Reading | None:
        """What to read now, given what is missing; ``None`` if it is too early for that."""
        is_new = bool(wanted - self._wanted or gaps - self._gaps)
        self._wanted, self._gaps = wanted, gaps
        if not wanted and not gaps:
            self.at, self._pause = None, REREAD_S
            return None
        if is_new:
            self._pause, self._count = REREAD_S, 0
        soon = max(now + self._pause, self._rests_until)
        if self.at is None or (is_new and soon < self.at):
            self.at = soon
        if now < self.at:
            return None
        self._count += 1
        is_hopeful = wanted and self._count < MAX_REREADS
        fills_gaps = bool(gaps) and self._pause < LONGEST_GAP_S
        self._pause = min(2 * self._pause, LONGEST_REREAD_S if is_hopeful else LONGEST_GAP_S)
        self.at = now + self._pause
        return Reading(bool(wanted) or fills_gaps, fills_gaps)

    def took(self, now: float, seconds: float) -> None:
        """A reading has ended now that took so long."""
        self._rests_until = now + REST * seconds
        if self.at is not None:
            self.at = max(self.at, self._rests_until)
