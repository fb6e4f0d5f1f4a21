"""Twins: two honest processes with one key and separate journals (Bano et al. 2020).

Each sees another part of the log late, so that both answer the same questions differently. Nothing
in them is changed: whatever two copies of the production host can be brought to sign, they sign.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import inf

from ....core.agent import Agent
from ....core.host.participant import ParticipantHost
from ....core.journal import Journal
from ....core.log import Record
from ....core.sim.adversary import Adversary
from ....core.sim.connection import SimLog, SimTransport
from ....core.sim.network import Link, Network, Sight, chance_of
from ....core.telemetry import NoTelemetry
from ....core.transport import InvitationDelivery
from .puppet import PROTOCOL


class _Copy:
    """An invitation handed to one of the twins; answering it changes nothing."""

    redelivered = False

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    async def ack(self) -> None:
        """It was answered when it was copied."""

    async def progress(self) -> None:
        """As above."""

    async def release(self, delay_ms: int = 0) -> None:
        """As above; the coordinator invites again by itself."""


class TwinTransport(SimTransport):
    """The connection of one twin, with an inbox of its own.

    Args:
        network, link: see :class:`~mabeam.core.sim.connection.SimTransport`.
        log: the log as it sees it; by default the one at the end of the link.
    """

    def __init__(self, network: Network, link: Link, log: SimLog | None = None) -> None:
        super().__init__(network, link)
        self._log = log or self._log
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()

    async def invitations(
        self, node: str, agent: str, capacity: int
    ) -> AsyncIterator[InvitationDelivery]:
        """Copies of what the common inbox gets."""
        while True:
            yield _Copy(await self.inbox.get())


class Twins(Adversary):
    """Two production hosts for one id."""

    name = "twins"
    protocols = (PROTOCOL,)

    def twin_transport(self, side: int, link: Link) -> TwinTransport:
        """The connection of one of the two."""
        return TwinTransport(self.world.network, link)

    def sight(self, side: int) -> Sight:
        """What one of the two sees late: its brother's events, and those of half of the others."""
        delay_s = self.rng.choice((0.3, 1.0, 3.0, inf))
        until = self.world.loop.time() + self.rng.uniform(2.0, 12.0)
        salt = self.rng.randrange(2**16)
        by_author = self.rng.random() < 0.7
        self.note(f"runs twice; twin {side} sees half of it {delay_s:.1f} s late")

        def hides(record: Record) -> bool:
            author = record.subject.rsplit(".", 1)[1]
            if author == self.id:
                return record.subject.split(".", 4)[3] != "_registry"
            if author not in self.world.nodes or ".pub." not in record.subject:
                return False
            place = list(self.world.nodes).index(author) if by_author else record.sequence
            return chance_of(place, 2, salt) != side

        return Sight(hides, delay_s, until)

    async def live(self) -> None:
        """Run both."""
        network = self.world.network
        transports = []
        for side in (0, 1):
            link = network.link(f"{self.id}/{side}")
            transports.append(self.twin_transport(side, link))
        async with asyncio.TaskGroup() as group:
            for side, transport in enumerate(transports):
                await self._register(group, side, transport)
            for side in (0, 1):
                network.link(f"{self.id}/{side}").sights.append(self.sight(side))
            async for delivery in self.transport().invitations(self.id, self.id, 100):
                await delivery.ack()
                for transport in transports:
                    transport.inbox.put_nowait(delivery.payload)

    async def _register(
        self, group: asyncio.TaskGroup, side: int, transport: TwinTransport
    ) -> None:
        """Start one of the two; the second registers behind the first, or both would be mute."""
        journal = Journal(
            self.world.directory / f"{self.id}.{side}.journal", self.id, self.key.key_id
        )
        host = ParticipantHost(
            self.voices[side]() if side < len(self.voices) else Agent(),
            self.author(),
            transport,
            self.world.protocols,
            self.view(),
            journal,
            NoTelemetry(),
            self.clock_ns,
        )
        group.create_task(self._run(host, journal))
        while journal.born is None:
            await asyncio.sleep(0.02)

    async def _run(self, host: ParticipantHost, journal: Journal) -> None:
        try:
            await host.run()
        finally:
            await journal.close()
