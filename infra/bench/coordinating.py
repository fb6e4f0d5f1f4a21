"""Complete coordinations a second and their latency, five agent processes, a real server.

The same deployment then runs on until the log holds the wanted number of events, to see whether the
memory of the daemons stays bounded.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ...core.client import Client
from ..home import Home
from ..local import LocalDeployment
from ..membership import Applicant
from .result import Figure

AGENTS = tuple(f"voter-{number}" for number in range(1, 6))
COORDINATORS = ("bench-c1", "bench-c2")
CLIENT = "bench-client"
PROJECTOR = "bench-projector"
IN_FLIGHT = 48
VOTER = f"{__package__}.voter:make_voter"


def start(home: Path) -> LocalDeployment:
    """A running deployment of five voters and two coordinators; the caller stops it."""
    deployment = LocalDeployment(Home(home))
    deployment.create()
    deployment.start_server()
    deployment.provision()
    deployment.admit_many(
        [
            *(Applicant(id, ("agent",), "bench", f"owner-{id}") for id in AGENTS),
            *(Applicant(id, ("coordinator",), "bench", "ops") for id in COORDINATORS),
            Applicant(CLIENT, ("client",), "bench", "ops"),
            Applicant(PROJECTOR, ("projector",), "bench", "ops"),
        ]
    )
    for id in AGENTS:
        deployment.spawn_agent(id, VOTER, wait=False)
    for id in COORDINATORS:
        deployment.spawn_coordinator(id, wait=False)
    for id in (*AGENTS, *COORDINATORS):
        deployment.wait_ready(id)
    return deployment


async def decide(client: Client, latencies: list[float]) -> None:
    """One coordination from request to verified outcome."""
    started = time.perf_counter()
    await client.decide("simple_consensus", {"proposal": {"sample": 1}}, AGENTS)
    latencies.append(time.perf_counter() - started)


async def run(client: Client, count: int, in_flight: int) -> list[float]:
    """``count`` coordinations, ``in_flight`` at a time; their latencies in seconds, sorted."""
    latencies: list[float] = []
    slots = asyncio.Semaphore(in_flight)

    async def one() -> None:
        try:
            await decide(client, latencies)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            await slots.acquire()
            group.create_task(one())
    return sorted(latencies)


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def memory_of(deployment: LocalDeployment) -> dict[str, float]:
    """Resident memory of the server and of every daemon, MiB."""
    memory = {id: resident_mib(process.pid) for id, process in deployment.daemons.items()}
    if deployment.server is not None and deployment.server.pid is not None:
        memory["nats-server"] = resident_mib(deployment.server.pid)
    return memory


def percentile(values: list[float], percent: int) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, len(values) * percent // 100)]


async def measure(deployment: LocalDeployment, *, unloaded: int, loaded: int) -> list[Figure]:
    """Latency with one coordination at a time, then throughput with many."""
    client = await deployment.client(CLIENT)
    try:
        await run(client, 50, 1)
        quiet = await run(client, unloaded, 1)
        await run(client, 200, IN_FLIGHT)
        started = time.perf_counter()
        busy = await run(client, loaded, IN_FLIGHT)
        rate = loaded / (time.perf_counter() - started)
    finally:
        await client.transport.close()
    return [
        Figure("coordinations, one at a time, p50", percentile(quiet, 50) * 1e3, "ms", aim="< 10"),
        Figure("coordinations, one at a time, p99", percentile(quiet, 99) * 1e3, "ms"),
        Figure(f"coordinations, {IN_FLIGHT} at a time", rate, "/s", aim=">= 200"),
        Figure(f"latency, {IN_FLIGHT} at a time, p50", percentile(busy, 50) * 1e3, "ms"),
        Figure(f"latency, {IN_FLIGHT} at a time, p99", percentile(busy, 99) * 1e3, "ms"),
    ]


async def measure_memory(deployment: LocalDeployment, *, events: int) -> list[Figure]:
    """Memory of each daemon after ``events`` events, against a fifth of them."""
    await asyncio.to_thread(deployment.spawn_projector, PROJECTOR)
    client = await deployment.client(CLIENT)
    operator = await deployment.connect("operator")
    early: dict[str, float] = {}
    try:
        stored = (await operator.log.head()).sequence
        while stored < events:
            await run(client, 250, IN_FLIGHT)
            stored = (await operator.log.head()).sequence
            if not early and stored >= events // 5:
                early = memory_of(deployment)
    finally:
        await client.transport.close()
        await operator.close()
    late = memory_of(deployment)
    return [
        Figure(
            f"memory of {id} after {stored:,} events",
            late[id],
            "MiB",
            late[id] / early[id] if id in early else None,
            f"after {events // 5:,}",
        )
        for id in sorted(late)
    ]
