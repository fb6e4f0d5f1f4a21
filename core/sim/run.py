"""Runs: from a seed to a schedule, from a schedule to a result.

A :class:`Case` is all that is needed to do a run again: protocol, adversary, seed and, once it has
been shrunk, the faults that are left. Everything else (nodes, configurations, weights, opinions,
latencies, faults) is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from ..agent import Agent
from ..errors import UsageError
from ..kernel_events import Invitee
from ..machine import Protocols
from .adversaries import adversary_class
from .adversary import Adversary
from .checkers import (
    LIVENESS,
    SAFETY,
    UNTRUSTED_OPERATOR,
    Observation,
    Violation,
    check_observation,
)
from .clock import MAX_STEPS, simulate
from .faults import OPERATOR, Fault, draw_faults
from .world import World

RECOVERY_S = 40.0
"""Stated bound of liveness: a coordination ends at most this long, plus the time-outs of its own
phases, after the last fault: a lease runs out (5 s), the request is handed out again, at most three
times to a coordinator that cheats, and a process comes back."""

REAL_SIGNATURES_EVERY = 50
"""One seed in so many signs with Ed25519 (TST-1 asks for 1 %)."""

FAULTS_WITHIN_MS = 8_000
MAX_STORY = 30
"""Lines of lies and faults told about a failed run: the last ones."""
START_S = 30.0


class Ask(msgspec.Struct, frozen=True):
    """One coordination a simulated client asks for.

    Attributes:
        config: the protocol's parameters.
        participants: with weights.
        bound_s: longest time its phases take together.
        options: further fields of the request.
    """

    config: dict[str, Any]
    participants: tuple[Invitee, ...]
    bound_s: float
    options: dict[str, Any] = {}


class Case(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything a run follows from.

    Attributes:
        protocol: protocol name.
        seed: the seed.
        adversary: name of the adversary, or empty.
        replicas: agents and adversaries together; drawn from the seed if 0.
        operator: whether the log itself breaks promises.
        faults: the fault schedule; drawn from the seed if ``None``.
        note: why the case is kept.
        drawn_with: where ``adversary`` is empty, the adversary everything was drawn with: honest
            agents stand in its places.
    """

    protocol: str
    seed: int
    adversary: str = ""
    replicas: int = 0
    operator: bool = False
    faults: tuple[Fault, ...] | None = None
    note: str = ""
    drawn_with: str = ""


class Recording(msgspec.Struct):
    """Where :func:`run_case` leaves what it ran, to be looked at when the run is over.

    Attributes:
        real_signatures: sign with Ed25519 whatever the seed says. Ids do not depend on it.
        world: the world of the run.
    """

    real_signatures: bool = False
    world: World | None = None


class Result(msgspec.Struct, frozen=True):
    """What came of a run.

    Attributes:
        case: the run, with its faults.
        violations: what did not hold; empty if all is well.
        digest: hash of the trace; the same for the same case and program.
        records: records in the log at the end.
        endings: coordinations by how they ended.
        virtual_s: virtual time it took.
        real_s: real time it took.
        story: of a failed run the last lies and faults, by virtual time, up to the first violation
            that was noticed on the spot or to the end.
    """

    case: Case
    violations: tuple[Violation, ...]
    digest: str
    records: int
    endings: dict[str, int]
    virtual_s: float
    real_s: float
    story: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something did not hold."""
        return bool(self.violations)


class Plan(msgspec.Struct):
    """Nodes and requests of a case.

    Attributes:
        agents, coordinators, clients, adversaries: ids.
        asks: coordinations to be asked for.
        faults: what goes wrong.
    """

    agents: list[str]
    coordinators: list[str]
    clients: list[str]
    adversaries: list[str]
    asks: list[Ask]
    faults: tuple[Fault, ...] = ()


class Simulation(ABC):
    """What the simulator must know of a protocol to make up runs of it.

    Attributes:
        protocol: its name.
        protocols: the protocols the hosts know.
        tolerates_operator: whether its results do not rest on the order the log shows.
        max_steps: turns of the loop after which a run counts as stuck.
    """

    protocol: str
    protocols: Protocols
    tolerates_operator = False
    max_steps = MAX_STEPS

    def plan(self, rng: random.Random, case: Case) -> Plan:
        """Nodes, coordinations and, unless the case names them, faults."""
        return draw_plan(self, rng, case)

    @abstractmethod
    def draw(self, rng: random.Random, agents: Sequence[str]) -> Ask:
        """A random coordination among (some of) the agents."""

    @abstractmethod
    def agent(self, rng: random.Random) -> Agent:
        """An agent with random opinions, delays and failures."""

    def prepare(self, world: World) -> None:  # noqa: B027 - most protocols need none of these
        """Look into a world before anything is in it; :meth:`judge` may want to know more than the
        log tells."""

    async def act(self, world: World, plan: Plan, case: Case) -> None:  # noqa: B027
        """Do what clients do besides asking for coordinations."""

    async def finish(self, world: World) -> None:  # noqa: B027
        """Let time pass until everything under way has landed; everybody has seen the end."""

    @abstractmethod
    def judge(self, seen: Observation) -> Iterator[str]:
        """The protocol's own invariants: what is wrong with the results, by independent means."""


