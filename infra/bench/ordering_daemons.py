"""The same service with every replica a process of its own, over a real server on this machine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ...protocols.tolerance import replica_quorum
from ..home import Home
from ..local import LocalDeployment
from ..membership import Applicant
from .coordinating import percentile, resident_mib
from .ordering_load import SERVICE, OrderingLoad
from .replica_group import COORDINATOR, NODE, PROTOCOL
from .result import Figure

CLIENT = "client"
REPLICAS = tuple(f"replica-{number}" for number in range(4))
AGENT = f"{__package__}.replica_group:make_replica"
BATCH = 100
IN_FLIGHT = 800
OPEN_TIMEOUT_S = 60


def start(directory: Path) -> LocalDeployment:
    """A running deployment of four replicas and a coordinator; the caller stops it."""
    deployment = LocalDeployment(Home(directory))
    deployment.create()
    deployment.start_server()
    deployment.provision()
    deployment.admit_many(
        [
            *(Applicant(id, ("agent",), NODE, f"owner-{id}") for id in REPLICAS),
            Applicant(COORDINATOR, ("coordinator",), NODE, "ops"),
            Applicant(CLIENT, ("client",), NODE, "ops"),
        ]
    )
    for id in REPLICAS:
        deployment.spawn_agent(id, AGENT, wait=False)
    deployment.spawn_coordinator(COORDINATOR, wait=False)
    for id in (*REPLICAS, COORDINATOR):
        deployment.wait_ready(id)
    return deployment


async def measure(deployment: LocalDeployment, requests: int) -> list[Figure]:
    """Throughput, and memory of a replica after ``requests``, against after a fifth of them."""
    client = await deployment.client(CLIENT)
    try:
        config = {"mode": "service", "batch_max_requests": BATCH, "batch_delay_ms": 10}
        await client.request(PROTOCOL, config, REPLICAS, coordination=SERVICE)
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            while not (epoch := (await client.read(SERVICE)).epoch):
                await asyncio.sleep(0.1)
        deployment.kill(COORDINATOR)
        quorum = replica_quorum(len(REPLICAS), 1)
        load = OrderingLoad(client.transport.log, epoch, [client.author], quorum, IN_FLIGHT)
        await load.resume_chains()
        await load.run(requests // 5)
        early = _memory(deployment)
        load.latencies.clear()
        slots, started = load.slots, time.perf_counter()
        count = requests - requests // 5
        await load.run(count)
        seconds = time.perf_counter() - started
    finally:
        await client.transport.close()
    late = _memory(deployment)
    name = f"n={len(REPLICAS)} as processes, batch {BATCH}"
    latencies = sorted(load.latencies)
    return [
        Figure(f"{name}: slots", (load.slots - slots) / seconds, "/s"),
        Figure(f"{name}: operations", count / seconds, "/s"),
        Figure(f"{name}: p50", percentile(latencies, 50) * 1e3, "ms"),
        Figure(f"{name}: p99", percentile(latencies, 99) * 1e3, "ms"),
        *(
            Figure(
                f"memory of {id} after {requests:,} operations",
                late[id],
                "MiB",
                late[id] / early[id],
                f"after {requests // 5:,}",
            )
            for id in REPLICAS
        ),
    ]


def _memory(deployment: LocalDeployment) -> dict[str, float]:
    """Resident memory of every replica, MiB."""
    return {id: resident_mib(deployment.daemons[id].pid) for id in REPLICAS}
