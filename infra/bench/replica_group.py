"""A replicated service within one process: real hosts, keys and journals over a log in memory.

A coordinator opens the service and is then ended: replicas do not depend on one, and its fold would
only add one more reader to what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.agent import Agent
from ...core.author import Author
from ...core.client import Client
from ...core.host.coordinator import CoordinatorHost
from ...core.host.participant import ParticipantHost
from ...core.host.registry import RegistryView
from ...core.identity import Certificate, KeyPair, Role, issue_certificate
from ...core.journal import Journal
from ...core.kernel_events import AgentAdmitted
from ...core.log import Submission
from ...core.memory_transport import MemoryBroker, MemoryTransport
from ...core.names import REGISTRY, ROOT_AUTHOR
from ...core.telemetry import NoTelemetry
from ...protocols import PROTOCOLS
from ...protocols.tolerance import replica_quorum
from .ordering_load import SERVICE, OrderingLoad

NODE = "bench"
COORDINATOR = "coordinator"
START_TIMEOUT_S = 30
PROTOCOL = "byzantine_consensus"


class Replica(Agent):
    """Has no opinion of its own: in ``service`` mode replicas only order."""


def make_replica() -> Replica:
    """What ``mabeam agent run`` calls."""
    return Replica()


class ReplicaGroup:
    """``count`` replicas and some clients of one service.

    Args:
        directory: where the journals are kept; its file system decides what an fsync costs.
        count: n.
        clients: ids of clients to admit.

    Attributes:
        broker: the log.
        journals: by id.
        epoch: of the service, once :meth:`open` has returned.
    """

    def __init__(self, directory: Path, count: int, clients: tuple[str, ...]) -> None:
        self.replicas = tuple(f"replica-{number:02}" for number in range(count))
        self.clients = clients
        self.broker = MemoryBroker()
        self.epoch = b""
        self._directory = directory
        self._root = KeyPair.generate()
        self._keys: dict[str, KeyPair] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.journals: dict[str, Journal] = {}

    async def open(self, config: dict[str, Any]) -> None:
        """Start everything and open the service; returns when all replicas follow it."""
        await self._admit_all()
        hosts = [self._start_replica(id) for id in self.replicas]
        coordinator = CoordinatorHost(
            self.author(COORDINATOR),
            self._transport(),
            PROTOCOLS,
            self._view(),
            self._journal(COORDINATOR),
            NoTelemetry(),
        )
        self._tasks[COORDINATOR] = asyncio.create_task(coordinator.run())
        await self._until(lambda: all(host.journal.born is not None for host in hosts))
        client = Client(
            self.author(self.clients[0]), self._transport(), PROTOCOLS, self._root.public_key
        )
        config = {"mode": "service", **config}
        await client.request(PROTOCOL, config, self.replicas, coordination=SERVICE)
        await self._until(lambda: all(self._is_following(host) for host in hosts))
        self.epoch = (await client.read(SERVICE)).epoch
        await self.crash(COORDINATOR)

    async def load(self, in_flight: int, operations: int = 1) -> OrderingLoad:
        """The clients of the open service."""
        authors = [self.author(id) for id in self.clients]
        count = len(self.replicas)
        quorum = replica_quorum(count, (count - 1) // 3)
        load = OrderingLoad(
            self._transport().log, self.epoch, authors, quorum, in_flight, operations
        )
        await load.resume_chains()
        return load

    def author(self, id: str) -> Author:
        """A signer for an admitted id."""
        return Author(id, NODE, self._keys[id], time.time_ns)

    async def crash(self, id: str) -> None:
        """End a host as a crash would: nothing is finished or handed over."""
        task = self._tasks.pop(id)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def restart(self, id: str) -> None:
        """End a replica as a crash would and start it again, with its journal read from disk."""
        await self.crash(id)
        await self.journals[id].close()
        self._start_replica(id)

    async def close(self) -> None:
        """End everything."""
        for id in list(self._tasks):
            await self.crash(id)
        for journal in self.journals.values():
            await journal.close()

    async def _admit_all(self) -> None:
        operator = Author(ROOT_AUTHOR, NODE, self._root, time.time_ns)
        roles: dict[str, Role] = dict.fromkeys(self.replicas, "agent")
        roles |= dict.fromkeys(self.clients, "client")
        roles[COORDINATOR] = "coordinator"
        for serial, (id, role) in enumerate(roles.items(), 1):
            key = self._keys[id] = KeyPair.generate()
            certificate = Certificate(
                id, (role,), key.public_key, "", f"owner-{id}", ROOT_AUTHOR, 0, 2**62, serial
            )
            body = AgentAdmitted(issue_certificate(certificate, self._root))
            event = operator.sign(REGISTRY, b"", "agent.admitted", body)
            await self._transport().log.append(Submission(event, "ctl", NODE))

    def _journal(self, id: str) -> Journal:
        journal = Journal(self._directory / f"{id}.journal", id, self._keys[id].key_id)
        self.journals[id] = journal
        return journal

    def _start_replica(self, id: str) -> ParticipantHost:
        journal = self._journal(id)
        host = ParticipantHost(
            Replica(),
            self.author(id),
            self._transport(),
            PROTOCOLS,
            self._view(),
            journal,
            NoTelemetry(),
        )
        self._tasks[id] = asyncio.create_task(host.run())
        return host

    def _is_following(self, host: ParticipantHost) -> bool:
        return bool(host.journal.slots("followed", 2))

    def _transport(self) -> MemoryTransport:
        return MemoryTransport(self.broker)

    def _view(self) -> RegistryView:
        return RegistryView(self._root.public_key, PROTOCOLS, NoTelemetry())

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not condition():
                for task in self._tasks.values():
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)
