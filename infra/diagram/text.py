"""A diagram for a terminal: the log on the left, then the lanes, then the words.

Names stand above their lanes like stairs, so none is abbreviated. Lanes move together when there
are many, and the words wrap into what is left.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from .model import Diagram, Kind, Lane, Row

MIN_WIDTH, MAX_WIDTH = 60, 200
MIN_WORDS = 24
LEGEND = (
    "● event  ─▶ answers an event of that lane  ○ one of several answered  ✗ without effect",
    "┄ deadline  ▲ evidence  ◆ takeover  ═ end  name? authorship not proven",
)
_MARKS: Mapping[Kind, str] = {"evidence": "▲", "takeover": "◆"}
_FILLS: Mapping[Kind, str] = {"deadline": "┄", "ending": "═"}


def render(diagram: Diagram, width: int = 100) -> str:
    """The diagram as text.

    Args:
        diagram: what to show.
        width: columns, from ``MIN_WIDTH`` to ``MAX_WIDTH``; others are brought within.
    """
    return "\n".join(line.rstrip() for line in _Page(diagram, width).lines()) + "\n"


class _Page:
    """One drawing: where its columns stand."""

    def __init__(self, diagram: Diagram, width: int) -> None:
        self.diagram = diagram
        self.width = min(max(width, MIN_WIDTH), MAX_WIDTH)
        rows = diagram.rows
        self.digits = max(3, len(str(max((row.sequence for row in rows), default=0))))
        self.clock = max((len(_time(row)) for row in rows), default=0)
        self.gutter = self.digits + 2 + self.clock + 2
        self.pitch = self._pitch()
        self.lanes_width = self.pitch * len(diagram.lanes)
        self.words_width = self.width - self.gutter - self.lanes_width - 1

    def _pitch(self) -> int:
        """Columns from one lane to the next: as wide as leaves room for the words."""
        lanes = max(1, len(self.diagram.lanes))
        room = self.width - self.gutter - MIN_WORDS - self.width // 4
        return min(5, max(2, room // lanes))

    def lines(self) -> Iterator[str]:
        """All lines."""
        yield from self._wrapped(self.diagram.title)
        yield ""
        yield from self._header()
        for row in self.diagram.rows:
            yield from self._row(row)
        yield ""
        for note in (*self.diagram.notes, *LEGEND):
            yield from self._wrapped(note)

    def _wrapped(self, text: str) -> Iterator[str]:
        yield from wrapped(text, self.width)

    def _header(self) -> Iterator[str]:
        lanes = self.diagram.lanes
        for at, lane in enumerate(lanes):
            before = "".join("│".ljust(self.pitch) for _ in lanes[:at])
            yield f"{self._heads(at)}{before}{_title(lane)}"
        yield " " * self.gutter + self._idle()

    def _heads(self, at: int) -> str:
        """The heads of sequence and time stand beside the last name."""
        is_last = at == len(self.diagram.lanes) - 1
        head = f"{'log':>{self.digits}}  {'time':>{self.clock}}" if is_last else ""
        return head.ljust(self.gutter)

    def _idle(self) -> str:
        return "".join("│".ljust(self.pitch) for _ in self.diagram.lanes)

    def _row(self, row: Row) -> Iterator[str]:
        said = self.diagram.sentence(row)
        remark = self.diagram.remark(row)
        text = f"{said}  [{remark}]" if remark else said
        first, *more = wrapped(text, self.words_width)
        head = f"{row.sequence:>{self.digits}}  {_time(row):>{self.clock}}  "
        yield f"{head}{self._drawn(row)} {first}"
        for line in more:
            yield f"{' ' * self.gutter}{self._idle()} {line}"

    def _drawn(self, row: Row) -> str:
        """The lanes of one row."""
        fill = _FILLS.get(row.kind)
        cells = list(self._idle())
        if fill is not None:
            cells = [cell if cell == "│" else fill for cell in cells]
            cells[-1] = fill
        if row.lane is None:
            cells[0] = "✗"
            return "".join(cells)
        self._join(cells, row)
        mark = "✗" if row.reason else _MARKS.get(row.kind, "●")
        cells[row.lane * self.pitch] = mark
        return "".join(cells)

    def _join(self, cells: list[str], row: Row) -> None:
        """The line from what is answered to the author."""
        assert row.lane is not None
        many = len(row.sources) > 1
        here = row.lane * self.pitch
        for source in row.sources:
            there = source * self.pitch
            low, high = sorted((here, there))
            for column in range(low + 1, high):
                cells[column] = "┼" if cells[column] in "│┼" else "─"
            if there < here:
                cells[there] = "○" if many else "├"
                cells[here - 1] = "▶"
            else:
                cells[there] = "○" if many else "┤"
                cells[here + 1] = "◀"
        for source in row.sources if many else ():
            cells[source * self.pitch] = "○"


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns, at least one; all but the first are indented."""
    return textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _title(lane: Lane) -> str:
    return lane.name if lane.role == "participant" else f"{lane.name} ({lane.role})"


def _time(row: Row) -> str:
    """Seconds since the first row."""
    return f"+{row.offset_ms / 1000:.3f}s"
