"""Kill -9 of everything at random points under load; then nothing may be lost or decided twice.

The short run belongs to ``make test``; ``make chaos`` runs two minutes. ``CHAOS_SEED`` repeats the
order of kills of an earlier run (its timing depends on the machine).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mabeam.core.audit.verify import audit_log
from mabeam.core.client import Client
from mabeam.core.envelope import Event, decode_event
from mabeam.core.errors import LogUnavailableError
from mabeam.core.kernel_events import CoordinationRequested, Invitee
from mabeam.core.log import Submission
from mabeam.core.transport import Transport
from mabeam.infra.local import LocalDeployment
from mabeam.infra.membership import Applicant
from mabeam.projections.database import open_database
from mabeam.projections.digest import digest
from mabeam.projections.rebuild import rebuild
from mabeam.protocols import PROTOCOLS

AGENTS = tuple(f"agent-{number}" for number in range(1, 6))
COORDINATORS = ("coordinator-1", "coordinator-2")
CLIENT = "client"
WRITER = "writer"
VOTER = "mabeam.infra.bench.voter:make_voter"
IN_FLIGHT = 12
KILL_PAUSE_S = (0.3, 1.5)
DOWN_S = (0.0, 1.0)
SETTLE_S = 90.0

pytestmark = pytest.mark.integration


class Ledger:
    """What was acknowledged to somebody: sequence and id of every such event."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.requested: list[str] = []
        self.kills: list[str] = []

    async def append(self, transport: Transport, event: Event, event_class: str) -> None:
        """Append until acknowledged, always the same bytes, and note it."""
        submission = Submission(event, event_class, "chaos")  # type: ignore[arg-type]
        while True:
            with contextlib.suppress(LogUnavailableError):
                appended = await transport.log.append(submission)
                break
            await asyncio.sleep(0.1)
        assert self.acknowledged.setdefault(appended.sequence, event.id) == event.id


async def ask(client: Client, ledger: Ledger, stop: asyncio.Event) -> None:
    """Request coordinations as long as the chaos lasts."""
    number = 0
    prefix = os.urandom(4).hex()
    while not stop.is_set():
        name = f"chaos-{prefix}-{number}"
        number += 1
        body = CoordinationRequested(
            "simple_consensus",
            {"proposal": {"number": number}, "rule": "majority", "vote_timeout_ms": 8_000},
            tuple(Invitee(id) for id in AGENTS),
        )
        event = client.author.sign(name, b"", "coordination.requested", body)
        await ledger.append(client.transport, event, "req")
        ledger.requested.append(name)
        with contextlib.suppress(LogUnavailableError, TimeoutError):
            await asyncio.wait_for(client.result(name), 20)


class Monkey:
    """Kills one thing after another and starts it again."""

    def __init__(self, deployment: LocalDeployment, projectors: dict[str, str], seed: int) -> None:
        self.deployment = deployment
        self.projectors = projectors
        self.random = random.Random(seed)

    def start(self, victim: str) -> None:
        """Start a daemon (again), without waiting for it."""
        if victim in AGENTS:
            self.deployment.spawn_agent(victim, VOTER, wait=False)
        elif victim in COORDINATORS:
            self.deployment.spawn_coordinator(victim, wait=False)
        else:
            database = self.projectors[victim]
            self.deployment.spawn(
                victim, "--database", database, "projector", "run", "--id", victim, wait=False
            )

    async def rage(self, seconds: float, ledger: Ledger) -> None:
        """Kill for so long; everything runs again afterwards."""
        ends = time.monotonic() + seconds
        victims = ["nats-server", *AGENTS, *COORDINATORS, *self.projectors]
        while time.monotonic() < ends:
            await asyncio.sleep(self.random.uniform(*KILL_PAUSE_S))
            victim = self.random.choice(victims)
            ledger.kills.append(victim)
            if victim == "nats-server":
                assert self.deployment.server is not None
                await asyncio.to_thread(self.deployment.server.kill)
                await asyncio.sleep(self.random.uniform(*DOWN_S))
                await asyncio.to_thread(self.deployment.start_server)
            else:
                await asyncio.to_thread(self.deployment.kill, victim)
                await asyncio.sleep(self.random.uniform(*DOWN_S))
                await asyncio.to_thread(self.start, victim)


@pytest.fixture
async def deployment(
    server_directory: Path,
) -> AsyncIterator[LocalDeployment]:
    """A server and its members; the daemons are started by the test."""
    local = LocalDeployment(server_directory / "home")
    try:
        await asyncio.to_thread(_prepare, local)
        yield local
    finally:
        await asyncio.to_thread(local.stop_all)


