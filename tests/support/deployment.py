"""A small deployment within one process: root key, registry, agents, coordinators, a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

from mabeam.core.agent import Agent
from mabeam.core.author import Author
from mabeam.core.client import Client
from mabeam.core.host.coordinator import CoordinatorHost
from mabeam.core.host.participant import ParticipantHost
from mabeam.core.host.registry import RegistryView
from mabeam.core.identity import Certificate, KeyPair, Role, issue_certificate
from mabeam.core.journal import Journal
from mabeam.core.kernel_events import AgentAdmitted, AgentKeyRotated, AgentRevoked
from mabeam.core.log import Submission
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.names import REGISTRY, ROOT_AUTHOR
from mabeam.core.telemetry import NoTelemetry, Telemetry
from mabeam.core.transport import RequestDelivery, Transport
from mabeam.protocols import PROTOCOLS

NODE = "n1"
Connect = Callable[[str], Transport]


class Deployment:
    """Everything a test needs to run real hosts; tasks end with the context.

    Args:
        directory: where journals are kept.
        connect: gives the transport of an id; one in-memory broker by default.
    """

    def __init__(self, directory: Path, connect: Connect | None = None) -> None:
        self.directory = directory
        self.broker = MemoryBroker()
        self.connect: Connect = connect or (lambda _: MemoryTransport(self.broker))
        self.root = KeyPair.generate()
        self.keys: dict[str, KeyPair] = {}
        self.operator = Author(ROOT_AUTHOR, NODE, self.root, time.time_ns)
        self._serial = 0
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[CoordinatorHost | ParticipantHost, asyncio.Task[None]] = {}
        self._journals: dict[CoordinatorHost | ParticipantHost, Journal] = {}

    async def __aenter__(self) -> Deployment:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for journal in self._journals.values():
            await journal.close()

    async def admit(self, id: str, *roles: Role, controller: str = "ops") -> KeyPair:
        """Admit an id with a fresh key."""
        key = self.keys[id] = KeyPair.generate()
        self._serial += 1
        certificate = Certificate(
            id, roles, key.public_key, "", controller, ROOT_AUTHOR, 0, 2**62, self._serial
        )
        wire = issue_certificate(certificate, self.root)
        await self._operate("agent.admitted", AgentAdmitted(wire))
        return key

    async def rotate(self, id: str, *roles: Role) -> KeyPair:
        """Give an id a fresh key and put the journal of the old one aside."""
        journal = self.directory / f"{id}.journal"
        if journal.exists():
            journal.rename(journal.with_suffix(f".{self.keys[id].key_id.hex()}"))
        key = self.keys[id] = KeyPair.generate()
        self._serial += 1
        certificate = Certificate(
            id, roles, key.public_key, "", "ops", ROOT_AUTHOR, 0, 2**62, self._serial
        )
        wire = issue_certificate(certificate, self.root)
        await self._operate("agent.key_rotated", AgentKeyRotated(wire))
        return key

    async def revoke(self, id: str) -> None:
        """Revoke an id."""
        await self._operate("agent.revoked", AgentRevoked(id, "test"))

    async def _operate(
        self, kind: str, body: AgentAdmitted | AgentKeyRotated | AgentRevoked
    ) -> None:
        event = self.operator.sign(REGISTRY, b"", kind, body)
        await self.connect(ROOT_AUTHOR).log.append(Submission(event, "ctl", NODE))

    def author(self, id: str) -> Author:
        """A signer for an admitted id."""
        return Author(id, NODE, self.keys[id], time.time_ns)

    def journal(self, id: str) -> Journal:
        """The journal of an admitted id."""
        return Journal(self.directory / f"{id}.journal", id, self.keys[id].key_id)

    def view(self) -> RegistryView:
        """A fresh registry view."""
        return RegistryView(self.root.public_key, PROTOCOLS, NoTelemetry())

    def start(self, host: CoordinatorHost | ParticipantHost) -> asyncio.Task[None]:
        """Run a host in the background."""
        task = asyncio.create_task(host.run())
        self._tasks.append(task)
        self._running[host] = task
        return task

    async def kill(self, host: CoordinatorHost | ParticipantHost) -> None:
        """End a host as a crash would: nothing is finished or handed over."""
        task = self._running.pop(host)
        task.cancel()
        await asyncio.wait({task})
        await self._journals.pop(host).close()  # the system does the same: it ends the lock

    def hand(self, host: CoordinatorHost, delivery: RequestDelivery) -> asyncio.Task[None]:
        """Deliver a request to a coordinator past the queue."""

        async def coordinate() -> None:
            await host._ready.wait()
            await host._coordinate(delivery)

        task = asyncio.create_task(coordinate())
        self._tasks.append(task)
        return task

    async def finished(self, host: CoordinatorHost | ParticipantHost) -> None:
        """Wait until a drained host has ended."""
        await asyncio.wait_for(self._running.pop(host), 10)
        await self._journals.pop(host).close()

    async def coordinator(
        self, id: str, *, capacity: int = 256, telemetry: Telemetry | None = None
    ) -> CoordinatorHost:
        """Admit and run a coordinator."""
        if id not in self.keys:
            await self.admit(id, "coordinator")
        host = CoordinatorHost(
            self.author(id),
            self.connect(id),
            PROTOCOLS,
            self.view(),
            journal := self.journal(id),
            telemetry or NoTelemetry(),
            capacity=capacity,
        )
        self._journals[host] = journal
        self.start(host)
        return host

    async def agent(
        self,
        id: str,
        agent: Agent,
        *,
        controller: str = "ops",
        telemetry: Telemetry | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> ParticipantHost:
        """Admit and run an agent; returns once it is registered."""
        if id not in self.keys:
            await self.admit(id, "agent", controller=controller)
        view = self.view()
        host = ParticipantHost(
            agent,
            self.author(id),
            self.connect(id),
            PROTOCOLS,
            view,
            journal := self.journal(id),
            telemetry or NoTelemetry(),
            clock_ns,
        )
        self._journals[host] = journal
        task = self.start(host)
        registered = asyncio.create_task(
            view.until(lambda: view.keyring.agent(id).registered is not None)
        )
        await asyncio.wait({task, registered}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return host

    async def client(self, id: str = "client") -> Client:
        """Admit a client."""
        if id not in self.keys:
            await self.admit(id, "client")
        return Client(self.author(id), self.connect(id), PROTOCOLS, self.root.public_key)
