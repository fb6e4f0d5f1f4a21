"""Kill -9 of replicas, with and without the log's last events gone: no honest one equivocates.

A second kind of blow takes the server down, puts an earlier copy of its store in place and starts
everything again: acknowledged events are gone then, as after a lost disk. What a replica signed
before and after must still fit together. The witness of that is not one log but all of them: every
record seen before a blow, the final log, and the replicas' own journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mabeam.core.client import Client, CoordinationFailedError
from mabeam.core.coordination import Coordination
from mabeam.core.envelope import Event, decode_event
from mabeam.core.errors import MabeamError
from mabeam.core.journal import Journal
from mabeam.core.machine import LogEvent
from mabeam.infra.local import LocalDeployment
from mabeam.infra.membership import Applicant
from mabeam.infra.wiring import Wiring
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.config import group_of
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted
from mabeam.protocols.byzantine.forensics import culprits_of

REPLICAS = tuple(f"replica-{number}" for number in range(1, 5))
COORDINATOR = "coordinator-1"
CLIENT = "client"
AGENT = "mabeam.infra.bench.voter:make_voter"
IN_FLIGHT = 4
PAUSE_S = (0.2, 1.0)
BLOW_EVERY = 5
CONFIG: dict[str, Any] = {
    "proposal": "A",
    "proposers": "participants",
    "view_timeout_ms": 400,
}
SERVICE = "service"
SERVICE_CONFIG: dict[str, Any] = {
    "mode": "service",
    "view_timeout_ms": 400,
    "checkpoint_interval": 2,
    "batch_max_requests": 1,
    "batch_delay_ms": 0,
}
SERVICE_S = 10.0
"""A service lives for so long: over several kills, so that replicas restart from snapshots."""

pytestmark = pytest.mark.integration


class Witness:
    """Everything any replica was ever seen to have signed, by event id."""

    def __init__(self, deployment: LocalDeployment) -> None:
        self.deployment = deployment
        self.events: dict[bytes, Event] = {}
        self.decided: dict[str, set[bytes]] = {}
        self.kills = 0
        self.losses = 0
        self.submitted = 0
        self.snapshots = 0

    async def look(self) -> int:
        """Read the whole log as it is now; returns its length."""
        operator = await self.deployment.connect("operator")
        length = 0
        try:
            async for batch in operator.log.read_all():
                length += len(batch)
                for record in batch:
                    self._add(record.wire)
        finally:
            await operator.close()
        return length

    async def look_into_journals(self) -> None:
        """Read what the replicas, which must have ended, were ready to publish."""
        for id in REPLICAS:
            journal = Wiring(self.deployment.home, id).journal()
            self.snapshots += len(journal.slots("snapshot", 3))
            for wire in wires_of(journal):
                self._add(wire)
            await journal.close()

    def _add(self, wire: bytes) -> None:
        with contextlib.suppress(MabeamError):
            event = decode_event(wire)
            if event.header.author in REPLICAS:
                self.events[event.id] = event


def wires_of(journal: Journal) -> list[bytes]:
    """Everything a journal holds; notes about memberships and snapshots are no events."""
    return [entry.wire for _, entry in journal.all()]


async def ask(client: Client, stop: asyncio.Event, witness: Witness) -> None:
    """Request decisions as long as it lasts; some never end, because their request is gone."""
    prefix, number = os.urandom(4).hex(), 0
    while not stop.is_set():
        name = f"c-{prefix}-{number}"
        number += 1
        with contextlib.suppress(TimeoutError, MabeamError):
            async with asyncio.timeout(6):
                await client.request(
                    "byzantine_consensus", CONFIG, REPLICAS, coordination=name, timeout_ms=5_000
                )
                got = await client.result(name)
                witness.decided.setdefault(name, set()).add(got.outcome["proposal_digest"])


async def use_services(client: Client, stop: asyncio.Event, witness: Witness) -> None:
    """Submit operations to one service after another; some get stuck, as requests are lost."""
    prefix, number = os.urandom(4).hex(), 0
    while not stop.is_set():
        name = f"{SERVICE}-{prefix}-{number}"
        number += 1
        ends = time.monotonic() + SERVICE_S
        with contextlib.suppress(TimeoutError, MabeamError):
            async with asyncio.timeout(6):
                await client.request(
                    "byzantine_consensus", SERVICE_CONFIG, REPLICAS, coordination=name
                )
        while time.monotonic() < ends and not stop.is_set():
            with contextlib.suppress(TimeoutError, MabeamError):
                async with asyncio.timeout(2):
                    await client.submit(name, REQUEST, lambda at: RequestSubmitted(at, "work"))
                    witness.submitted += 1
            await asyncio.sleep(0.03)
        with contextlib.suppress(TimeoutError, MabeamError):
            async with asyncio.timeout(2):
                await client.cancel(name)


@pytest.fixture
async def deployment(server_directory: Path) -> AsyncIterator[LocalDeployment]:
    local = LocalDeployment(server_directory / "home")
    try:
        await asyncio.to_thread(prepare, local)
        yield local
    finally:
        await asyncio.to_thread(local.stop_all)


def prepare(local: LocalDeployment) -> None:
    """A server and its members."""
    local.create(lease_ms=1_500)
    local.start_server()
    local.provision()
    local.admit_many(
        [
            *(Applicant(id, ("agent",), "chaos", f"owner-{id}") for id in REPLICAS),
            Applicant(COORDINATOR, ("coordinator",), "chaos"),
            Applicant(CLIENT, ("client",), "chaos"),
        ]
    )


def start(local: LocalDeployment, id: str) -> None:
    """Start a daemon (again), without waiting for it."""
    if id == COORDINATOR:
        local.spawn_coordinator(id, wait=False)
    else:
        local.spawn_agent(id, AGENT, wait=False)


def copy_store(local: LocalDeployment, to: Path) -> None:
    """A copy of the server's store at one instant."""
    assert local.server is not None
    pid = local.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(local.home.nats_directory, to)
    finally:
        os.kill(pid, signal.SIGCONT)


