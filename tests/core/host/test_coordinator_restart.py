"""A coordinator that restarts signs no number twice, whatever the log has lost meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from deployment import Deployment
from faults import Faults, RecordingTelemetry
from stored import forks, stored, terminals
from voters import Voter
from waiting import wait_until_async

from mabeam.core.envelope import Event
from mabeam.core.host.coordinator import CoordinatorHost
from mabeam.core.log import Submission
from mabeam.core.names import REGISTRY
from mabeam.core.sim.network import Network

CONFIG = {"proposal": 1, "rule": "majority", "options": ["a", "b"], "max_ballots": 2}
STEPS = [
    "coordination.claimed",
    "coordination.opened",
    "simple.ballot_opened",
    "simple.ballot_closed",
    "coordination.decided",
]


class _Witness:
    """Sees everything that leaves a coordinator; may hold an append for ever before it is sent."""

    def __init__(self) -> None:
        self.signed: dict[tuple[str, int], bytes] = {}
        self.twice: list[tuple[str, int]] = []
        self.hold = ""
        self.reached = asyncio.Event()

    async def __call__(self, submission: Submission) -> None:
        header, wire = submission.event.header, submission.event.wire
        place = header.coordination, header.author_seq
        if self.signed.setdefault(place, wire) != wire:
            self.twice.append(place)
        if header.type == self.hold:
            self.reached.set()
            await asyncio.get_running_loop().create_future()


def _deployment(directory: Path, faults: Faults) -> Deployment:
    deployment = Deployment(directory, faults)
    deployment.broker = faults.broker
    return deployment


def _lose(deployment: Deployment, count: int) -> None:
    network = Network("", time.time_ns)
    network.broker = deployment.broker
    network.truncate(count)


async def _held_at(
    deployment: Deployment, faults: Faults, hold: str
) -> tuple[CoordinatorHost, _Witness]:
    """A coordinator that has signed, but not sent, its event of this type."""
    host = await deployment.coordinator("coord-1")
    faults["coord-1"].watcher = witness = _Witness()
    witness.hold = hold
    await deployment.agent("a-1", Voter("a"))
    await deployment.agent("a-2", Voter("b"))
    client = await deployment.client()
    await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination="c1")
    await asyncio.wait_for(witness.reached.wait(), 10)
    return host, witness


async def _ends(deployment: Deployment) -> str:
    deployment.broker.redeliver_now()
    client = await deployment.client("reader")
    decision = await asyncio.wait_for(client.result("c1"), 20)
    assert decision.outcome["tie"]
    assert len(terminals(deployment, "c1")) == 1
    assert forks(deployment) == []
    return decision.terminal.author


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("hold", STEPS)
async def test_killed_and_the_tail_is_gone(tmp_path: Path, hold: str, lost: int) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        host, witness = await _held_at(deployment, faults, hold)
        await deployment.kill(host)
        lost = min(lost, len(stored(deployment, "c1")) - 1)  # the request stays
        _lose(deployment, lost)
        witness.hold = ""
        await deployment.coordinator("coord-1")
        assert await _ends(deployment) == "coord-1"
        assert witness.twice == []
        fold = await (await deployment.client("reader")).read("c1")
        assert bool(fold.chains.gaps()) == bool(lost)  # a gap says: lost, and blames nobody


async def test_what_the_log_lost_alone_is_sent_again(tmp_path: Path) -> None:
    """The acknowledged end is gone, and nothing it followed from: the same bytes end it again."""
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        host = await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        client = await deployment.client()
        name = await client.request("simple_consensus", {"proposal": 1}, ["a-1"])
        ended = await client.result(name)
        await deployment.kill(host)
        assert stored(deployment, name)[-1].id == ended.terminal.id
        _lose(deployment, 1)
        request = deployment.broker.by_coordination[name][0]
        deployment.broker.requests.put("again", request)  # its acknowledgement is gone as well
        await deployment.coordinator("coord-1")
        again = await (await deployment.client("reader")).result(name)
        assert again.terminal.event.wire == ended.terminal.event.wire


async def test_without_its_journal_it_leaves_to_others_what_it_has_signed_in(
    tmp_path: Path,
) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        host, witness = await _held_at(deployment, faults, "simple.ballot_opened")
        await deployment.kill(host)
        (tmp_path / "coord-1.journal").unlink()
        before = len(stored(deployment, "c1"))
        witness.hold, telemetry = "", RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        deployment.broker.redeliver_now()
        await wait_until_async(lambda: telemetry.counters.get("mute", 0) >= 1)
        assert len(stored(deployment, "c1")) == before
        client = await deployment.client()
        later = await client.decide("simple_consensus", CONFIG, ["a-1"])
        assert later.terminal.author == "coord-1"
        await deployment.kill(host)  # this queue would offer it to the same one again and again
        await deployment.coordinator("coord-2")
        assert await _ends(deployment) == "coord-2"
        assert witness.twice == []


async def test_with_an_older_copy_of_its_journal_it_is_mute(tmp_path: Path) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        host, witness = await _held_at(deployment, faults, "coordination.opened")
        older = (tmp_path / "coord-1.journal").read_bytes()
        await deployment.kill(host)
        witness.hold = "coordination.decided"
        witness.reached.clear()
        host = await deployment.coordinator("coord-1")
        deployment.broker.redeliver_now()
        await asyncio.wait_for(witness.reached.wait(), 10)
        await deployment.kill(host)
        (tmp_path / "coord-1.journal").write_bytes(older)
        witness.hold, telemetry = "", RecordingTelemetry()
        await deployment.coordinator("coord-1", telemetry=telemetry)
        deployment.broker.redeliver_now()
        await wait_until_async(lambda: telemetry.counters.get("mute", 0) >= 1)
        assert witness.twice == []


async def test_a_full_disk_lets_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    async with _deployment(tmp_path, faults) as deployment:
        await deployment.agent("a-1", Voter("a"))
        await deployment.agent("a-2", Voter("b"))
        host = await deployment.coordinator("coord-1")
        await host._ready.wait()
        client = await deployment.client()
        write = os.pwrite
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda f, data, at: write(f, data[: len(data) // 2], at))
            await client.request("simple_consensus", CONFIG, ["a-1", "a-2"], coordination="c1")
            await wait_until_async(lambda: "not_journalled" in caplog.text)
            assert [event.header.type for event in stored(deployment, "c1")] == [
                "coordination.requested"
            ]
            assert faults["coord-1"].appended == []
        said = next(each for each in caplog.records if each.message == "not_journalled")
        assert "No space left on device" in vars(said)["why"]
        assert await _ends(deployment) == "coord-1"


async def test_a_lost_registration_is_sent_again(tmp_path: Path) -> None:
    def registrations() -> list[Event]:
        return stored(deployment, REGISTRY, "agent.registered")

    async with Deployment(tmp_path) as deployment:
        await deployment.kill(await deployment.agent("a-1", Voter()))
        first = registrations()

        class Dearer(Voter):
            cost_per_request_micros = 20_000

        _lose(deployment, 1)
        assert registrations() == []
        await deployment.agent("a-1", Dearer())
        await wait_until_async(lambda: len(registrations()) == 2)
        assert registrations()[0].wire == first[0].wire
        assert [event.header.author_seq for event in registrations()] == [0, 1]
