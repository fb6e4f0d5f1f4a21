"""A coordinator that cheats: takes coordinations over and announces what the events do not give."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec

from ..coordination import Coordination
from ..hashing import ZERO32
from ..identity import Role
from ..kernel_events import (
    CoordinationCancelled,
    CoordinationClaimed,
    CoordinationDecided,
    Cut,
    InputRejected,
)
from ..machine import TERMINAL_KEY, After, Append
from .adversary import Adversary

MAX_CLAIMS = 3
"""Times it takes one coordination over; a coordinator that never stops can delay without end."""


class RogueCoordinator(Adversary):
    """Claims what others run, then signs false results, early deadlines and false notices."""

    name = "rogue_coordinator"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)

    async def live(self) -> None:
        """Watch the log for coordinations to steal."""
        stolen: dict[str, int] = {}
        async for batch in self.transport().log.follow_all(0):
            name = batch[-1].subject.split(".")[3]
            fold = self.world.observer().coordination(name)
            if fold is None or fold.request is None or fold.terminal is not None:
                continue
            if fold.coordinator == self.id:
                await self._cheat(fold)
            elif self.rng.random() < 0.2 and stolen.get(name, 0) < MAX_CLAIMS:
                stolen[name] = stolen.get(name, 0) + 1
                await self._steal(fold)

    async def _steal(self, fold: Coordination) -> None:
        previous = fold.claim.id if fold.claim else ZERO32
        claim = CoordinationClaimed(fold.term + 1, previous)
        self.note(f"claims {fold.id}, term {claim.term}")
        event = self.forger.sign(fold.id, fold.epoch, "coordination.claimed", claim)
        await self.publish(event, "ctl", self._last_control(fold.id))

    async def _cheat(self, fold: Coordination) -> None:
        for kind, body, refs in list(self._lies(fold)):
            if self.rng.random() < 0.5 or not self.may_misbehave():
                continue
            self.note(f"signs {kind} of its own")
            event = self.forger.sign(fold.id, fold.epoch, kind, body, refs)
            await self.publish(event, "ctl", self._last_control(fold.id))
            await asyncio.sleep(self.rng.choice((0.0, 0.1)))

    def _last_control(self, coordination: str) -> int:
        return self.world.network.broker.last_control.get(coordination, 0)

    def _lies(self, fold: Coordination) -> Iterator[tuple[str, Any, tuple[bytes, ...]]]:
        if fold.opened is None:
            return
        for intent in fold.intents():
            if isinstance(intent, After):
                yield intent.then.type, intent.then.body, intent.then.refs  # much too early
            elif isinstance(intent, Append) and intent.key == TERMINAL_KEY:
                yield from _false_endings(intent)
        false = CoordinationDecided({"protocol": "any", "result": "decided"}, 1, Cut(0, ZERO32))
        yield "coordination.decided", false, ()
        yield "coordination.cancelled", CoordinationCancelled("nobody asked for it"), ()
        yield "coordination.input_rejected", InputRejected(fold.opened.id, "late"), ()


def _false_endings(due: Append) -> Iterator[tuple[str, Any, tuple[bytes, ...]]]:
    """Endings that look like the one that is due."""
    body = due.body
    if isinstance(body, CoordinationDecided):
        outcome = {**body.outcome, "result": "something else"}
        yield due.type, msgspec.structs.replace(body, outcome=outcome), due.refs
        yield due.type, msgspec.structs.replace(body, inputs_upto=body.inputs_upto + 1), due.refs
        yield due.type, body, tuple(reversed(due.refs[:-1]))
