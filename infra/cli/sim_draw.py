"""``mabeam sim draw``: random scenarios of twins in groups too large to cover all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from ..simulation.byzantine.drawn_scenarios import LARGEST, SMALLEST, Played, play
from ..simulation.byzantine.lockstep import Scope
from .invocation import as_json, print_json


@click.command("draw")
@click.option(
    "--replicas",
    type=click.IntRange(SMALLEST, LARGEST),
    default=7,
    show_default=True,
    help="As many of them as the group bears have two bodies.",
)
@click.option("--runs", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first.")
@as_json
def draw_command(replicas: int, runs: int, seed: int, as_json: bool) -> int:
    """Draw scenarios of Byzantine replicas with twins, and run them in lock-step.

    A seed draws which replicas have two bodies, what the second ones lie about, and who hears whom
    at every turn. Shows how the scenarios ended; ends with 1 if a promise does not hold in any, and
    shows those.
    """
    started = time.perf_counter()
    reached: Counter[str] = Counter()
    views: Counter[int] = Counter()
    broken: list[tuple[int, Played]] = []
    for number in range(seed, seed + runs):
        played = play(number, replicas)
        if played.ended is None:
            broken.append((number, played))
            continue
        views[played.ended.view] += 1
        least, most = played.ended.least, played.ended.most
        everywhere = least == played.scope.slots
        reached["everywhere" if everywhere else "somewhere" if most else "nowhere"] += 1
    rate = round(runs / (time.perf_counter() - started), 1)
    if as_json:
        shown = [_row(number, played) for number, played in broken]
        ends = {"reached": dict(reached), "views": dict(sorted(views.items()))}
        print_json({"runs": runs, "per_second": rate, **ends, "broken": shown})
        return 1 if broken else 0
    click.echo(f"{runs:,} scenarios of {replicas} replicas, {rate} per second")
    executed = ", ".join(f"{where} in {count}" for where, count in reached.most_common())
    click.echo(f"both slots executed {executed or 'in none'}")
    highest = ", ".join(f"{view} in {views[view]}" for view in sorted(views))
    click.echo(f"highest view {highest or 'unknown'}")
    for number, played in broken:
        for line in _told(number, replicas, played):
            click.echo(line)
    click.echo(f"{len(broken)} broken" if broken else "nothing broken")
    return 1 if broken else 0


def _row(number: int, played: Played) -> dict[str, Any]:
    scope, broken = played.scope, played.broken
    assert broken is not None
    return {
        "seed": number,
        "traitors": scope.traitors,
        "lies": scope.lies,
        "late": scope.late,
        "what": broken.what,
        "scenario": broken.scenario,
    }


def _told(number: int, replicas: int, played: Played) -> Iterator[str]:
    broken = played.broken
    assert broken is not None
    again = f"mabeam sim draw --replicas {replicas} --seed {number} --runs 1"
    yield f"seed {number} broken: {broken.what}; again with: {again}"
    yield f"  {described(played.scope)}"
    for turn, split in enumerate(broken.scenario, 1):
        yield f"    turn {turn}: {split}"


def described(scope: Scope) -> str:
    """Who lies about what, and what becomes of what is not heard."""
    *others, last = (f"r{traitor}" for traitor in scope.traitors)
    liars = (
        f"{', '.join(others)} and {last} have twins that lie"
        if others
        else f"{last} has a twin that lies"
    )
    unheard = "arrives late" if scope.late else "is lost"
    return f"{liars} about {scope.lies}, what is not heard {unheard}"
