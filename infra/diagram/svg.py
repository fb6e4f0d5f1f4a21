"""A diagram as one self-contained SVG: no scripts, no fonts, no links; light and dark by itself.

From left to right: position in the log and time, the lanes, the words. Text is monospaced, so that
its width is known without a browser: ``CHARACTER`` pixels a character at most.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from html import escape

from .model import Diagram, Lane, Row
from .text import LEGEND, wrapped

CHARACTER = 7.3
"""Width of a character at 12 px in any common monospaced font, rounded up."""
LINE = 16
ROW = 26
MARGIN = 16
WORDS = 72
"""Characters of a line of words."""
NAME = 15
"""Characters of a line of a lane's name at the widest pitch."""

STYLE = """
.page{fill:#fff}
text{font:12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f2328}
.title{font-weight:bold;font-size:14px}.dim{fill:#59636e}.lane,.way{stroke:#8c959f;fill:none}
.lane{stroke-dasharray:1 3}.way{stroke:#0969da;stroke-width:1.5}.head{fill:#0969da}
.event{fill:#0969da}.source{fill:#fff;stroke:#0969da;stroke-width:1.5}
.rejected{stroke:#cf222e;stroke-width:2;fill:none}.struck{text-decoration:line-through;fill:#59636e}
.reason{fill:#cf222e}.deadline{stroke:#9a6700;stroke-dasharray:6 4}.evidence{fill:#cf222e}
.takeover{fill:#8250df}.ending{stroke:#1a7f37;stroke-width:2}.strong{font-weight:bold}
@media (prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}.dim,.struck{fill:#9198a1}
.way{stroke:#4493f8}.head,.event{fill:#4493f8}.source{fill:#0d1117;stroke:#4493f8}
.rejected{stroke:#f85149}.reason,.evidence{fill:#f85149}.deadline{stroke:#d29922}
.takeover{fill:#ab7df8}.ending{stroke:#3fb950}}
""".strip()


def render(diagram: Diagram) -> str:
    """The diagram as an SVG document."""
    return "\n".join(_Sheet(diagram).lines()) + "\n"