def run_case(case: Case, simulation: Simulation, recording: Recording | None = None) -> Result:
    """Do a run."""
    recording = recording or Recording()
    if simulation.protocol != case.protocol:
        raise UsageError(f"the case is about {case.protocol}, not {simulation.protocol}")
    started = time.perf_counter()
    with _quiet(), _uncollected():
        try:
            result = simulate(_run(case, simulation, recording), max_steps=simulation.max_steps)
        except Exception as error:  # stuck, or something a fold must never raise
            gc.collect()  # what the broken run left open must not be closed during the next one
            violation = Violation("simulation", f"{type(error).__name__}: {error}")
            faults = plan_of(case, simulation).faults
            case = msgspec.structs.replace(case, faults=faults)
            result = Result(case, (violation,), "", 0, {}, 0.0, 0.0)
    world = recording.world
    story = world.story(MAX_STORY) if world is not None and result.failed else ()
    return msgspec.structs.replace(result, real_s=time.perf_counter() - started, story=story)


@contextmanager
def _uncollected() -> Iterator[None]:
    """A run leaves everything at once; looking for garbage meanwhile only takes time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """The hosts' complaints about what is done to them are of no interest."""
    log = logging.getLogger("mabeam")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def draw_plan(simulation: Simulation, rng: random.Random, case: Case) -> Plan:
    """A deployment of any size, a few coordinations among its agents, any benign faults."""
    end = rng.randint(2, 7)
    end = case.replicas + 1 if case.replicas else end
    agents = [f"agent-{number}" for number in range(1, end)]
    coordinators = [f"coord-{number}" for number in range(1, rng.randint(2, 4))]
    clients = ["client-1", "client-2"]
    kinds = [adversary_class(case.adversary)] if case.adversary else []
    adversaries = [f"mallory-{number}" for number in range(1, 1 + len(kinds) * rng.randint(1, 2))]
    are_agents = all("agent" in kind.roles for kind in kinds)
    invited = sorted((*agents, *adversaries)) if are_agents else agents
    asks = [simulation.draw(rng, invited) for _ in range(rng.randint(1, 4))]
    faults = draw_faults(
        random.Random(f"{case.seed}/faults"),
        (*agents, *coordinators, *clients),
        agents,
        count=rng.randint(0, 12),
        within_ms=FAULTS_WITHIN_MS,
        operator=case.operator,
    )
    return Plan(agents, coordinators, clients, adversaries, asks, faults)


def plan_of(case: Case, simulation: Simulation) -> Plan:
    """The nodes, coordinations and faults of a case."""
    stands_in = bool(case.drawn_with) and not case.adversary
    drawn = msgspec.structs.replace(case, adversary=case.drawn_with) if stands_in else case
    plan = simulation.plan(random.Random(f"{case.seed}/plan"), drawn)
    if stands_in:
        are_agents = "agent" in adversary_class(case.drawn_with).roles
        plan.agents = sorted((*plan.agents, *(plan.adversaries if are_agents else ())))
        plan.adversaries = []
    return plan if case.faults is None else msgspec.structs.replace(plan, faults=case.faults)


async def _run(case: Case, simulation: Simulation, recording: Recording) -> Result:
    plan = plan_of(case, simulation)
    stubbed = case.seed % REAL_SIGNATURES_EVERY != 0 and not recording.real_signatures
    async with World(case.seed, simulation.protocols, stub_signatures=stubbed) as world:
        recording.world = world
        simulation.prepare(world)
        await _populate(world, plan, case, simulation)
        world.schedule(*plan.faults)
        rng = random.Random(f"{case.seed}/requests")
        for number, ask in enumerate(plan.asks):
            await world.request(
                case.protocol,
                ask.config,
                ask.participants,
                client=plan.clients[number % len(plan.clients)],
                coordination=f"c-{number + 1}",
                **ask.options,
            )
            await asyncio.sleep(rng.uniform(0.0, 3.0))
        await simulation.act(world, plan, case)
        await world.settle(RECOVERY_S + max(ask.bound_s for ask in plan.asks))
        await simulation.finish(world)
        seen = Observation(world)
        violations = _check(seen, case, simulation, plan)
        return Result(
            msgspec.structs.replace(case, faults=plan.faults),
            violations,
            world.digest(),
            len(world.network.broker.records),
            seen.report.endings,
            world.loop.time(),
            0.0,
        )


async def _populate(world: World, plan: Plan, case: Case, simulation: Simulation) -> None:
    for client in plan.clients:
        await world.client(client)
    for id in plan.coordinators:
        await world.coordinator(id)
    for id in plan.agents:
        await world.agent(id, _maker(simulation, f"{case.seed}/{id}"), wait=False)
    for id in plan.adversaries:
        voices = [_maker(simulation, f"{case.seed}/{id}/{voice}") for voice in range(2)]
        await world.adversary(case.adversary, id, *voices, wait=False)
    wanted = [*plan.agents, *(id for id in plan.adversaries if "agent" in _roles(world, id))]
    await world.until(
        lambda: all(world.observer().keyring.agent(id).registered for id in wanted), START_S
    )


def _maker(simulation: Simulation, seed: str) -> Any:
    """Makes agents that draw their opinions from one generator: after a restart they differ."""
    rng = random.Random(seed)
    return lambda: simulation.agent(rng)


def _roles(world: World, id: str) -> Sequence[str]:
    node = world.nodes[id]
    return node.roles if isinstance(node, Adversary) else ()


def _check(
    seen: Observation, case: Case, simulation: Simulation, plan: Plan
) -> tuple[Violation, ...]:
    if any(fault.kind in OPERATOR for fault in plan.faults):
        found = check_observation(seen, UNTRUSTED_OPERATOR)
        if not simulation.tolerates_operator:
            return found
        return (*found, *(Violation(case.protocol, message) for message in simulation.judge(seen)))
    blocked = bool(case.adversary) and adversary_class(case.adversary).blocks
    found = check_observation(seen, SAFETY if blocked else (*SAFETY, *LIVENESS))
    return (*found, *(Violation(case.protocol, message) for message in simulation.judge(seen)))
