"""Shrinking: the smallest fault schedule with which a failing run still fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from .faults import Fault
from .run import Case, Result, Simulation, run_case

MAX_ATTEMPTS = 150
"""Runs spent on shrinking one case."""

_SHORTEST_MS = 100


def shrink(
    failing: Result, simulation: Simulation, run: Callable[[Case, Simulation], Result] = run_case
) -> Result:
    """Take faults away, then make those that are left shorter and weaker, as long as it fails.

    Args:
        failing: a failed run.
        simulation: its protocol.
        run: does a run.
    """
    wanted = {violation.checker for violation in failing.violations}
    best, attempts = failing, 0
    progress = True
    while progress:
        progress = False
        for faults in _smaller(best.case.faults or ()):
            if attempts >= MAX_ATTEMPTS:
                return best
            attempts += 1
            result = run(msgspec.structs.replace(best.case, faults=faults), simulation)
            if wanted & {violation.checker for violation in result.violations}:
                best, progress = result, True
                break
    return best


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