def _prepare(local: LocalDeployment) -> None:
    local.create(lease_ms=2_000)
    local.start_server()
    local.provision()
    local.admit_many(
        [
            *(Applicant(id, ("agent",), "chaos", f"owner-{id}") for id in AGENTS),
            *(Applicant(id, ("coordinator",), "chaos") for id in COORDINATORS),
            Applicant(CLIENT, ("client",), "chaos"),
            Applicant("projector-1", ("projector",), "chaos"),
            Applicant("projector-2", ("projector",), "chaos"),
        ]
    )


async def settle(client: Client, names: list[str]) -> None:
    """Wait until every requested coordination has ended."""
    deadline = time.monotonic() + SETTLE_S
    for name in names:
        left = deadline - time.monotonic()
        assert left > 0, f"{name} has no terminal event {SETTLE_S:g} s after the last kill"
        await asyncio.wait_for(client.result(name), left)


async def check_log(deployment: LocalDeployment, ledger: Ledger) -> int:
    """Nothing acknowledged is missing, and the audit of the whole log is clean."""
    operator = await deployment.connect("operator")
    try:
        for sequence, event_id in ledger.acknowledged.items():
            record = await operator.log.record_at(sequence)
            assert record is not None, f"acknowledged event {sequence} is gone"
            assert decode_event(record.wire).id == event_id
        report = await audit_log(operator.log, deployment.home.root_public_key(), PROTOCOLS)
        assert report.ok, report.first_divergence
        assert report.complete, report.first_divergence
        assert report.coordinations == len(ledger.requested)
        assert report.endings.get("open", 0) == 0
        assert sum(report.endings.values()) == len(ledger.requested)
        return (await operator.log.head()).sequence
    finally:
        await operator.close()


async def check_projection(deployment: LocalDeployment, url: str, head: int, ended: int) -> None:
    """The incremental read models equal a rebuild from the log, and show every ending once."""
    engine = open_database(url)
    operator = await deployment.connect("operator")
    try:
        deadline = time.monotonic() + 60
        while (incremental := await asyncio.to_thread(digest, engine)).sequence < head:
            assert time.monotonic() < deadline, f"projection of {url} does not catch up"
            await asyncio.sleep(0.1)
        await rebuild(
            engine, deployment.home.root_public_key(), PROTOCOLS, log=operator.log, swap=True
        )
        rebuilt = await asyncio.to_thread(digest, engine)
        assert rebuilt.sequence == incremental.sequence == head  # nobody writes any more
        assert rebuilt.models == incremental.models
        plain = create_engine(url)
        with plain.connect() as connection:
            query = "SELECT count(*) FROM coordination WHERE status = 'decided'"
            assert connection.execute(text(query)).scalar() == ended
        plain.dispose()
    finally:
        engine.dispose()
        await operator.close()


async def run_chaos(
    deployment: LocalDeployment, postgres_url: str, seconds: float, seed: int
) -> Ledger:
    """The whole scenario."""
    ledger = Ledger()
    sqlite_url = f"sqlite:///{deployment.home.path / 'chaos.db'}"
    projectors = {"projector-1": sqlite_url, "projector-2": postgres_url}
    monkey = Monkey(deployment, projectors, seed)
    daemons = (*AGENTS, *COORDINATORS, *projectors)
    for id in daemons:
        await asyncio.to_thread(monkey.start, id)
    for id in daemons:
        await asyncio.to_thread(deployment.wait_ready, id, timeout_s=60)
    client = await deployment.client(CLIENT)
    stop = asyncio.Event()
    asking = [asyncio.create_task(ask(client, ledger, stop)) for _ in range(IN_FLIGHT)]
    try:
        await monkey.rage(seconds, ledger)
        stop.set()
        await asyncio.gather(*asking)
        await settle(client, ledger.requested)
        for id in (*AGENTS, *COORDINATORS):
            await asyncio.to_thread(deployment.stop, id)
        head = await check_log(deployment, ledger)
        for url in projectors.values():
            await check_projection(deployment, url, head, len(ledger.requested))
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await client.transport.close()
    return ledger


def report(ledger: Ledger, seed: int) -> None:
    """Shown with ``pytest -s`` and when a run fails."""
    print(
        f"seed {seed}: {len(ledger.requested)} coordinations, {len(ledger.kills)} kills, "
        f"{len(ledger.acknowledged)} acknowledged requests"
    )


@pytest.mark.timeout(300)
async def test_a_short_rage(deployment: LocalDeployment, postgres_url: str) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    ledger = await run_chaos(deployment, postgres_url, 15, seed)
    report(ledger, seed)
    assert len(ledger.requested) > 20
    assert len(ledger.kills) >= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_two_minutes_of_rage(deployment: LocalDeployment, postgres_url: str) -> None:
    seed = int(os.environ.get("CHAOS_SEED", str(random.randrange(2**32))))
    ledger = await run_chaos(deployment, postgres_url, 120, seed)
    report(ledger, seed)
    assert len(ledger.requested) > 200
    assert {"nats-server", *COORDINATORS} <= set(ledger.kills)
