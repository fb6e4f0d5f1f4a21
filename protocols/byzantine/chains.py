"""Which of an author's numbered events have been seen, without a gap from the first (BYZ-22b)."""

from __future__ import annotations


class AuthorChain:
    """How much of an author's numbered events has been seen."""

    __slots__ = ("_ahead", "complete")

    def __init__(self) -> None:
        self.complete = 0
        self._ahead: set[int] = set()

    def add(self, number: int) -> None:
        """Event ``number`` was seen; ``complete`` counts those without a gap before."""
        if number == self.complete and not self._ahead:
            self.complete += 1
        elif number >= self.complete:
            self._ahead.add(number)
            while self.complete in self._ahead:
                self._ahead.remove(self.complete)
                self.complete += 1
