"""Random Byzantine coordinations: a seed chooses group, traitors, clients and faults.

At most f replicas are Byzantine in all: adversaries, and honest ones that lose their journal, which
then stay mute. View time-outs are short, so that views change.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any

from ....core.agent import Agent, on
from ....core.errors import LogUnavailableError, UsageError
from ....core.kernel_events import Body, CancelRequested, Invitee
from ....core.log import Submission
from ....core.ordering import MIN_REPLICAS
from ....core.sim.adversaries import adversary_class
from ....core.sim.checkers import Observation
from ....core.sim.faults import BENIGN, SIGHT, Fault, Kind, draw_faults
from ....core.sim.run import Ask, Case, Plan, Simulation
from ....core.sim.world import World
from ....protocols import PROTOCOLS
from ....protocols.byzantine import ProposalRequest, Verdict
from ....protocols.byzantine.events import (
    HANDOVER,
    REQUEST,
    HandoverRequested,
    RequestSubmitted,
)
from .checks import CANCEL, judge
from .puppet import PROTOCOL
from .witness import Witness, watch

FAULTS_WITHIN_MS = 6_000
MARGIN_S = 20.0
"""Beyond twice the longest view time-out used, so long after the last fault everything has
executed: processes and connections come back within seconds, a coordinator's lease runs out after
5."""

LANDS_S = 10.0
"""So long after the end the last event of a replica that had no connection is stored."""

LONG_MS = 600_000
SUCCESSOR = "c-next"
LATE = 100
"""Numbers of the requests that crowd around a handover, above all others of their client."""
LONG_LOAD_MS = 6_000
"""About as long clients of a long service go on, so that replicas restart from snapshots."""

FIRST_LATER = 200
"""Number of the first request beyond the waves every service gets."""

POLL_S = 0.1

_KINDS: tuple[Kind, ...] = (
    *(kind for kind in BENIGN if kind != "crash_losing_journal"),
    *SIGHT * 2,
    *("crash", "crash", "cut", "delay"),
)


class Replica(Agent):
    """Agrees to every proposal, sooner or later."""

    def __init__(self, rng: random.Random) -> None:
        self._pause_s = rng.choice((0.0, 0.0, 0.01, 0.1))

    @on(ProposalRequest)
    async def judge(self, request: ProposalRequest) -> Verdict:
        """Agree."""
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        return Verdict.accept()


class SimulatedByzantine(Simulation):
    """Makes up Byzantine consensus within its fault bound."""

    protocol = PROTOCOL
    protocols = PROTOCOLS
    tolerates_operator = True
    max_steps = 200_000

    def plan(self, rng: random.Random, case: Case) -> Plan:
        """A group with at most f traitors, the first primary among them in most runs."""
        count = case.replicas or rng.randint(4, 7)
        if count < MIN_REPLICAS:
            raise UsageError(f"{count} replicas withstand no traitor, it takes at least 4")
        most = (count - 1) // 3
        tolerated = rng.choice((most, most, rng.randint(1, most)))
        names = [f"r{number}" for number in range(count)]
        kind = adversary_class(case.adversary) if case.adversary else None
        traitors = tolerated if kind and rng.random() < 0.85 else rng.randint(0, tolerated)
        adversaries: list[str] = []
        if kind is not None and "agent" not in kind.roles:
            adversaries = ["mallory"]
        elif kind is not None:
            adversaries = rng.sample(names, max(1, traitors))
            if rng.random() < 0.6 and "r0" not in adversaries:
                adversaries[0] = "r0"
        agents = [name for name in names if name not in adversaries]
        coordinators = ["coord-1", "coord-2"][: rng.choice((1, 1, 2))]
        ask = self.draw(rng, names)
        ask.config["f"] = None if tolerated == most else tolerated
        clients = ["client-1", "client-2"][: rng.choice((1, 2))]
        plan = Plan(agents, coordinators, clients, sorted(adversaries), [ask])
        plan.faults = self._faults(case, plan, tolerated - (count - len(agents)))
        if is_long(case, ask.config):
            plan.faults = tuple(sorted((*plan.faults, *self._crashes(case, agents)), key=_at))
        return plan

    def _crashes(self, case: Case, agents: Sequence[str]) -> tuple[Fault, ...]:
        """What else happens to a long service: replicas crash again and again."""
        rng = random.Random(f"{case.seed}/crashes")
        return draw_faults(
            rng,
            agents,
            agents,
            count=rng.randint(2, 6),
            within_ms=LONG_LOAD_MS,
            kinds=("crash", "crash", "crash", *(["truncate"] if case.operator else ())),
        )

    def _faults(self, case: Case, plan: Plan, spare: int) -> tuple[Fault, ...]:
        rng = random.Random(f"{case.seed}/faults")
        victims = plan.agents[: max(0, spare)] if rng.random() < 0.3 else []
        kinds = (*_KINDS, *(["crash_losing_journal"] * 3 if victims else ()))
        drawn = draw_faults(
            rng,
            (*plan.agents, *plan.agents, *plan.coordinators, *plan.clients),
            plan.agents,
            count=rng.choice((0, 1, 2, 3, 4, 6, 9)),
            within_ms=FAULTS_WITHIN_MS,
            kinds=(*kinds, *(["truncate"] * 12 if case.operator else ())),
        )
        return tuple(
            fault
            for fault in drawn
            if fault.kind != "crash_losing_journal" or fault.node in victims
        )

    def draw(self, rng: random.Random, agents: Sequence[str]) -> Ask:
        """A single decision or an ordering service with small windows."""
        service = rng.random() < 0.5
        timeout_ms = rng.choice((300, 500, 1_000))
        proposers = rng.choice(("requester", "participants"))
        config: dict[str, Any] = {
            "mode": "service" if service else "single",
            "proposers": proposers,
            "proposal": None if service else rng.choice(("A", {"dose": 3}, [1, 2])),
            "view_timeout_ms": timeout_ms,
            "checkpoint_interval": rng.choice((1, 2, 2, 64)),
            "batch_max_requests": rng.choice((1, 2, 100)),
            "batch_delay_ms": rng.choice((0, 20)),
            "rotation_slots": rng.choice((0, 0, 0, 2)) if service else 0,
        }
        hurried = not service and rng.random() < 0.15
        return Ask(
            config,
            tuple(Invitee(name) for name in agents),
            0.0,
            {"timeout_ms": rng.choice((1_500, 4_000, 8_000)) if hurried else LONG_MS},
        )

    def agent(self, rng: random.Random) -> Agent:
        """An honest replica's agent; some have no opinion on proposals at all."""
        return Agent() if rng.random() < 0.2 else Replica(rng)

    def prepare(self, world: World) -> None:
        """Look into the replicas."""
        watch(world, self.protocol)

    async def act(self, world: World, plan: Plan, case: Case) -> None:
        """Submit requests, wait for their execution, end what would not end by itself."""
        name, config = world.requested[0], plan.asks[0].config
        opened = await world.until(lambda: is_opened(world, name), world.stable_at + MARGIN_S)
        submits = config["mode"] == "service" or config["proposers"] == "participants"
        witness: Witness = world.witnesses[self.protocol]
        async with asyncio.TaskGroup() as group:
            if opened and submits:
                group.create_task(self._submit(world, name, plan, case, config))
            if opened and config["mode"] == "service":
                group.create_task(self._hand_over(world, name, plan, case))
        mute = {fault.node for fault in plan.faults if fault.kind == "crash_losing_journal"}
        witness.expected[name] = sorted(set(plan.agents) - mute)
        await self._executed(world, witness, name)
        if config["mode"] == "service":
            await submit(world, name, plan.clients[0], CANCEL, CancelRequested("enough"))

    async def _submit(
        self, world: World, name: str, plan: Plan, case: Case, config: dict[str, Any]
    ) -> None:
        rng = random.Random(f"{case.seed}/clients")
        for wave in range(1, rng.choice((1, 2, 2, 3)) + 1):
            for client in rng.sample(plan.clients, rng.randint(1, len(plan.clients))):
                body = RequestSubmitted(wave, f"{client}-{wave}")
                await submit(world, name, client, REQUEST, body)
            if wave == 1 or rng.random() < 0.5:
                await asyncio.sleep(rng.choice((0.0, 0.2, 2.0)))
        if is_long(case, config):
            await self._go_on(world, name, plan.clients, rng)

    async def _hand_over(self, world: World, name: str, plan: Plan, case: Case) -> None:
        """In some runs the requester hands the service over, or somebody who must not asks for it.

        Drawn from a generator of its own, so that everything else stays as the seed had it.
        """
        rng = random.Random(f"{case.seed}/handover")
        requester, *others = plan.clients
        is_due, stranger = rng.random() < 0.5, rng.random() < 0.3
        first_s, then_s = (rng.choice((0.0, 0.05, 0.2, 0.5, 2.0)) for _ in range(2))
        await asyncio.sleep(first_s)
        if others and stranger:
            await submit(world, name, others[0], HANDOVER, HandoverRequested("theirs"))
        if not is_due:
            return
        await asyncio.sleep(then_s)
        world.witnesses[self.protocol].handed_over.add(name)
        crowd: list[tuple[str, Body]] = [
            (REQUEST, RequestSubmitted(LATE + at, at)) for at in range(rng.choice((0, 3, 6)))
        ]
        crowd.insert(rng.randint(0, len(crowd)), (HANDOVER, HandoverRequested(SUCCESSOR)))
        await asyncio.gather(*(submit(world, name, requester, *each) for each in crowd))

    async def _go_on(
        self, world: World, name: str, clients: Sequence[str], rng: random.Random
    ) -> None:
        ends = world.loop.time() + LONG_LOAD_MS / 1000
        number = FIRST_LATER
        while world.loop.time() < ends:
            client = rng.choice(clients)
            await submit(world, name, client, REQUEST, RequestSubmitted(number, number))
            await asyncio.sleep(rng.choice((0.02, 0.2, 0.5)))
            number += 1

    async def _executed(self, world: World, witness: Witness, name: str) -> None:
        """Wait until the replicas have done all they can, or should have."""
        while not witness.is_done(name):
            if world.loop.time() > world.stable_at + witness.bound_s(MARGIN_S):
                witness.note_late(name)
                return
            await asyncio.sleep(POLL_S)

    async def finish(self, world: World) -> None:
        """What honest replicas have signed lands, sooner or later."""
        await world.until(lambda: not _gaps(world), LANDS_S)

    def judge(self, seen: Observation) -> Iterator[str]:
        """See :mod:`.checks`."""
        yield from judge(seen, self.protocol)


