"""A log that shows its readers another order than the coordinator saw changes no ending."""

from __future__ import annotations

import random

import msgspec
import pytest

from mabeam import Agent
from mabeam.core.audit.findings import Report
from mabeam.core.audit.verify import audit_records
from mabeam.core.log import Record
from mabeam.core.replay import Replay
from mabeam.projections.endings import OUTCOME
from mabeam.projections.projection import Folded
from mabeam.testing import World, simulate

ENDINGS = ("coordination_decided", "coordination_failed")
NAMES = ("r0", "r1", "r2", "r3")


async def _play(world: World) -> None:
    """One coordination that decides."""
    await world.coordinator()
    for name in NAMES:
        await world.agent(name, Agent())
    await world.decide("byzantine_consensus", {"proposal": "A"}, list(NAMES))
    await world.settle(60)


def _reordered(records: list[Record], seed: int) -> list[Record]:
    """The same records, what replicas said after the opening in any order, and all that behind the
    announcement."""
    kinds = [record.subject.split(".")[5] for record in records]
    opened = kinds.index("coordination_opened") + 1
    ending = next(at for at, kind in enumerate(kinds) if kind in ENDINGS)
    said = [each for each in records[opened:] if ".byzantine_" in each.subject]
    rest = [each for each in records[opened:] if each not in said and each is not records[ending]]
    random.Random(seed).shuffle(said)
    order = [*records[:opened], records[ending], *rest, *said]
    times = [record.stored_ns for record in records]
    return [
        msgspec.structs.replace(record, sequence=at, stored_ns=stored_ns)
        for at, (record, stored_ns) in enumerate(zip(order, times, strict=True), 1)
    ]


async def _judge(seed: int) -> tuple[Report, Folded]:
    async with World(seed) as world:
        await _play(world)
        records = _reordered(list(world.network.broker.records), seed)
        replay = Replay(world.root.public_key, world.protocols)
        folded = Folded(replay.feed(records), replay)
        return audit_records(records, world.root.public_key, world.protocols), folded


@pytest.mark.parametrize("seed", range(4))
def test_an_announcement_counts_once_its_certificate_has_arrived(seed: int) -> None:
    report, folded = simulate(_judge(seed))
    (ended,) = folded.of("coordination.decided")
    assert ended.coordination is not None
    assert ended.coordination.terminal is ended.event
    assert len(OUTCOME.apply(folded).rows) == 1
    assert report.endings == {"decided": 1}
    assert not [each for each in report.findings if each.severity != "warning"]
