"""Faults: what goes wrong, to whom, when and for how long, as plain data that can be shrunk.

``benign`` faults are those every deployment has to live with: whatever they do, results stay right
and coordinations end once they are over. ``operator`` faults break the log's own promises (order,
completeness, durability); with ``ordering: log`` the operator is trusted for these, so all that is
asked of a run with one is that nobody honest is accused and that no process breaks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import msgspec

from .network import Sight, chance_of

if TYPE_CHECKING:
    from .world import World

Kind = Literal[
    "crash",
    "crash_losing_journal",
    "skew",
    "slow",
    "delay",
    "cut",
    "stall",
    "drop",
    "lose_ack",
    "duplicate",
    "lose_invitation",
    "repeat_invitation",
    "redeliver",
    "replay",
    "withhold",
    "reorder",
    "truncate",
    "scatter",
    "two_histories",
    "purge",
]

# Upper bounds of ``amount`` and of ``for_ms``.
_NODE: dict[Kind, tuple[int, int]] = {
    "crash": (1, 8_000),
    "crash_losing_journal": (1, 8_000),
    "skew": (4_000, 30_000),
}
_LINK: dict[Kind, tuple[int, int]] = {
    "slow": (40, 15_000),
    "delay": (2_000, 15_000),
    "cut": (1, 8_000),
    "stall": (1, 8_000),
    "drop": (60, 10_000),
    "lose_ack": (60, 10_000),
    "duplicate": (80, 15_000),
    "lose_invitation": (80, 10_000),
    "repeat_invitation": (100, 10_000),
    "withhold": (60, 8_000),
}
_LOG: dict[Kind, tuple[int, int]] = {"redeliver": (1, 0), "replay": (12, 0)}
_OPERATOR: dict[Kind, tuple[int, int]] = {"reorder": (80, 8_000), "truncate": (6, 0)}
_SIGHT: dict[Kind, tuple[int, int]] = {
    "scatter": (1_500, 10_000),
    "two_histories": (3_000, 10_000),
    "purge": (60, 8_000),
}

BENIGN: tuple[Kind, ...] = (*_NODE, *_LINK, *_LOG)
OPERATOR: tuple[Kind, ...] = tuple(_OPERATOR)
SIGHT: tuple[Kind, ...] = tuple(_SIGHT)
"""What an operator can do to single readers without breaking the stored log."""
_OFTEN: tuple[Kind, ...] = (
    "crash",
    "crash_losing_journal",
    "cut",
    "delay",
    "redeliver",
    "redeliver",
)
_BOUNDS = {**_NODE, **_LINK, **_LOG, **_OPERATOR, **_SIGHT}


BURST_MS = 800
"""Within this time the faults of one burst begin."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong.

    Attributes:
        kind: what.
        at_ms: when, virtual milliseconds after the nodes were started.
        node: to whom; empty for the log itself.
        for_ms: for how long.
        amount: how much, in the unit of its kind.
    """

    kind: Kind
    at_ms: int
    node: str = ""
    for_ms: int = 0
    amount: int = 1

    @property
    def end_ms(self) -> int:
        """When it is over."""
        return self.at_ms + self.for_ms


def draw_faults(
    rng: random.Random,
    nodes: Sequence[str],
    agents: Sequence[str],
    *,
    count: int,
    within_ms: int,
    operator: bool = False,
    kinds: tuple[Kind, ...] = (),
) -> tuple[Fault, ...]:
    """A schedule of random faults, by time; they come in bursts, because it takes more than one.

    Args:
        rng: where randomness comes from.
        nodes: whom it may happen to.
        agents: those of them that may lose their journals, or be shown another history.
        count: how many faults.
        within_ms: when the last burst begins at the latest.
        operator: whether the log itself breaks promises, too.
        kinds: kinds to draw from, each as often as it stands there; all benign ones by default.
    """
    kinds = kinds or (*BENIGN, *_OFTEN, *(OPERATOR * 2 if operator else ()))
    bursts = [rng.randrange(within_ms) for _ in range(rng.randint(1, 4))]
    faults = []
    for _ in range(count):
        kind = rng.choice(kinds)
        most, longest = _BOUNDS[kind]
        on_log = kind in _LOG or kind == "truncate"
        victims = agents if kind == "crash_losing_journal" or kind in _SIGHT else nodes
        amount = rng.randint(-most, most) if kind == "skew" else rng.randint(1, most)
        faults.append(
            Fault(
                kind,
                rng.choice(bursts) + rng.randrange(BURST_MS),
                "" if on_log else rng.choice(victims),
                rng.randint(200, rng.choice((1_000, longest))) if longest else 0,
                amount,
            )
        )
    return tuple(sorted(faults, key=lambda fault: (fault.at_ms, fault.kind, fault.node)))


def _told(fault: Fault) -> Iterator[str]:
    yield fault.kind
    if fault.node:
        yield f"of {fault.node}"
    if fault.amount != 1:
        yield f"by {fault.amount}"
    if fault.for_ms:
        yield f"for {fault.for_ms} ms"


async def inflict(world: World, fault: Fault) -> None:
    """Let one fault happen, from its beginning to its end."""
    await asyncio.sleep(fault.at_ms / 1000)
    world.note(" ".join(("fault:", *_told(fault))))
    if fault.kind in ("crash", "crash_losing_journal"):
        await _crash(world, fault)
    elif fault.kind == "redeliver":
        world.network.broker.redeliver_now()
    elif fault.kind == "replay":
        _replay(world, fault)
    elif fault.kind == "truncate":
        world.network.truncate(fault.amount)
    elif fault.kind == "skew":
        node = world.nodes[fault.node]
        node.skew_ms += fault.amount
        await asyncio.sleep(fault.for_ms / 1000)
        node.skew_ms -= fault.amount
    elif fault.kind in _SIGHT:
        link, sight = world.network.link(fault.node), _sight(world, fault)
        link.sights.append(sight)
        await asyncio.sleep(fault.for_ms / 1000)
        link.sights.remove(sight)
    else:
        link = world.network.link(fault.node)
        link.set(fault.kind, fault.amount)
        await asyncio.sleep(fault.for_ms / 1000)
        link.set(fault.kind, 0)


def _sight(world: World, fault: Fault) -> Sight:
    """What the reader of a fault does not see yet, or not in the order of the log."""
    until, salt = world.loop.time() + fault.for_ms / 1000, fault.at_ms
    if fault.kind == "scatter":
        return Sight(lambda record: True, fault.amount / 1000, until, scatters=True)
    if fault.kind == "purge":
        return Sight(lambda each: chance_of(each.sequence, 100, salt) < fault.amount, inf, until)
    # Half of the readers see one half of all records late, the others the other half.
    half = crc32(fault.node.encode()) % 2
    return Sight(lambda each: chance_of(each.sequence, 2) == half, fault.amount / 1000, until)


async def _crash(world: World, fault: Fault) -> None:
    node = world.nodes[fault.node]
    if not node.is_up:
        return  # it lies on the floor already
    await node.crash()
    if fault.kind == "crash_losing_journal":
        node.lose_journal()
    await asyncio.sleep(fault.for_ms / 1000)
    node.start()


def _replay(world: World, fault: Fault) -> None:
    """Records of any age and epoch are stored again under new positions."""
    records = world.network.broker.records
    rng = random.Random(f"{world.seed}/replay/{fault.at_ms}")
    for record in rng.sample(records, min(fault.amount, len(records))):
        world.network.store_again(record)
