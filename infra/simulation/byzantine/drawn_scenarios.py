"""Random scenarios of twins in groups too large to cover all of them (Bano et al. 2020, Twins).

A seed draws which replicas have two bodies, so which views traitors lead, what the second bodies
lie about, whether what is not heard is lost or late, when the network may change, and how it is
split then. Honest replicas restart now and then: they keep their own word and read the rest again,
in any order and maybe not all of it. Runs and promises are those of :mod:`.scenarios`.
"""

from __future__ import annotations

from random import Random
from typing import get_args

import msgspec

from .lockstep import Ensemble, Lies, Scope, State
from .scenarios import Broken, Ended, Runs, Turn, Turns
from .splits import Split, deafened, split_into

SMALLEST = 4
LARGEST = 13
MAX_SIDES = 3
WHOLE = 0.3
DEAF = 0.2
RESTARTS = 0.15
FORGETFUL = 0.5
HONEST_VIEWS = 2
"""Views beyond those that traitors may lead."""


class Played(msgspec.Struct, frozen=True):
    """What became of a drawn scenario.

    Attributes:
        scope: its bounds, as drawn.
        turns: how often the network was drawn.
        ended: how it ended, unless something broke before.
        broken: what did not hold.
    """

    scope: Scope
    turns: int
    ended: Ended | None
    broken: Broken | None


def drawn_scope(random: Random, replicas: int, slots: int = 2) -> Scope:
    """Bounds with the most traitors a group of ``replicas`` bears; half of them lead early."""
    traitors: set[int] = set()
    faulty = (replicas - 1) // 3
    while len(traitors) < faulty:
        early = random.random() < 0.5
        traitors.add(random.randrange(faulty + 1 if early else replicas))
    return Scope(
        replicas,
        tuple(sorted(traitors)),
        random.choice(get_args(Lies)),
        slots,
        views=faulty + HONEST_VIEWS,
        late=random.random() < 0.5,
    )


def drawn_split(random: Random, names: list[str]) -> Split:
    """A network that is whole, or in two or three sides, or unheard by some."""
    bodies = range(len(names))
    kind = random.random()
    if kind < WHOLE:
        return split_into((tuple(bodies),), names)
    if kind < WHOLE + DEAF:
        return deafened(random.sample(bodies, random.randint(1, len(names) // 2)), names)
    count = random.randint(2, MAX_SIDES)
    side = [random.randrange(count) for _ in bodies]
    blocks = (tuple(each for each in bodies if side[each] == block) for block in range(count))
    return split_into(tuple(block for block in blocks if block), names)


def restart(random: Random, ensemble: Ensemble, state: State, body: int) -> State:
    """A body starts again and reads what it knew in another order, half of the time not all."""
    known = list(ensemble.others(ensemble.places[state.places[body]]))
    random.shuffle(known)
    if random.random() < FORGETFUL:
        kept = random.random()
        known = [each for each in known if each in ensemble.requests or random.random() < kept]
    return ensemble.restart(state, body, tuple(known))


def play(seed: int, replicas: int) -> Played:
    """Draw a scenario for a group and run it until it ends or something breaks.

    Raises:
        ValueError: for fewer than ``SMALLEST`` or more than ``LARGEST`` replicas.
    """
    if not SMALLEST <= replicas <= LARGEST:
        raise ValueError(f"{replicas} replicas; scenarios are drawn for {SMALLEST} to {LARGEST}")
    random = Random(seed)
    scope = drawn_scope(random, replicas)
    turns: Turns = random.choice(get_args(Turns))
    runs = Runs(scope, turns)
    turn, ended = runs.start(), None
    told: list[str] = []
    while ended is None:
        split = drawn_split(random, runs.ensemble.names)
        restarted = [each for each in runs.ensemble.honest if random.random() < RESTARTS]
        for body in restarted:
            turn = Turn(restart(random, runs.ensemble, turn.state, body), turn.committing)
        told.append(", ".join((*(f"r{each} restarts" for each in restarted), split.name)))
        turn, ended = runs.next_turn(turn, split)
        what = runs.wrong(turn.state, ended)
        if what:
            return Played(scope, len(told), None, Broken(what, tuple(told)))
    return Played(scope, len(told), ended, None)
