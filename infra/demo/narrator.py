"""What the demonstration says while it runs: a live bar for people, plain lines for a file."""

from __future__ import annotations

import time

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_STEPS = 4
"""Lines of progress where no bar can be drawn."""

PLAIN_WIDTH = 120


class Narrator:
    """Tells on standard output, or on standard error when a JSON document is to follow."""

    def __init__(self, *, json: bool) -> None:
        self._console = Console(stderr=json, highlight=False)
        if not self._console.is_terminal:
            self._console.width = PLAIN_WIDTH
        self._quiet = json
        self._started = time.monotonic()
        self._progress: Progress | None = None
        self._total = self._shown = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demonstration began."""
        return time.monotonic() - self._started

    def say(self, text: str, *, style: str = "") -> None:
        """One timed line."""
        line = f"[{self.elapsed_s:5.1f} s] {text}"
        self._console.print(line, style=style, markup=False, soft_wrap=True)

    def alarm(self, text: str) -> None:
        """One timed line about a crash that the demonstration causes."""
        self.say(text, style="bold red")

    def heading(self, text: str) -> None:
        """Begins a part of the report."""
        self.show("")
        self.show(text, style="bold")

    def show(self, what: RenderableType, *, style: str = "") -> None:
        """A part of the report, for people only."""
        if not self._quiet:
            self._console.print(what, style=style, markup=False, soft_wrap=isinstance(what, str))

    def begin(self, what: str, total: int) -> None:
        """Start a bar of ``total`` steps; other lines appear above it."""
        self._total, self._shown = total, 0
        if self._console.is_terminal:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self._console)
            self._progress.add_task(what, total=total)
            self._progress.start()

    def advance(self, done: int) -> None:
        """Move the bar to ``done``."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done)
        elif done * PLAIN_STEPS // self._total > self._shown:
            self._shown = done * PLAIN_STEPS // self._total
            self.say(f"{done} of {self._total} decided")

    def end(self) -> None:
        """Take the bar away, if there is one."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
