"""Shrinking: the smallest case that still fails in the same way: whether it takes the adversary at
all, how many replicas, which faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ..errors import UsageError
from .faults import Fault
from .run import Case, Result, Simulation, plan_of, run_case

replace = msgspec.structs.replace

MAX_ATTEMPTS = 150
"""Runs spent on shrinking one case."""

_SHORTEST_MS = 100


def shrink(
    failing: Result, simulation: Simulation, run: Callable[[Case, Simulation], Result] = run_case
) -> Result:
    """Make a case smaller as long as it fails: without the adversary, with fewer replicas and
    faults, then with shorter and weaker ones.

    Args:
        failing: a failed run.
        simulation: its protocol.
        run: does a run.
    """
    wanted = {violation.checker for violation in failing.violations}
    best, attempts = failing, 0
    for smaller in (_without_adversary, _smaller_groups, _fewer_faults):
        progress = True
        while progress:
            progress = False
            for case in smaller(best.case, simulation):
                if attempts >= MAX_ATTEMPTS:
                    return best
                attempts += 1
                result = run(case, simulation)
                if wanted & {violation.checker for violation in result.violations}:
                    best, progress = result, True
                    break
    return best


def _without_adversary(case: Case, simulation: Simulation) -> Iterator[Case]:
    if case.adversary:
        yield replace(case, adversary="", drawn_with=case.adversary)


def _fewer_faults(case: Case, simulation: Simulation) -> Iterator[Case]:
    yield from (replace(case, faults=faults) for faults in _smaller(case.faults or ()))


def _smaller_groups(case: Case, simulation: Simulation) -> Iterator[Case]:
    """The seed's runs with fewer replicas; faults of those that are no more are left out."""
    plan = plan_of(case, simulation)
    size = len({invited.agent_id for ask in plan.asks for invited in ask.participants})
    for replicas in range(1, min(size, case.replicas or size)):
        smaller = replace(case, replicas=replicas)
        try:
            left = plan_of(smaller, simulation)
        except UsageError:
            continue  # fewer than the protocol takes
        nodes = {"", *left.agents, *left.coordinators, *left.clients, *left.adversaries}
        yield replace(smaller, faults=tuple(f for f in case.faults or () if f.node in nodes))


def _smaller(faults: tuple[Fault, ...]) -> Iterator[tuple[Fault, ...]]:
    """Smaller schedules, the greatest steps first."""
    if not faults:
        return
    size = len(faults)
    while size:
        for start in range(0, len(faults), size):
            yield (*faults[:start], *faults[start + size :])
        size //= 2
    for place, fault in enumerate(faults):
        for weaker in _weaker(fault):
            yield (*faults[:place], weaker, *faults[place + 1 :])


def _weaker(fault: Fault) -> Iterator[Fault]:
    if fault.for_ms > _SHORTEST_MS:
        yield msgspec.structs.replace(fault, for_ms=max(_SHORTEST_MS, fault.for_ms // 2))
    if abs(fault.amount) > 1:
        yield msgspec.structs.replace(fault, amount=int(fault.amount / 2))
