"""Exhaustive exploration of Byzantine consensus within small bounds (Bano et al. 2020, Twins).

All scenarios of a scope (:mod:`.scenarios`) are covered: those that lead to the same state go on
together, as a state is what each body has folded, in order, and what is under way. How many
scenarios that were is counted on the way. At most ``disturbed`` turns of a scenario are split, if
that is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from .lockstep import Scope
from .scenarios import Broken, Ended, Runs, Turn, Turns
from .splits import Split, splits


class Bound(msgspec.Struct, frozen=True):
    """Which scenarios of a scope there are.

    Attributes:
        turns: when the network may change: with every view, also with its commits, or every step.
        sides: at most so many sides.
        deaf: whether sets of readers may be deaf, too.
        disturbed: most turns with a network that is not whole; any number if unset.
    """

    turns: Turns = "commit"
    sides: int = 2
    deaf: bool = False
    disturbed: int | None = None


class Explored(msgspec.Struct, frozen=True):
    """What an exploration came to.

    Attributes:
        scenarios: how many there are; all of them were covered, unless something broke.
        states: different ones at turns and ends.
        places: different states of single bodies.
        events: different signed events.
        ends: scenarios by how they ended.
        broken: what did not hold, at the first state where anything did not.
    """

    scenarios: int
    states: int
    places: int
    events: int
    ends: dict[Ended, int]
    broken: Broken | None


class _Trail(NamedTuple):
    before: _Trail | None
    split: str


class _Reached:
    """How a turn is reached.

    Attributes:
        ways: number of scenarios, by how many of their turns were disturbed.
        trail: one of them.
    """

    __slots__ = ("trail", "ways")

    def __init__(self, ways: list[int], trail: _Trail | None) -> None:
        self.ways = ways
        self.trail = trail


class Exploration:
    """Covers all scenarios of a scope, turn by turn."""

    def __init__(self, scope: Scope, bound: Bound) -> None:
        self._runs = Runs(scope, bound.turns)
        self._splits = splits(self._runs.ensemble.names, bound.sides, deaf=bound.deaf)
        self._bound = bound
        self._ends: Counter[Ended] = Counter()
        self._states = 0

    def run(self) -> Explored:
        """Explore everything, or until something breaks."""
        budget = self._bound.disturbed or 0
        first = self._runs.start()
        frontier = {first: _Reached([1] + [0] * budget, None)}
        broken = None
        while frontier and broken is None:
            self._runs.ensemble.keep_machines({p for turn in frontier for p in turn.state.places})
            following: dict[Turn, _Reached] = {}
            for turn, reached in frontier.items():
                broken = self._follow(turn, reached, following)
                if broken is not None:
                    break
            frontier = following
        return Explored(
            self._ends.total(),
            self._states,
            len(self._runs.ensemble.places),
            len(self._runs.ensemble.events),
            dict(self._ends),
            broken,
        )

    def _follow(
        self, turn: Turn, reached: _Reached, following: dict[Turn, _Reached]
    ) -> Broken | None:
        """Try all splits at a turn."""
        for split in self._splits:
            ways = self._ways(reached.ways, split)
            if not any(ways):
                continue
            after, ended = self._runs.next_turn(turn, split)
            known = following.get(after)
            trail = _Trail(reached.trail, split.name)
            if ended is None and known is not None:
                known.ways = [a + b for a, b in zip(known.ways, ways, strict=True)]
                continue
            self._states += 1
            what = self._runs.wrong(after.state, ended)
            if what:
                return Broken(what, tuple(_told(trail)))
            if ended is not None:
                self._ends[ended] += sum(ways)
            else:
                following[after] = _Reached(ways, trail)
        return None

    def _ways(self, ways: list[int], split: Split) -> list[int]:
        """How many scenarios go on with this split, within the bound."""
        if self._bound.disturbed is None or split == self._runs.whole:
            return ways
        return [0, *ways[:-1]]


def _told(trail: _Trail | None) -> Iterator[str]:
    if trail is not None:
        yield from _told(trail.before)
        yield trail.split


def explore(scope: Scope, bound: Bound) -> Explored:
    """Cover all scenarios of a scope."""
    return Exploration(scope, bound).run()
