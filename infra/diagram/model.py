"""What a sequence diagram shows, before anybody decides how it looks.

Every event of the log is one row, in the order of the log. A row stands on the lane of its author;
its arrow comes from the lanes of those whose events it answers. The renderers add no facts.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["requester", "coordinator", "participant", "other"]
Kind = Literal["event", "deadline", "evidence", "takeover", "ending"]


class Lane(msgspec.Struct, frozen=True):
    """A vertical line.

    Attributes:
        name: id of whom it stands for, or what several have in common.
        role: what they are in this coordination; ``other`` takes no part in it.
        members: ids drawn on this lane when it stands for several, sorted.
    """

    name: str
    role: Role
    members: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True):
    """One event, or several equal ones of a lane that stands for several authors.

    Attributes:
        sequence: position in the log, of the first if it stands for several.
        offset_ms: time from the first row by storage times.
        lane: index of the author's lane, ``None`` if nobody is known to have signed it.
        sources: indexes of the lanes of the events it answers, sorted, without its own.
        author: id of the author, or how many they are; a question mark follows an id that
            admission could not prove.
        words: what the event says.
        kind: how it stands out.
        type: type of the event, empty if it is unreadable.
        reason: why it has no effect, empty if it counts.
        phase: the phase it led to, empty if that did not change.
        count: events it stands for.
    """

    sequence: int
    offset_ms: int
    lane: int | None
    sources: tuple[int, ...]
    author: str
    words: str
    kind: Kind = "event"
    type: str = ""
    reason: str = ""
    phase: str = ""
    count: int = 1


class Diagram(msgspec.Struct, frozen=True):
    """A coordination.

    Attributes:
        coordination, protocol: which one.
        lanes: requester, coordinators, participants, others.
        rows: what happened, in log order.
        standing: how it stands after the last row, in words.
    """

    coordination: str
    protocol: str
    lanes: tuple[Lane, ...]
    rows: tuple[Row, ...]
    standing: str

    @property
    def title(self) -> str:
        """One line that says what is drawn."""
        return f"{self.coordination}: {self.protocol}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: who shares a lane, and how it stands."""
        shared = tuple(
            f"{lane.name}: {', '.join(lane.members)}" for lane in self.lanes if lane.members
        )
        return (*shared, self.standing)

    def sentence(self, row: Row) -> str:
        """Who says what."""
        return f"{row.author or 'somebody'} {row.words}"

    def remark(self, row: Row) -> str:
        """What came of it; empty if it simply counted."""
        parts = []
        if row.reason:
            parts.append(f"no effect: {row.reason}")
        if row.phase and row.kind != "ending":
            parts.append(f"→ {row.phase}")
        return ", ".join(parts)
