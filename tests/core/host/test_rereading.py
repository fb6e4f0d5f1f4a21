"""When a member reads the log again: soon, ever more rarely, and never because a liar says so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from mabeam.core.host.rereading import LONGEST_REREAD_S, REREAD_S, REST, Gap, Rereading

STEP_S = 0.05
NOTHING: frozenset[Gap] = frozenset()
REAL = b"an event that the feed left out"


def _looks(
    wanted_at: Callable[[float], frozenset[bytes]],
    seconds: float,
    cost_s: float = 0.0,
    gaps: frozenset[Gap] = NOTHING,
) -> list[float]:
    """Times of the looks, given what is wanted when and how long a look takes."""
    schedule, looks, now = Rereading(), [], 0.0
    while now < seconds:
        if schedule.look(now, wanted_at(now), gaps) is not None:
            looks.append(now)
            now += cost_s
            schedule.took(now, cost_s)
        now = round(now + STEP_S, 6)
    return looks


def _lies_every(pause_s: float) -> Callable[[float], frozenset[bytes]]:
    """Something is missing, and a liar invents more all the time."""
    return lambda now: frozenset({REAL, *(b"%d" % i for i in range(int(now / pause_s) + 1))})


def test_nothing_is_read_while_nothing_is_missing() -> None:
    assert _looks(lambda now: frozenset(), 100) == []


def test_what_is_missing_is_looked_for_soon_and_then_more_rarely() -> None:
    looks = _looks(lambda now: frozenset({REAL}), 60)
    assert abs(looks[0] - REREAD_S) < 2 * STEP_S
    pauses = [after - before for before, after in pairwise(looks)]
    assert pauses == pytest.approx(sorted(pauses))
    assert max(pauses) <= LONGEST_REREAD_S + 2 * STEP_S


def test_a_gap_alone_gets_rare() -> None:
    schedule = Rereading()
    gaps = frozenset({("liar", 3)})
    readings = [schedule.look(0.1 * step, frozenset(), gaps) for step in range(3_000)]
    read = [each for each in readings if each is not None]
    assert 5 < len(read) < 15
    assert read[0].everything
    assert not read[-1].everything


def test_inventions_do_not_put_off_a_look() -> None:
    for pause_s in (0.05, 0.1, 0.15, 0.3, 1.0):
        looks = _looks(_lies_every(pause_s), 10)
        assert looks, pause_s
        assert looks[0] <= REREAD_S + 2 * STEP_S


def test_looking_takes_at_most_a_fifth_of_the_time() -> None:
    for cost_s in (0.1, 0.5, 2.0):
        looks = _looks(_lies_every(0.1), 60, cost_s)
        assert len(looks) * cost_s <= 60 / (REST + 1) + cost_s
        assert len(looks) > 2


def test_what_is_found_at_last_starts_the_pauses_anew() -> None:
    schedule = Rereading()
    for step in range(600):
        schedule.look(0.1 * step, frozenset({REAL}), NOTHING)
    assert schedule.look(60.0, frozenset(), NOTHING) is None
    assert schedule.at is None
    schedule.look(61.0, frozenset({b"another"}), NOTHING)
    assert schedule.at == 61.0 + REREAD_S
