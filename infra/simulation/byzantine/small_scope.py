"""Exhaustive exploration of Byzantine consensus within small bounds (Bano et al. 2020, Twins).

A scenario says, for every turn of a run, how the network is split (:mod:`.splits`) until the next
one. A turn is the beginning of a view, of the commits of a view, or of any step, as chosen. All
scenarios of a scope are covered: those that lead to the same state go on together, as a state is
what each body has folded, in order, and what is under way. How many scenarios that were is counted
on the way. At most ``disturbed`` turns of a scenario are split, if that is bounded.

In every state no two honest replicas may hold certificates for different digests of a slot, nor any
of them do what :class:`.lockstep.Ensemble` calls a fault. In every end no evidence may name an
honest replica; what proves nothing there has proven nothing before, as evidence only grows. And
with ``late`` scopes, where nothing is lost, whoever has not executed everything must have a timer
that runs: nobody is stuck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from ....protocols.byzantine import culprits_of
from ....protocols.byzantine.config import group_in
from ....protocols.byzantine.events import COMMIT
from .lockstep import Ensemble, Scope, State, context_of
from .splits import Split, splits

Turns = Literal["view", "commit", "step"]


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


class Ended(msgspec.Struct, frozen=True):
    """How scenarios ended: highest view of an honest replica, least and most slots executed."""

    view: int
    least: int
    most: int


class Broken(msgspec.Struct, frozen=True):
    """A promise that does not hold, and the scenario that shows it."""

    what: str
    scenario: tuple[str, ...]


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


class Turn(NamedTuple):
    """Where the network may change."""

    state: State
    committing: bool


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
        self.ensemble = Ensemble(scope)
        self.splits = splits(self.ensemble.names, bound.sides, deaf=bound.deaf)
        self._scope = scope
        self._bound = bound
        self._whole = self.splits[0]
        self._group = group_in(context_of(scope, ""))
        self._ends: Counter[Ended] = Counter()
        self._innocent: set[frozenset[int]] = set()
        self._states = 0

    def run(self) -> Explored:
        """Explore everything, or until something breaks."""
        budget = self._bound.disturbed or 0
        first = self.start()
        frontier = {first: _Reached([1] + [0] * budget, None)}
        broken = None
        while frontier and broken is None:
            self.ensemble.keep_machines({p for turn in frontier for p in turn.state.places})
            following: dict[Turn, _Reached] = {}
            for turn, reached in frontier.items():
                broken = self._follow(turn, reached, following)
                if broken is not None:
                    break
            frontier = following
        return Explored(
            self._ends.total(),
            self._states,
            len(self.ensemble.places),
            len(self.ensemble.events),
            dict(self._ends),
            broken,
        )

    def start(self) -> Turn:
        """The first turn: the first proposals are under way."""
        state = self.ensemble.step(self.ensemble.start(), self._whole)
        return Turn(state, False)

    def _follow(
        self, turn: Turn, reached: _Reached, following: dict[Turn, _Reached]
    ) -> Broken | None:
        """Try all splits at a turn."""
        for split in self.splits:
            ways = self._ways(reached.ways, split)
            if not any(ways):
                continue
            after, ended = self.next_turn(turn, split)
            known = following.get(after)
            trail = _Trail(reached.trail, split.name)
            if ended is None and known is not None:
                known.ways = [a + b for a, b in zip(known.ways, ways, strict=True)]
                continue
            self._states += 1
            what = self.wrong(after.state, ended)
            if what:
                return Broken(what, tuple(_told(trail)))
            if ended is not None:
                self._ends[ended] += sum(ways)
            else:
                following[after] = _Reached(ways, trail)
        return None

    def _ways(self, ways: list[int], split: Split) -> list[int]:
        """How many scenarios go on with this split, within the bound."""
        if self._bound.disturbed is None or split is self._whole:
            return ways
        return [0, *ways[:-1]]

    # Runs ---------------------------------------------------------------------------------------

    def next_turn(self, turn: Turn, split: Split) -> tuple[Turn, Ended | None]:
        """Where the network may change next, or the end."""
        state, committing = turn
        ensemble = self.ensemble
        while True:
            state = ensemble.step(state, split)
            if ensemble.is_quiet(state):
                ran_out = ensemble.waits(state)
                state, committing = ensemble.expire(state), False
                if ensemble.is_quiet(state):
                    return Turn(state, False), self._ended(state)
                if ran_out:
                    return Turn(state, False), None
            if self._bound.turns == "step":
                return Turn(state, False), None
            if self._bound.turns == "commit" and not committing and COMMIT in ensemble.kinds(state):
                return Turn(state, True), None

    def _ended(self, state: State) -> Ended:
        honest = [self.ensemble.places[state.places[each]] for each in self.ensemble.honest]
        done = [place.done for place in honest]
        return Ended(max(place.view for place in honest), min(done), max(done))

    # Promises -----------------------------------------------------------------------------------

    def wrong(self, state: State, ended: Ended | None) -> str:
        """What does not hold in a state; empty if all does."""
        ensemble = self.ensemble
        decided: dict[int, bytes] = {}
        for each in ensemble.honest:
            place = ensemble.places[state.places[each]]
            if place.fault:
                return f"{ensemble.names[each]} {place.fault}"
            for slot, digest in place.slots:
                if decided.setdefault(slot, digest) != digest:
                    return f"two honest replicas decide slot {slot} differently"
        return self._wrong_at_the_end(state) if ended is not None else ""

    def _wrong_at_the_end(self, state: State) -> str:
        ensemble = self.ensemble
        signed = ensemble.signed(state)
        key = frozenset(number for place in state.places for number in ensemble.places[place].sent)
        if key not in self._innocent:
            traitors = {ensemble.names[each] for each in self._scope.traitors}
            for accused, proof in culprits_of(signed, self._group).items():
                if accused not in traitors:
                    return f"{accused} is honest and accused under {proof.rule}"
            self._innocent.add(key)
        for each in ensemble.honest if self._scope.late else ():
            place = ensemble.places[state.places[each]]
            if place.done < self._scope.slots and not place.moves:
                return f"{ensemble.names[each]} is stuck: it waits and no timer of its runs"
        return ""


def _told(trail: _Trail | None) -> Iterator[str]:
    if trail is not None:
        yield from _told(trail.before)
        yield trail.split


def explore(scope: Scope, bound: Bound) -> Explored:
    """Cover all scenarios of a scope."""
    return Exploration(scope, bound).run()