def lose_the_tail(local: LocalDeployment, copy: Path) -> None:
    """Kill the server and all daemons, bring back the older store, start everything again."""
    assert local.server is not None
    local.server.kill()
    for id in (*REPLICAS, COORDINATOR):
        local.kill(id)
    shutil.rmtree(local.home.nats_directory)
    shutil.copytree(copy, local.home.nats_directory)
    local.start_server()
    for id in (*REPLICAS, COORDINATOR):
        start(local, id)


async def rage(
    local: LocalDeployment, witness: Witness, seconds: float, seed: int, copy: Path
) -> None:
    """Kill for so long; everything runs again afterwards."""
    draw = random.Random(seed)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await asyncio.sleep(draw.uniform(*PAUSE_S))
        witness.kills += 1
        if witness.kills % BLOW_EVERY == 0:
            await asyncio.to_thread(copy_store, local, copy)
            before = await witness.look()
            await asyncio.sleep(draw.uniform(0.05, 0.6))
            witness.losses += await witness.look() - before
            await asyncio.to_thread(lose_the_tail, local, copy)
        else:
            victim = draw.choice(REPLICAS)
            await asyncio.to_thread(local.kill, victim)
            await asyncio.to_thread(start, local, victim)


def check_honesty(witness: Witness, local: LocalDeployment, client: Client) -> int:
    """No replica signed two things that do not fit together; returns the events looked at."""
    numbers: dict[tuple[str, str, int], bytes] = {}
    chosen: dict[str, list[LogEvent]] = {}
    for event in witness.events.values():
        header = event.header
        key = (header.coordination, header.author, header.author_seq)
        assert numbers.setdefault(key, event.id) == event.id, f"{header.author} forked its chain"
        if header.type.startswith(("byzantine.", "deadline.")):
            body = client.registry.admission.decode_body(event)
            chosen.setdefault(header.coordination, []).append(LogEvent(0, 0, event, body))
    for name, events in chosen.items():
        epochs = {event.event.header.epoch for event in events}
        config = ByzantineConfig(f=1, window=128, **CONFIG)
        if name.startswith(SERVICE):
            config = ByzantineConfig(f=1, window=4, **SERVICE_CONFIG)
        for epoch in epochs:
            group = group_of(name, REPLICAS, config)
            of_epoch = [event for event in events if event.event.header.epoch == epoch]
            assert culprits_of(of_epoch, group) == {}
    assert all(len(digests) == 1 for digests in witness.decided.values())
    return len(witness.events)


async def decide_again(client: Client) -> Coordination:
    """After the last blow the replicas decide as if nothing had been."""
    deadline = time.monotonic() + 60
    while True:
        try:
            async with asyncio.timeout(20):
                got = await client.decide("byzantine_consensus", CONFIG, REPLICAS)
                return await client.read(got.coordination)
        except (TimeoutError, CoordinationFailedError):
            assert time.monotonic() < deadline, "no decision after the last blow"


async def run(deployment: LocalDeployment, seconds: float, seed: int, directory: Path) -> Witness:
    """The whole scenario."""
    for id in (*REPLICAS, COORDINATOR):
        await asyncio.to_thread(start, deployment, id)
    for id in (*REPLICAS, COORDINATOR):
        await asyncio.to_thread(deployment.wait_ready, id, timeout_s=60)
    witness = Witness(deployment)
    client = await deployment.client(CLIENT)
    stop = asyncio.Event()
    asking = [asyncio.create_task(ask(client, stop, witness)) for _ in range(IN_FLIGHT)]
    asking.append(asyncio.create_task(use_services(client, stop, witness)))
    try:
        await rage(deployment, witness, seconds, seed, directory / "copy")
        stop.set()
        await asyncio.gather(*asking)
        await decide_again(client)
        await witness.look()
        for id in REPLICAS:
            await asyncio.to_thread(deployment.kill, id)
        await witness.look_into_journals()
        checked = check_honesty(witness, deployment, client)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await client.transport.close()
    print(
        f"seed {seed}: {witness.kills} kills, {witness.losses} events lost, "
        f"{len(witness.decided)} decisions, {witness.submitted} operations, "
        f"{witness.snapshots} snapshots at the end, {checked} events checked"
    )
    return witness


@pytest.mark.timeout(300)
async def test_replicas_keep_their_word(deployment: LocalDeployment, tmp_path: Path) -> None:
    witness = await run(deployment, 15, int(os.environ.get("CHAOS_SEED", "1")), tmp_path)
    assert witness.losses > 0
    assert witness.snapshots > 0
    assert len(witness.decided) > 5


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_replicas_keep_their_word_for_long(
    deployment: LocalDeployment, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", str(random.randrange(2**32))))
    witness = await run(deployment, 120, seed, tmp_path)
    assert witness.losses > 100
    assert len(witness.decided) > 50
