"""One measured figure, and how a set of them is shown."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One measurement.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        ratio: the figure over its yardstick, if there is one.
        yardstick: what it is compared with.
        aim: the ratio or value aimed at, as text.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    yardstick: str = ""
    aim: str = ""


def table(title: str, figures: Sequence[Figure]) -> str:
    """Figures as aligned text."""
    rows = [
        (
            figure.name,
            f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:,.2f}",
            figure.unit,
            f"{figure.ratio:.2f} x {figure.yardstick}" if figure.ratio is not None else "",
            f"aim {figure.aim}" if figure.aim else "",
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [title]
    for name, value, unit, ratio, aim in rows:
        line = (
            f"  {name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}"
            f"  {ratio:<{widths[3]}}  {aim}"
        )
        lines.append(line.rstrip())
    return "\n".join(lines)
