"""Three replicas: a change of leader costs time, never an event."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from waiting import wait_until_async

from mabeam.core.bus.jetstream import JetStreamTransport, connect
from mabeam.core.bus.nkey import encode_user_seed, user_public_key
from mabeam.core.bus.production import production_problems
from mabeam.core.bus.server_config import Cluster, Member, Role, ServerSettings, server_config
from mabeam.core.errors import LogUnavailableError
from mabeam.core.hashing import sha256
from mabeam.core.log import Submission
from mabeam.infra.embedded_server import free_port
from mabeam.infra.nats_server import EmbeddedNats

pytestmark = pytest.mark.integration

ROLES: dict[str, Role] = {
    "operator": "operator",
    "coord": "coordinator",
    "proj": "projector",
    "ann": "agent",
}


class ThreeServers:
    """A cluster on loopback; members may connect to any server."""

    def __init__(self, directory: Path) -> None:
        ports = [free_port() for _ in range(3)]
        routes = tuple(f"nats-route://127.0.0.1:{port}" for port in ports)
        members = [
            Member(name, "n1", frozenset({role}), user_public_key(sha256(name.encode())))
            for name, role in ROLES.items()
        ]
        self.opened: list[JetStreamTransport] = []
        self.servers = []
        for number, port in enumerate(ports):
            settings = ServerSettings(
                server_name=f"s{number}",
                http=None,
                cluster=Cluster("mabeam", f"127.0.0.1:{port}", routes),
            )
            config = server_config(members, settings)
            self.servers.append(EmbeddedNats(directory / f"s{number}", config=config))

    async def start(self) -> None:
        for server in self.servers:
            await server.start_async(wait=False)
        for server in self.servers:
            await asyncio.to_thread(server.wait_ready)

    async def connect(self, name: str) -> JetStreamTransport:
        url = ",".join(server.client_url for server in self.servers)
        seed = encode_user_seed(sha256(name.encode()))
        transport = await connect(url, id=name, role=ROLES[name], nkey_seed=seed)
        self.opened.append(transport)
        return transport


@pytest.fixture
async def cluster() -> AsyncIterator[ThreeServers]:
    directory = Path(tempfile.mkdtemp(prefix="mabeam-"))
    cluster = ThreeServers(directory)
    await cluster.start()
    operator = await cluster.connect("operator")
    async with asyncio.timeout(20):
        while True:  # the servers answer before they have elected a leader
            try:
                await operator.provision(replicas=3)
                break
            except LogUnavailableError:
                await asyncio.sleep(0.1)
    yield cluster
    for transport in cluster.opened:
        await transport.close()
    for server in cluster.servers:
        await server.stop_async()
    shutil.rmtree(directory, ignore_errors=True)


async def _leader(operator: JetStreamTransport, cluster: ThreeServers) -> EmbeddedNats:
    """The server that leads EVT."""
    reply = await operator._pipeline.request("$JS.API.STREAM.INFO.EVT", b"")
    name = json.loads(reply.data)["cluster"]["leader"]
    return cluster.servers[int(name[1:])]


async def test_change_of_leader_loses_nothing(
    cluster: ThreeServers, make_submission: Callable[..., Submission]
) -> None:
    operator, writer = cluster.opened[0], await cluster.connect("coord")
    whole, one = await cluster.connect("proj"), await cluster.connect("ann")
    seen_whole: list[int] = []
    seen_one: list[int] = []

    async def follow_whole() -> None:
        async for batch in whole.log.follow_all(0):
            seen_whole.extend(record.sequence for record in batch)

    async def follow_one() -> None:
        async for record in one.log.follow("chain"):
            seen_one.append(record.sequence)

    async def chain() -> list[int]:
        """What a coordinator does: every event under the guard of the one before."""
        sequences = [0]
        for number in range(150):
            event = make_submission(number, coordination="chain", expected=sequences[-1])
            sequences.append((await writer.log.append(event)).sequence)
        return sequences[1:]

    async def bulk() -> set[int]:
        events = (make_submission(n, coordination="bulk") for n in range(1000))
        return {a.sequence for a in await asyncio.gather(*map(writer.log.append, events))}

    assert one.connection.is_clustered
    tasks = [asyncio.create_task(follow_whole()), asyncio.create_task(follow_one())]
    chained, bulked = asyncio.create_task(chain()), asyncio.create_task(bulk())
    await wait_until_async(lambda: len(seen_one) >= 50)
    await operator._pipeline.request("$JS.API.STREAM.LEADER.STEPDOWN.EVT", b"")
    sequences, others = await chained, await bulked
    assert len(set(sequences) | others) == 1150
    await wait_until_async(lambda: len(seen_whole) >= 1150 and len(seen_one) >= 150)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen_whole == list(range(1, 1151))
    assert seen_one == sequences
    assert [r.sequence for r in await writer.log.read("chain")] == sequences


@pytest.mark.slow
async def test_loss_of_the_leader_loses_nothing(
    cluster: ThreeServers, make_submission: Callable[..., Submission]
) -> None:
    """The election takes up to nine seconds, in which nothing can be stored."""
    operator, writer = cluster.opened[0], await cluster.connect("coord")
    sequences = [0]
    for number in range(50):
        event = make_submission(number, expected=sequences[-1])
        sequences.append((await writer.log.append(event)).sequence)
    victim = await _leader(operator, cluster)
    victim.kill()
    for number in range(50, 100):
        event = make_submission(number, expected=sequences[-1])
        sequences.append((await writer.log.append(event)).sequence)
    assert [r.sequence for r in await writer.log.read("c1")] == sequences[1:]
    await victim.start_async()
    survivor = next(server for server in cluster.servers if server is not victim)
    assert await production_problems(survivor.monitor_url) == []
