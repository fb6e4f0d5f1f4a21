"""A diagram in Mermaid's ``sequenceDiagram`` language, for pages that render it.

An arrow leads from what is answered to whoever answers; the text names the author. What answers
nothing, or several at once, is a note. A dotted arrow with a cross has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator

from .model import Diagram, Row
from .template import printable
from .text import wrapped

COLUMNS = 36
"""Characters of a line; a renderer makes lanes as wide as what is said between them."""

_ESCAPED = {character: f"#{ord(character)};" for character in '#;%<>&{}"`\\'}


def render(diagram: Diagram) -> str:
    """The diagram as Mermaid text."""
    return "\n".join(_lines(diagram)) + "\n"


def escaped(text: str) -> str:
    """Text that neither ends a statement nor begins markup."""
    return "".join(_ESCAPED.get(character, character) for character in printable(text))


def _folded(text: str) -> str:
    """Escaped, in several lines."""
    return "<br/>".join(escaped(line) for line in wrapped(text, COLUMNS))


def _lines(diagram: Diagram) -> Iterator[str]:
    yield "sequenceDiagram"
    yield f"    accTitle: {escaped(diagram.title)}"
    yield f"    accDescr: {escaped(diagram.standing)}"
    for at, lane in enumerate(diagram.lanes):
        role = "" if lane.role == "participant" else f" ({lane.role})"
        keyword = "actor" if lane.role == "requester" else "participant"
        yield f"    {keyword} L{at} as {escaped(lane.name + role)}"
    last = len(diagram.lanes) - 1
    for row in diagram.rows:
        yield f"    {_statement(diagram, row, last)}"
    for note in diagram.notes:
        yield f"    Note over {_span(0, last)}: {escaped(note)}"


def _statement(diagram: Diagram, row: Row, last: int) -> str:
    remark = diagram.remark(row)
    said = f"{row.sequence} {diagram.sentence(row)}" + (f" [{remark}]" if remark else "")
    if row.lane is None:
        return f"Note over {_span(0, last)}: ✗ {escaped(said)}"
    if row.kind in ("deadline", "ending"):
        return f"Note over {_span(0, last)}: {escaped(said)}"
    told = _folded(said)
    if len(row.sources) == 1 and row.sources[0] != row.lane:
        arrow = "--x" if row.reason else "->>"
        return f"L{row.sources[0]}{arrow}L{row.lane}: {told}"
    mark = "✗ " if row.reason else "▲ " if row.kind == "evidence" else ""
    return f"Note over L{row.lane}: {mark}{told}"


def _span(first: int, last: int) -> str:
    return f"L{first}" if first == last else f"L{first},L{last}"
