"""Runs of a scope from turn to turn, and what must hold in them (Bano et al. 2020, Twins).

A scenario says, for every turn of a run, how the network is split (:mod:`.splits`) until the next
one. A turn is the beginning of a view, of the commits of a view, or of any step, as chosen.

In every state no two honest replicas may hold certificates for different digests of a slot, nor any
of them do what :class:`.lockstep.Ensemble` calls a fault. In every end no evidence may name an
honest replica; what proves nothing there has proven nothing before, as evidence only grows. And
with ``late`` scopes, where nothing is lost, whoever has not executed everything must have a timer
that runs: nobody is stuck.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from ....protocols.byzantine import culprits_of
from ....protocols.byzantine.config import group_in
from ....protocols.byzantine.events import COMMIT
from .lockstep import Ensemble, Scope, State, context_of
from .splits import Split, split_into

Turns = Literal["view", "commit", "step"]


class Ended(msgspec.Struct, frozen=True):
    """How scenarios ended: highest view of an honest replica, least and most slots executed."""

    view: int
    least: int
    most: int


class Broken(msgspec.Struct, frozen=True):
    """A promise that does not hold, and the scenario that shows it: its splits, turn by turn."""

    what: str
    scenario: tuple[str, ...]


class Turn(NamedTuple):
    """Where the network may change."""

    state: State
    committing: bool


class Runs:
    """All runs of a scope, one turn at a time.

    Attributes:
        scope: the bounds.
        ensemble: the bodies that run.
        whole: the network without any split.
    """

    def __init__(self, scope: Scope, turns: Turns) -> None:
        self.scope = scope
        self.ensemble = Ensemble(scope)
        self.whole = split_into((tuple(range(len(self.ensemble.names))),), self.ensemble.names)
        self._turns = turns
        self._group = group_in(context_of(scope, ""))
        self._innocent: set[frozenset[int]] = set()

    def start(self) -> Turn:
        """The first turn: the first proposals are under way."""
        return Turn(self.ensemble.step(self.ensemble.start(), self.whole), False)

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
            if self._turns == "step":
                return Turn(state, False), None
            if self._turns == "commit" and not committing and COMMIT in ensemble.kinds(state):
                return Turn(state, True), None

    def _ended(self, state: State) -> Ended:
        honest = [self.ensemble.places[state.places[each]] for each in self.ensemble.honest]
        done = [place.done for place in honest]
        return Ended(max(place.view for place in honest), min(done), max(done))

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
            traitors = {ensemble.names[each] for each in self.scope.traitors}
            for accused, proof in culprits_of(signed, self._group).items():
                if accused not in traitors:
                    return f"{accused} is honest and accused under {proof.rule}"
            self._innocent.add(key)
        for each in ensemble.honest if self.scope.late else ():
            place = ensemble.places[state.places[each]]
            if place.done < self.scope.slots and not place.moves:
                return f"{ensemble.names[each]} is stuck: it waits and no timer of its runs"
        return ""
