"""Nodes: the processes of a simulated deployment, each with a clock and a supervisor of its own.

A node runs a production host. It can crash (everything in memory is gone, what it had sent still
lands), come back with or without its sign-once journal, be slow and have a wrong clock. A host that
ends by itself is started again, as a service manager would.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..agent import Agent
from ..author import Author
from ..client import Client
from ..errors import LogError
from ..host.coordinator import CoordinatorHost
from ..host.health import HEARTBEAT_S, seal_heartbeat
from ..host.participant import ParticipantHost
from ..host.registry import RegistryView
from ..identity import KeyPair
from ..journal import Journal
from ..telemetry import NoTelemetry
from ..transport import Heartbeat
from .connection import SimTransport

if TYPE_CHECKING:
    from .world import World

RESTART_S = 1.0
"""Pause before a host that ended by itself is started again."""

MakeAgent = Callable[[], Agent]


class Node(ABC):
    """One process.

    Args:
        world: where it lives.
        id: the id it acts for.

    Attributes:
        skew_ms: how far its clock is ahead.
        deaths: why its host ended by itself, beyond what an unreachable log explains.
        has_lost_journal: whether its disk was gone once; what it had not sent by then is lost.
    """

    def __init__(self, world: World, id: str) -> None:
        self.world = world
        self.id = id
        self.skew_ms = 0
        self.deaths: list[str] = []
        self.has_lost_journal = False
        self._life: asyncio.Task[None] | None = None

    @property
    def key(self) -> KeyPair:
        """Its event key."""
        return self.world.keys[self.id]

    @property
    def is_up(self) -> bool:
        """Whether the process runs."""
        return self._life is not None

    def clock_ns(self) -> int:
        """Its wall clock."""
        return self.world.loop.time_ns() + self.skew_ms * 1_000_000

    def author(self) -> Author:
        """A signer that knows of nothing signed before."""
        return Author(self.id, self.id, self.key, self.clock_ns)

    def transport(self) -> SimTransport:
        """A new connection over the node's link."""
        network = self.world.network
        return SimTransport(network, network.link(self.id))

    def journal(self) -> Journal:
        """Its sign-once journal, which survives a crash."""
        return Journal(self._journal_path, self.id, self.key.key_id)

    def lose_journal(self) -> None:
        """The disk is gone; only while the process is down."""
        self._journal_path.unlink(missing_ok=True)
        self.has_lost_journal = True

    @property
    def _journal_path(self) -> Path:
        return self.world.directory / f"{self.id}.journal"

    def view(self) -> RegistryView:
        """A fresh view of the registry."""
        world = self.world
        return RegistryView(world.root.public_key, world.protocols, NoTelemetry())

    @abstractmethod
    async def live(self) -> None:
        """Run until the end of the process."""

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self._life is None:
            self._life = asyncio.create_task(self._supervise())

    async def crash(self) -> None:
        """End the process as ``kill -9`` does."""
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            await asyncio.wait({life})

    async def _supervise(self) -> None:
        while True:
            try:
                await self.live()
                return
            except Exception as error:  # whatever it is, the service manager starts it again
                self.deaths += [repr(each) for each in _causes(error) if not _is_outage(each)]
            await asyncio.sleep(RESTART_S)


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    else:
        yield error


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, LogError)


class CoordinatorNode(Node):
    """Runs a coordinator host with a journal on disk."""

    host: CoordinatorHost | None = None

    async def live(self) -> None:
        """See :class:`Node`."""
        journal = self.journal()
        self.host = CoordinatorHost(
            self.author(),
            self.transport(),
            self.world.protocols,
            self.view(),
            journal,
            NoTelemetry(),
            clock_ns=self.clock_ns,
        )
        try:
            await self.host.run()
        finally:
            await journal.close()


class AgentNode(Node):
    """Runs a participant host with a journal on disk.

    Args:
        world, id: see :class:`Node`.
        make_agent: makes the agent of one process life.
    """

    def __init__(self, world: World, id: str, make_agent: MakeAgent) -> None:
        super().__init__(world, id)
        self._make_agent = make_agent

    async def live(self) -> None:
        """See :class:`Node`."""
        journal = self.journal()
        transport, view = self.transport(), self.view()
        agent = self._make_agent()
        host = ParticipantHost(
            agent,
            self.author(),
            transport,
            self.world.protocols,
            view,
            journal,
            NoTelemetry(),
            self.clock_ns,
        )
        beating = asyncio.create_task(self._beat(transport, host))
        try:
            await host.run()
        finally:
            beating.cancel()
            await journal.close()

    async def _beat(self, transport: SimTransport, host: ParticipantHost) -> None:
        while True:
            beat = Heartbeat(self.id, self.id, self.clock_ns(), 100_000, 2**20, len(host.tasks))
            await transport.beat(self.id, self.id, seal_heartbeat(beat, self.key))
            await asyncio.sleep(HEARTBEAT_S)


class ClientNode(Node):
    """A client that asks for coordinations and follows all of them to their end.

    Attributes:
        client: the production client.
        seen: id of the terminal event it saw in force, and when, by coordination.
    """

    def __init__(self, world: World, id: str) -> None:
        super().__init__(world, id)
        self.client = Client(
            self.author(), self.transport(), world.protocols, world.root.public_key
        )
        self.seen: dict[str, tuple[bytes, float]] = {}

    async def live(self) -> None:
        """A client acts when it is asked to."""

    async def follow(self, coordination: str) -> None:
        """Follow a coordination to its end, whatever the connection does."""
        while coordination not in self.seen:
            try:
                async for step in self.client.watch(coordination):
                    terminal = step.coordination.terminal
                    if terminal is not None:
                        self.seen[coordination] = terminal.id, self.world.loop.time()
                        return
            except LogError:
                await asyncio.sleep(RESTART_S)
