"""``mabeam.testing``: simulated deployments for the tests of your own agents.

See ``docs/simulate.md``. Everything here comes from ``mabeam.core.sim``; :class:`World` knows all
protocols.
"""

from __future__ import annotations

from .core.machine import Protocols
from .core.sim import checkers
from .core.sim import world as worlds
from .core.sim.adversaries import ADVERSARIES, register
from .core.sim.adversary import Adversary, DishonestAgent
from .core.sim.checkers import Violation, check
from .core.sim.clock import simulate, simulated
from .core.sim.faults import Fault
from .core.sim.run import Ask, Case, Result, Simulation, run_case
from .core.sim.shrink import shrink
from .core.sim.world import BrokenPromiseError
from .protocols import PROTOCOLS

__all__ = [
    "ADVERSARIES",
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
]


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
