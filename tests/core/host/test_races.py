"""Two coordinators are given the same request: one valid claim a term, one terminal event."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from deployment import Deployment
from faults import Faults, HandedRequest
from stored import forks, verdicts
from voters import Voter
from waiting import wait_until_async

from mabeam.core.kernel_events import TERMINAL_TYPES
from mabeam.core.log import Submission
from mabeam.core.replay import Verdict

RACES = 200
CONFIG = {"proposal": 1}


class _Jitter:
    """Lets others run for a few turns of the loop before an append is sent."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def __call__(self, submission: Submission) -> None:
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)


async def test_races_for_a_coordination(tmp_path: Path) -> None:
    faults, random = Faults(), Random(7)
    async with Deployment(tmp_path, faults) as deployment:
        deployment.broker = faults.broker
        hosts = [await deployment.coordinator(id) for id in ("coord-1", "coord-2")]
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        faults["coord-1"].watcher = faults["coord-2"].watcher = _Jitter(random)
        names = [f"race-{number}" for number in range(RACES)]
        for name in names:
            await client.request("simple_consensus", CONFIG, ["a-1"], coordination=name)
            record = deployment.broker.by_coordination[name][0]
            order = random.sample(hosts, 2)
            for host in order:
                deployment.hand(host, HandedRequest(record, redelivered=random.random() < 0.5))
        for name in names:
            assert (await client.result(name)).outcome["decision"] == "agree"
        await wait_until_async(lambda: not any(host.sessions for host in hosts))
        assert forks(deployment) == []
        found = verdicts(deployment)
        for name in names:
            _check_one(name, [each for each in found if f".evt.{name}." in each.record.subject])


def _check_one(name: str, found: list[Verdict]) -> None:
    claims, ends = [], []
    for each in found:
        assert each.event is not None, name
        if each.event.type == "coordination.claimed":
            assert each.rejection is None, (name, each.rejection)
            claims.append(each.event.content.term)
        elif each.event.type in TERMINAL_TYPES:
            ends.append(each.rejection)
        elif each.rejection is not None:
            # Only a coordinator that lost its claim may have written in vain.
            assert each.rejection.reason in ("late", "stale_fence"), (name, each.rejection)
    assert claims == list(range(1, len(claims) + 1)), name
    assert ends == [None], name