class _Sheet:
    """One drawing: where its columns stand, in pixels."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        rows, lanes = diagram.rows, diagram.lanes
        self.digits = max((len(str(row.sequence)) for row in rows), default=1)
        self.clock = max((len(_time(row)) for row in rows), default=1)
        self.pitch = max(44, min(120, 960 // max(1, len(lanes))))
        self.name = max(4, int(self.pitch / CHARACTER) - 1)
        self.left = MARGIN + (self.digits + self.clock + 4) * CHARACTER + self.pitch / 2
        self.words = self.left + (len(lanes) - 0.5) * self.pitch + MARGIN
        self.width = self.words + WORDS * CHARACTER + MARGIN
        self.names = [_name(lane, self.name) for lane in lanes]
        self.top = 3 * MARGIN + LINE * (1 + max((len(each) for each in self.names), default=0))
        self.tops: list[float] = []
        below: float = self.top + ROW
        for row in rows:
            self.tops.append(below)
            below += ROW + LINE * (len(self._said(row)) - 1)
        self.bottom = below
        across = int((self.width - 2 * MARGIN) / CHARACTER)
        self.notes = [line for note in (*diagram.notes, *LEGEND) for line in wrapped(note, across)]
        self.height = self.bottom + LINE * (len(self.notes) + 1) + MARGIN

    def lines(self) -> Iterator[str]:
        """The elements."""
        size = f"{self.width:.0f} {self.height:.0f}"
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
            f'width="{self.width:.0f}" height="{self.height:.0f}" role="img" '
            'aria-labelledby="title desc">'
        )
        title = self.diagram.title
        events = sum(row.count for row in self.diagram.rows)
        yield f'<title id="title">{_clean(title)}</title>'
        yield (
            f'<desc id="desc">Sequence diagram of {events} events on {len(self.diagram.lanes)} '
            f"lanes; {_clean(self.diagram.standing)}</desc>"
        )
        yield f"<style>{STYLE}</style>"
        yield '<rect class="page" width="100%" height="100%"/>'
        yield _text(MARGIN, MARGIN + LINE, title, "title")
        yield from self._header()
        for row, top in zip(self.diagram.rows, self.tops, strict=True):
            yield from self._row(row, top)
        for at, note in enumerate(self.notes, 1):
            yield _text(MARGIN, self.bottom + LINE * at, note, "dim")
        yield "</svg>"

    def _x(self, lane: int) -> float:
        return self.left + lane * self.pitch

    def _header(self) -> Iterator[str]:
        yield _text(MARGIN, self.top - 4, "log", "dim")
        for at, lines in enumerate(self.names):
            x = self._x(at)
            start = self.top - 4 - LINE * (len(lines) - 1)
            for number, line in enumerate(lines):
                css = "dim" if line.startswith("(") else ""
                yield _text(x, start + LINE * number, line, css, "middle")
            yield _line("lane", x, self.top, x, self.bottom - ROW / 2)

    def _said(self, row: Row) -> list[str]:
        return wrapped(self.diagram.sentence(row), WORDS) + (
            wrapped(f"  [{self.diagram.remark(row)}]", WORDS) if self.diagram.remark(row) else []
        )

    def _row(self, row: Row, y: float) -> Iterator[str]:
        sentence, remark = self.diagram.sentence(row), self.diagram.remark(row)
        told = f"{row.sequence}: {sentence}" + (f" ({remark})" if remark else "")
        yield f"<g><title>{_clean(told)}</title>"
        yield from self._drawn(row, y)
        number = f"{row.sequence:>{self.digits}}  {_time(row):>{self.clock}}"
        yield _text(MARGIN, y + 4, number, "dim")
        said = self._said(row)
        kept = len(wrapped(sentence, WORDS))
        spoken = "struck" if row.reason else "strong" if row.kind == "ending" else ""
        for at, line in enumerate(said):
            css = spoken if at < kept else "reason" if row.reason else "dim"
            indent = len(line) - len(line.lstrip())
            yield _text(self.words + indent * CHARACTER, y + 4 + LINE * at, line.lstrip(), css)
        yield "</g>"

    def _drawn(self, row: Row, y: float) -> Iterator[str]:
        first, last = self._x(0) - self.pitch / 3, self._x(len(self.names) - 1) + self.pitch / 3
        if row.kind == "deadline":
            yield _line("deadline", first, y, last, y)
        elif row.kind == "ending":
            yield _line("ending", first, y - 2, last, y - 2)
            yield _line("ending", first, y + 2, last, y + 2)
        if row.lane is None:
            yield _cross(first, y)
            return
        x = self._x(row.lane)
        for source in row.sources:
            from_x = self._x(source)
            side = -1 if from_x < x else 1
            yield _line("way", from_x, y, x + side * 12, y)
            tip, tail = x + side * 6, x + side * 14
            yield f'<path class="head" d="M{tip:.1f} {y:.1f}L{tail:.1f} {y - 4:.1f}v8z"/>'
        for source in row.sources if len(row.sources) > 1 else ():
            yield f'<circle class="source" cx="{self._x(source):.1f}" cy="{y:.1f}" r="4"/>'
        yield _mark(row, x, y)


def _mark(row: Row, x: float, y: float) -> str:
    if row.reason:
        return _cross(x, y)
    if row.kind == "evidence":
        return f'<path class="evidence" d="M{x - 6:.1f} {y + 5:.1f}h12l-6-11z"/>'
    if row.kind == "takeover":
        return f'<path class="takeover" d="M{x - 6:.1f} {y:.1f}l6-6l6 6l-6 6z"/>'
    return f'<circle class="event" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _cross(x: float, y: float) -> str:
    arms = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0-10l-10 10"
    return f'<path class="rejected" d="{arms}"/>'


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{css}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "") -> str:
    attributes = f' class="{css}"' if css else ""
    attributes += f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes} xml:space="preserve">{_clean(text)}</text>'


def _clean(text: str) -> str:
    """Escaped, without what XML 1.0 cannot hold."""
    return escape("".join(c if c.isprintable() else " " for c in text))


def _name(lane: Lane, width: int) -> list[str]:
    lines = textwrap.wrap(lane.name, width)
    return lines if lane.role == "participant" else [*lines, f"({lane.role})"[:width]]


def _time(row: Row) -> str:
    return f"+{row.offset_ms / 1000:.3f}s"
