"""A fork laboratory: more traitors than the group tolerates, who try to make it decide two things.

The honest replicas are split into two halves that do not hear of each other. Every traitor runs two
production hosts with one key, one in each half. If a slot forks, the traitors' own signatures must
give at least f + 1 of them away, and nobody else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf

import msgspec

from ....core.log import Appended, Record, Submission
from ....core.memory_transport import MemoryTransport
from ....core.sim.clock import simulate
from ....core.sim.connection import SimLog
from ....core.sim.network import Link, Network, Sight
from ....core.sim.world import World
from ....protocols import PROTOCOLS
from ....protocols.byzantine import Forensics, analyse
from ....protocols.byzantine.events import REQUEST, RequestSubmitted
from ....protocols.byzantine.fold import ByzantineFold
from .puppet import PROTOCOL
from .runs import LONG_MS, Replica, is_opened, submit
from .twins import Twins, TwinTransport

PATIENCE_S = 40.0
"""How long a fork may take: a few view time-outs."""


class Fork(msgspec.Struct, frozen=True):
    """What came of an attempt.

    Attributes:
        forensics: what the events of the log prove.
        named: culprits the coordinator named when it ended the coordination, with their rules.
        traitors: ids of those who lied.
        tolerated: f.
    """

    forensics: Forensics
    named: dict[str, str]
    traitors: frozenset[str]
    tolerated: int


class Rift:
    """Which half of the group an event belongs to.

    Attributes:
        halves: half of each honest author.
        signed_in: half in which a traitor signed an event, by its bytes.
    """

    def __init__(self, halves: dict[str, int]) -> None:
        self.halves = halves
        self.signed_in: dict[bytes, int] = {}

    def sight(self, half: int) -> Sight:
        """What is never shown in a half: what was said in the other."""

        def hides(record: Record) -> bool:
            if record.subject.split(".", 5)[4] != "pub":
                return False
            said = self.signed_in.get(record.wire)
            if said is None:
                said = self.halves.get(record.subject.rsplit(".", 1)[1])
            return said is not None and said != half

        return Sight(hides, inf, inf)


class _HalfLog(SimLog):
    """Notes what is appended from one half."""

    def __init__(self, network: Network, link: Link, rift: Rift, half: int) -> None:
        super().__init__(network, link, MemoryTransport(network.broker).log)
        self._rift = rift
        self._half = half

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """See :meth:`mabeam.core.log.EventLog.append_many`."""
        for submission in submissions:
            if submission.event_class == "pub":
                self._rift.signed_in.setdefault(submission.event.wire, self._half)
        return await super().append_many(submissions)


class ForkingTwins(Twins):
    """Twins of which each lives in one half of the group."""

    name = "forking_twins"
    rift: Rift

    def sight(self, half: int) -> Sight:
        """Never anything from the other half."""
        return self.rift.sight(half)

    def twin_transport(self, half: int, link: Link) -> TwinTransport:
        """A connection that remembers which half it belongs to."""
        log = _HalfLog(self.world.network, link, self.rift, half)
        return TwinTransport(self.world.network, link, log)


def attempt(seed: int, count: int) -> Fork:
    """Try to fork a group of ``count`` replicas; everything follows from the seed."""
    return simulate(_attempt(seed, count))


async def _attempt(seed: int, count: int) -> Fork:
    rng = random.Random(f"{seed}/fork/{count}")
    tolerated = (count - 1) // 3
    quorum = (count + tolerated) // 2 + 1
    names = [f"r{number}" for number in range(count)]
    traitors = sorted(rng.sample(names, max(tolerated + 1, 2 * quorum - count)))
    honest = [name for name in names if name not in traitors]
    rng.shuffle(honest)
    rift = Rift({name: index % 2 for index, name in enumerate((*honest, "client-0", "client-1"))})
    rift.halves |= {"client-0": 0, "client-1": 1}
    async with World(seed, PROTOCOLS, stub_signatures=True) as world:
        await world.coordinator()
        for name in honest:
            agent = Replica(random.Random(f"{seed}/{name}"))
            await world.agent(name, agent)
            world.network.link(name).sights.append(rift.sight(rift.halves[name]))
        for name in traitors:
            node = ForkingTwins(world, name, ())
            node.rift = rift
            await world.join(node)
        config = {
            "proposers": "participants",
            "mode": "single",
            "proposal": None,
            "view_timeout_ms": 500,
        }
        await world.client("client-0")
        await world.client("client-1")
        name = await world.request(
            PROTOCOL, config, names, client="client-0", coordination="c-1", timeout_ms=LONG_MS
        )
        await world.until(lambda: is_opened(world, name))
        for half in (0, 1):
            body = RequestSubmitted(1, f"for half {half}")
            await submit(world, name, f"client-{half}", REQUEST, body)
        await world.until(lambda: _has_ended(world, name), PATIENCE_S, 0.2)
        return _result(world, name, traitors, tolerated)


def _has_ended(world: World, name: str) -> bool:
    fold = world.observer().coordination(name)
    assert fold is not None
    machine = fold.machine
    return isinstance(machine, ByzantineFold) and machine.executor.fork is not None


def _result(world: World, name: str, traitors: list[str], tolerated: int) -> Fork:
    fold = world.observer().coordination(name)
    assert fold is not None
    assert isinstance(fold.machine, ByzantineFold)
    events = {
        verdict.event.id: verdict.event
        for verdict in world.verdicts(name)
        if verdict.event is not None and verdict.event.event.header.epoch == fold.epoch
    }
    found = analyse(events.values(), fold.machine.group)
    details = getattr(fold.terminal.content, "details", {}) if fold.terminal else {}
    return Fork(found, details.get("culprits", {}), frozenset(traitors), tolerated)
