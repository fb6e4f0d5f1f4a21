"""What the simulator must know of each protocol: random runs of it, liars, checkers.

Importing this registers the adversaries that know a protocol.
"""

from __future__ import annotations

from ...core.errors import UsageError
from ...core.sim.adversaries import register
from ...core.sim.run import Simulation
from .byzantine.adversaries import (
    EquivocatingClient,
    EquivocatingPrimary,
    MessageMutation,
    SilentPrimary,
    SilentReplica,
    SlowPrimary,
)
from .byzantine.coalition import Adaptive, Coalition
from .byzantine.liar import Liar, StaleViewChanger
from .byzantine.runs import SimulatedByzantine
from .byzantine.twins import Twins
from .simple import SimulatedSimple

for _adversary in (
    Twins,
    Liar,
    StaleViewChanger,
    MessageMutation,
    EquivocatingPrimary,
    SilentReplica,
    SilentPrimary,
    SlowPrimary,
    EquivocatingClient,
    Coalition,
    Adaptive,
):
    register(_adversary)

SIMULATIONS: dict[str, Simulation] = {
    each.protocol: each for each in (SimulatedSimple(), SimulatedByzantine())
}
"""By protocol name."""


def simulation_of(protocol: str) -> Simulation:
    """What the simulator must know of a protocol.

    Raises:
        UsageError: it cannot be simulated.
    """
    if protocol not in SIMULATIONS:
        raise UsageError(
            f"there is no simulation of {protocol!r}",
            hint=f"Known: {', '.join(sorted(SIMULATIONS))}.",
        )
    return SIMULATIONS[protocol]
