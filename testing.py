"""``mabeam.testing``: simulated deployments for the tests of your own agents.

See ``docs/simulate.md``. Everything here comes from ``mabeam.core.sim`` and, where it knows a
protocol, from ``mabeam.infra.simulation``; :class:`World` knows all protocols.
"""

from __future__ import annotations

from typing import Any, Self

from .core.machine import Protocols
from .core.sim import checkers
from .core.sim import world as worlds
from .core.sim.adversaries import ADVERSARIES, register
from .core.sim.adversary import Adversary, DishonestAgent
from .core.sim.checkers import Observation, Violation, check_observation
from .core.sim.clock import simulate, simulated
from .core.sim.faults import Fault
from .core.sim.run import Ask, Case, Result, Simulation, run_case
from .core.sim.shrink import shrink
from .core.sim.world import BrokenPromiseError
from .infra.simulation import SIMULATIONS, simulation_of
from .protocols import PROTOCOLS

__all__ = [
    "ADVERSARIES",
    "SIMULATIONS",
    "Adversary",
    "Ask",
    "BrokenPromiseError",
    "Case",
    "DishonestAgent",
    "Fault",
    "Result",
    "Simulation",
    "Violation",
    "World",
    "check",
    "checkers",
    "register",
    "run_case",
    "shrink",
    "simulate",
    "simulated",
    "simulation_of",
]


def check(
    world: worlds.World,
    checkers: tuple[checkers.Checker, ...] = (*checkers.SAFETY, *checkers.LIVENESS),
) -> tuple[Violation, ...]:
    """Run checkers over a world as it is now, those of the protocols that ran in it included."""
    seen = Observation(world)
    ran = dict.fromkeys(fold.config.protocol for fold in seen.folds.values() if fold.config)
    own = [SIMULATIONS[protocol] for protocol in ran if protocol in SIMULATIONS]
    return (
        *check_observation(seen, checkers),
        *(Violation(each.protocol, message) for each in own for message in each.judge(seen)),
    )


class World(worlds.World):
    """A simulated deployment that knows every protocol; see :class:`mabeam.core.sim.world.World`.

    Args:
        seed: everything random follows from it.
        protocols: known protocols.
        stub_signatures: sign with a fast stub.
    """

    def __init__(
        self,
        seed: int = 0,
        protocols: Protocols = PROTOCOLS,
        *,
        stub_signatures: bool = False,
    ) -> None:
        super().__init__(seed, protocols, stub_signatures=stub_signatures)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for simulation in SIMULATIONS.values():
            if simulation.protocol in self.protocols:
                simulation.prepare(self)
        return self

    def check(self, **options: Any) -> tuple[Violation, ...]:
        """See :func:`check`."""
        return check(self, **options)
