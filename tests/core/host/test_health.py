"""Health: missed heartbeats, recovery and overload become events, once each (COM-20)."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from deployment import NODE, Deployment
from faults import RecordingTelemetry
from stored import forks, reasons, verdicts
from voters import Voter
from waiting import wait_until_async

from mabeam.core.author import Author
from mabeam.core.host import health
from mabeam.core.host.health import (
    HealthMonitor,
    health_of,
    open_heartbeat,
    seal_heartbeat,
)
from mabeam.core.host.registry import RegistryView
from mabeam.core.host.signed_chains import SignedChains
from mabeam.core.identity import KeyPair
from mabeam.core.kernel_events import HealthChanged
from mabeam.core.log import Submission
from mabeam.core.names import REGISTRY
from mabeam.core.transport import Heartbeat


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HEARTBEAT_S", 0.15)
    monkeypatch.setattr(health, "HOLD_DOWN_S", 0.3)


def _beat(agent: str = "a-1", *, node: str = NODE, tasks: int = 0, age_s: float = 0) -> Heartbeat:
    return Heartbeat(agent, node, time.time_ns() - int(age_s * 1e9), 100_000, 2**20, tasks)


def _monitor(deployment: Deployment, author: Author, view: RegistryView) -> HealthMonitor:
    chains = SignedChains(deployment.journal(author.id))
    transport = deployment.connect(author.id)
    return HealthMonitor(author, transport, view, RecordingTelemetry(), chains)


def _has_grown(telemetry: RecordingTelemetry, before: int) -> bool:
    return telemetry.counters.get("heartbeats_rejected", 0) > before


def _changes(deployment: Deployment) -> list[str]:
    """The changes in force; of two coordinators' reports of one change the second is void."""
    return [
        each.event.content.health
        for each in verdicts(deployment, REGISTRY)
        if each.event is not None
        and each.rejection is None
        and isinstance(each.event.content, HealthChanged)
    ]


@pytest.mark.usefixtures("_fast")
async def test_silence_recovery_and_overload(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        key = await deployment.admit("a-1", "agent")
        await deployment.agent("a-1", Voter())
        await deployment.coordinator("coord-1")
        await deployment.coordinator("coord-2")
        await wait_until_async(lambda: _changes(deployment) == ["unreachable"])
        tasks = 0

        async def live() -> None:
            while True:
                payload = seal_heartbeat(_beat(tasks=tasks), key)
                await deployment.connect("a-1").beat(NODE, "a-1", payload)
                await asyncio.sleep(health.HEARTBEAT_S / 10)

        living = asyncio.create_task(live())
        await wait_until_async(lambda: _changes(deployment)[-1] == "healthy")
        tasks = 11
        await wait_until_async(lambda: _changes(deployment)[-1] == "overloaded")
        living.cancel()
        await wait_until_async(lambda: _changes(deployment)[-1] == "unreachable")
        assert _changes(deployment) == ["unreachable", "healthy", "overloaded", "unreachable"]
        assert forks(deployment) == []
        assert set(reasons(deployment)) <= {"late"}


async def test_forged_heartbeats_are_counted_and_ignored(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        key = await deployment.admit("a-1", "agent")
        other = await deployment.admit("a-2", "agent")
        telemetry = RecordingTelemetry()
        host = await deployment.coordinator("coord-1", telemetry=telemetry)
        await wait_until_async(lambda: bool(host.registry.keyring.ids()))
        transport = deployment.connect("x")
        forged = [
            b"",
            b"x" * 63,
            b"x" * 200,
            seal_heartbeat(_beat(), other),
            seal_heartbeat(_beat("a-2"), key),
            seal_heartbeat(_beat(node="n9"), key),
        ]
        for payload in forged:
            before = telemetry.counters.get("heartbeats_rejected", 0)
            await transport.beat(NODE, "a-1", payload)
            await wait_until_async(partial(_has_grown, telemetry, before))
        assert "a-1" not in host.health._last


def test_sealed_heartbeat_opens_only_unchanged_and_under_its_key() -> None:
    key = KeyPair(bytes(range(32)))
    sealed = seal_heartbeat(_beat(), key)
    assert open_heartbeat(sealed, key.public_key) is not None
    assert open_heartbeat(sealed, KeyPair(bytes(32)).public_key) is None
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        assert open_heartbeat(bytes(changed), key.public_key) is None


@pytest.mark.parametrize(
    ("cpu_ppm", "memory_bytes", "tasks", "expected"),
    [
        (900_000, 2**30, 10, "healthy"),
        (900_001, 0, 0, "overloaded"),
        (0, 2**30 + 1, 0, "overloaded"),
        (0, 0, 11, "overloaded"),
    ],
)
def test_limits(cpu_ppm: int, memory_bytes: int, tasks: int, expected: str) -> None:
    assert health_of(Heartbeat("a", "n", 0, cpu_ppm, memory_bytes, tasks)) == expected


async def test_a_full_log_does_not_end_the_coordinator(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.admit("coord-1", "coordinator")
        await deployment.admit("a-1", "agent")
        view, author = deployment.view(), deployment.author("coord-1")
        await view.load(deployment.connect("coord-1").log)
        deployment.broker.max_bytes = 0
        monitor = _monitor(deployment, author, view)
        await monitor._report(HealthChanged("a-1", "healthy"))
        deployment.broker.max_bytes = 2**31
        report = asyncio.create_task(monitor._report(HealthChanged("a-1", "healthy")))
        await wait_until_async(lambda: _changes(deployment) == ["healthy"])
        await view.load(deployment.connect("coord-1").log)
        await report
        assert view.chains.gaps() == []


async def test_an_append_of_an_earlier_life_forks_no_chain(tmp_path: Path) -> None:
    """It lands after the restarted coordinator has read the registry."""
    async with Deployment(tmp_path) as deployment:
        await deployment.admit("coord-1", "coordinator")
        await deployment.admit("a-1", "agent")
        log, view = deployment.connect("coord-1").log, deployment.view()
        await view.load(log)
        author = deployment.author("coord-1")
        author.resume(REGISTRY, *view.chains.head("coord-1"))
        earlier = deployment.author("coord-1").sign(
            REGISTRY, b"", "agent.health_changed", HealthChanged("a-1", "unreachable")
        )
        await log.append(Submission(earlier, "ctl", NODE))
        await view.load(log)
        monitor = _monitor(deployment, author, view)
        seen = view.keyring.agent("a-1").health_sequence
        change = HealthChanged("a-1", "healthy", after_sequence=seen)
        report = asyncio.create_task(monitor._report(change))
        await wait_until_async(lambda: len(_changes(deployment)) == 2)
        await view.load(log)
        await report
        assert forks(deployment) == []
        assert view.keyring.agent("a-1").health == "healthy"
