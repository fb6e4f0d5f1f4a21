"""``mabeam sim explore``: every scenario of Byzantine consensus within small bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, get_args

import click

from ..simulation.byzantine.lockstep import Lies, Scope
from ..simulation.byzantine.scenarios import Turns
from ..simulation.byzantine.small_scope import Bound, Explored, explore
from .invocation import as_json, print_json
from .sim_draw import described

REPLICAS = 4


@click.command("explore")
@click.option(
    "--traitor",
    type=click.IntRange(0, REPLICAS - 1),
    help="Which of the four replicas has two bodies; replica v leads view v.  [default: each]",
)
@click.option(
    "--lies",
    type=click.Choice(get_args(Lies)),
    help="What the second body lies about; both are plain twins with 'nothing'.  [default: each]",
)
@click.option(
    "--late/--lost",
    default=None,
    help="Whether what is not heard arrives later, or never.  [default: both]",
)
@click.option("--slots", type=click.IntRange(1, 4), default=2, show_default=True)
@click.option("--views", type=click.IntRange(1, 5), default=3, show_default=True)
@click.option(
    "--turns",
    type=click.Choice(get_args(Turns)),
    default="view",
    show_default=True,
    help="When the network may change.",
)
@click.option(
    "--disturbed",
    type=click.IntRange(0, 20),
    help="Most changes to a network that is not whole; any number by default.",
)
@as_json
def explore_command(
    traitor: int | None,
    lies: Lies | None,
    late: bool | None,
    slots: int,
    views: int,
    turns: Turns,
    disturbed: int | None,
    as_json: bool,
) -> None:
    """Explore EVERY scenario of four Byzantine replicas, one of them a twin, within small bounds.

    The production replicas run in lock-step. A scenario says who hears whom at every turn: the
    network is whole, or split into two sides in any of the possible ways. Scenarios that lead to
    the same state go on together. Ends with 1 at the first promise that does not hold, and shows
    the scenario.
    """
    bound = Bound(turns, disturbed=disturbed)
    rows: list[dict[str, Any]] = []
    for scope in _scopes(traitor, lies, late, slots, views):
        started = time.process_time()
        found = explore(scope, bound)
        rows.append(_row(scope, found, time.process_time() - started))
        if not as_json:
            for line in _told(scope, found):
                click.echo(line)
        if found.broken is not None:
            break
    if as_json:
        print_json(rows)
    if rows[-1]["broken"] is not None:
        raise click.exceptions.Exit(1)


def _scopes(
    traitor: int | None, lies: Lies | None, late: bool | None, slots: int, views: int
) -> Iterator[Scope]:
    for each in range(REPLICAS) if traitor is None else (traitor,):
        for lie in get_args(Lies) if lies is None else (lies,):
            for arrives in (False, True) if late is None else (late,):
                yield Scope(REPLICAS, (each,), lie, slots, views, arrives)


def _row(scope: Scope, found: Explored, seconds: float) -> dict[str, Any]:
    broken = found.broken
    return {
        "traitor": scope.traitors[0],
        "lies": scope.lies,
        "late": scope.late,
        "scenarios": found.scenarios,
        "states": found.states,
        "cpu_seconds": round(seconds, 1),
        "broken": {"what": broken.what, "scenario": broken.scenario} if broken else None,
    }


def _told(scope: Scope, found: Explored) -> Iterator[str]:
    yield f"{described(scope)}: {found.scenarios:,} scenarios, {found.states:,} states"
    if found.broken is not None:
        yield f"  broken: {found.broken.what}"
        for number, split in enumerate(found.broken.scenario, 1):
            yield f"    turn {number}: {split}"
