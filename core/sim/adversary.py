"""What all adversaries can do: sign anything with an admitted key, and know the honest answer."""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import msgspec

from ..agent import answer
from ..coordination import Coordination
from ..envelope import Event
from ..errors import LogError, PeerProtocolError
from ..identity import Role
from ..kernel_events import AgentRegistered
from ..log import Submission
from ..machine import Append, Ask
from ..names import REGISTRY, EventClass
from .forger import Forger
from .nodes import MakeAgent, Node

if TYPE_CHECKING:
    from .world import World

MAX_MISCHIEF = 60
"""Events one adversary adds to a run beyond what its role calls for."""


class Adversary(Node):
    """A node that signs whatever it likes with the key it was admitted with.

    Args:
        world, id: see :class:`~mabeam.core.sim.nodes.Node`.
        voices: make agents whose opinions differ, for whoever needs something to say.

    Class attributes:
        name: name in the registry.
        roles: roles it is admitted with.
        protocols: names of the protocols it is about; empty for any.
        blocks: whether it can keep coordinations from ending; no liveness is then asked for.
    """

    name: ClassVar[str] = ""
    roles: ClassVar[tuple[Role, ...]] = ("agent",)
    protocols: ClassVar[tuple[str, ...]] = ()
    blocks: ClassVar[bool] = False

    def __init__(self, world: World, id: str, voices: tuple[MakeAgent, ...] = ()) -> None:
        super().__init__(world, id)
        self.voices = voices
        self.rng = random.Random(f"{world.seed}/adversary/{id}")
        self.mischief = 0

    @cached_property
    def forger(self) -> Forger:
        """Signs for it; it is admitted after it was made."""
        return Forger(self.id, self.key, self.clock_ns)

    def may_misbehave(self) -> bool:
        """Count one more act; false once there were enough."""
        self.mischief += 1
        return self.mischief <= MAX_MISCHIEF

    def note(self, text: str) -> None:
        """Let the story of the run tell what this adversary does."""
        self.world.note(f"{self.id} {text}")

    async def publish(
        self, event: Event, event_class: EventClass = "pub", expected: int | None = None
    ) -> bool:
        """Append an event; whether it is stored."""
        submission = Submission(event, event_class, self.id, expected)
        try:
            await self.transport().log.append(submission)
        except LogError:
            return False
        return True


class DishonestAgent(Adversary):
    """Registers like an agent and acts on invitations in its own way."""

    async def announce(self) -> None:
        """Register, unless it is."""
        if self.world.observer().keyring.agent(self.id).registered is None:
            event = self.forger.sign(REGISTRY, b"", "agent.registered", AgentRegistered(self.id))
            while not await self.publish(event):
                await asyncio.sleep(1)

    async def live(self) -> None:
        """Register, then act on every invitation."""
        await self.announce()
        async with asyncio.TaskGroup() as group:
            seen: dict[tuple[str, int], None] = {}
            async for delivery in self.transport().invitations(self.id, self.id, 100):
                await delivery.ack()
                invitation = msgspec.msgpack.decode(delivery.payload)
                key = invitation["coordination"], len(invitation["records"])
                if key not in seen:
                    seen[key] = None
                    group.create_task(self.invited(key[0]))

    @abstractmethod
    async def invited(self, coordination: str) -> None:
        """Take part in a coordination, in some way."""

    def participant(self, coordination: str) -> Coordination:
        """The fold an honest participant would have after all coordinator events stored so far."""
        observer = self.world.observer()
        fold = Coordination(
            coordination,
            self.world.protocols,
            observer.keyring.public_key,
            role="participant",
            author=self.id,
            secret=lambda label: self.author().secret(coordination, label),
            invited=True,
        )
        for verdict in self.world.verdicts(coordination):
            if verdict.event is not None and verdict.record.subject.split(".", 5)[4] == "ctl":
                try:
                    fold.apply(verdict.event)
                except PeerProtocolError:
                    continue  # from before the opening, or of no effect
        return fold

    async def statements(self, fold: Coordination) -> list[list[Append]]:
        """For each question of the machine, what each voice would have it say."""
        asks = [intent for intent in fold.intents() if isinstance(intent, Ask)]
        return [[await self._say(ask, voice) for voice in self.voices] for ask in asks]

    async def _say(self, ask: Ask, voice: MakeAgent) -> Append:
        return ask.reply(await answer(voice(), ask))