def is_long(case: Case, config: dict[str, Any]) -> bool:
    """Whether a service goes on for a while: checkpoints are close, and many of them pass."""
    may = config["mode"] == "service" and config["checkpoint_interval"] <= 2
    return may and random.Random(f"{case.seed}/long").random() < 0.4


def _at(fault: Fault) -> tuple[int, str, str]:
    return fault.at_ms, fault.kind, fault.node


def is_opened(world: World, name: str) -> bool:
    """Whether the coordination has begun, or ended before that."""
    fold = world.observer().coordination(name)
    return fold is not None and (fold.opened is not None or fold.terminal is not None)


def _gaps(world: World) -> bool:
    folds = map(world.observer().coordination, world.requested)
    return any(
        gap.author not in world.dishonest
        for fold in folds
        if fold is not None
        for gap in fold.chains.gaps()
    )


async def submit(world: World, name: str, client: str, kind: str, body: Body) -> None:
    """Sign an event as a client and store it, however often that takes."""
    node = await world.client(client)
    fold = world.observer().coordination(name)
    if fold is None or fold.terminal is not None:
        return
    event = node.client.author.sign(name, fold.epoch, kind, body)
    log = node.transport().log
    while True:
        try:
            await log.append(Submission(event, "pub", client))
        except LogUnavailableError:
            continue
        return
