"""Adversaries: participants that break the rules, as classes one can name, combine and extend.

They know the kernel and no protocol. What a protocol's participant would say they learn by running
its machine; what else could be said, from further agents ("voices") with other opinions. A protocol
adds liars of its own by subclassing and :func:`register`.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator

import msgspec

from ..errors import UsageError
from ..hashing import ZERO32, sha256
from .adversary import Adversary, DishonestAgent
from .rogue import RogueCoordinator


class EquivocatingVoter(DishonestAgent):
    """Signs two different answers to one question, in one chain or as a fork of it."""

    name = "equivocating_voter"

    async def invited(self, coordination: str) -> None:
        """Say one thing, a while later another."""
        fold = self.participant(coordination)
        for first, *others in await self.statements(fold):
            for append in (first, *others):
                fork = append is not first and self.rng.random() < 0.5
                number, previous = self.forger.chains.get(coordination, (1, ZERO32))
                changes = {"author_seq": number - 1, "prev": ZERO32} if fork else {}
                event = self.forger.sign(
                    coordination, fold.epoch, append.type, append.body, append.refs, **changes
                )
                if append is not first:
                    self.note(f"answers again, {append.type}{' as a fork' if fork else ''}")
                await self.publish(event)
                if fork:
                    self.forger.chains[coordination] = number, previous
                await asyncio.sleep(self.rng.choice((0.0, 0.01, 0.1, 2.0)))


class LateVoter(DishonestAgent):
    """Answers when everything is over, then says the opposite."""

    name = "late_voter"

    async def invited(self, coordination: str) -> None:
        """Prepare the answers; send them after the end."""
        fold = self.participant(coordination)
        said = await self.statements(fold)
        while (seen := self.world.observer().coordination(coordination)) and not seen.terminal:
            await asyncio.sleep(0.5)
        for append in (append for appends in said for append in appends):
            body, epoch = append.body, fold.epoch
            self.note(f"answers after the end, {append.type}")
            await self.publish(
                self.forger.sign(coordination, epoch, append.type, body, append.refs)
            )


class _Watcher(DishonestAgent):
    """Acts on what it sees in the log rather than on invitations."""

    async def live(self) -> None:
        """Register, then watch the log."""
        await self.announce()
        async for batch in self.transport().log.follow_all(0):
            for record in batch:
                if self.may_misbehave():
                    await asyncio.sleep(self.rng.choice((0.0, 0.05, 1.0)))
                    self.observe(record.subject, record.wire)

    async def invited(self, coordination: str) -> None:
        """It is not interested."""

    @abstractmethod
    def observe(self, subject: str, wire: bytes) -> None:
        """React to a record."""


FORGERIES = (
    "a flipped bit",
    "what it signed in another's name",
    "a copy",
    "a copy of another class",
    "garbage",
)


class Forger(_Watcher):
    """Stores what others never signed: damaged, re-attributed, under other subjects, garbage."""

    name = "forger"

    def observe(self, subject: str, wire: bytes) -> None:
        """Make a forgery of what it saw."""
        tokens = subject.split(".")
        forgery = self.rng.randrange(5)
        if forgery == 0:
            place = self.rng.randrange(len(wire))
            wire = wire[:place] + bytes((wire[place] ^ 1,)) + wire[place + 1 :]
        elif forgery == 1:
            wire = self._signed_as(tokens[7], tokens[3], tokens[5])
        elif forgery == 2:
            subject = ".".join((*tokens[:7], self.id))
        elif forgery == 3:
            subject = subject.replace(".pub.", ".ctl.")
        else:
            wire = self.rng.randbytes(self.rng.randrange(200))
        self.note(f"stores {FORGERIES[forgery]} under {subject}")
        self.world.network.store_raw(subject, wire)

    def _signed_as(self, author: str, coordination: str, token: str) -> bytes:
        fold = self.world.observer().coordination(coordination)
        epoch = fold.epoch if fold else b""
        kind = token.replace("_", ".", 1)
        number = self.rng.randrange(3)
        return self.forger.sign(
            coordination, epoch, kind, b"\x80", author=author, author_seq=number
        ).wire


class Replayer(_Watcher):
    """Stores again what others have signed, here and in coordinations it was not meant for."""

    name = "replayer"

    def observe(self, subject: str, wire: bytes) -> None:
        """Repeat what it saw, or something old."""
        records = self.world.network.broker.records
        old = self.rng.choice(records)
        elsewhere = self.rng.choice(records).subject.split(".")[3]
        tokens = old.subject.split(".")
        mixed = ".".join((*tokens[:3], elsewhere, *tokens[4:]))
        choice = self.rng.choice(((subject, wire), (old.subject, old.wire), (mixed, old.wire)))
        self.note(f"stores again, under {choice[0]}")
        self.world.network.store_raw(*choice)


class Flooder(DishonestAgent):
    """Signs a flood of events that mean nothing, false accusations among them."""

    name = "flooder"

    async def invited(self, coordination: str) -> None:
        """Send junk until there was enough."""
        fold = self.participant(coordination)
        for type_name, body, epoch in self._junk(coordination, fold.epoch):
            if not self.may_misbehave():
                return
            self.note(f"signs junk as {type_name}")
            await self.publish(self.forger.sign(coordination, epoch, type_name, body))
            await asyncio.sleep(self.rng.choice((0.0, 0.02)))

    def _junk(self, coordination: str, epoch: bytes) -> Iterator[tuple[str, bytes, bytes]]:
        bodies = (b"\x80", b"", b"\xc1", b"\x81\xa1a\x91" * 40, self.rng.randbytes(64))
        kinds = [
            kind.name
            for spec in self.world.protocols.values()
            for kind in spec.event_types
            if "pub" in kind.classes
        ]
        for body in bodies:
            for kind in (*kinds, "evidence.submitted", "outcome.reported", "deadline.passed"):
                yield kind, body, self.rng.choice((epoch, b"", sha256(b"another")))
        for accused in self.world.nodes:
            yield "evidence.submitted", self._accusation(coordination, accused), epoch
        yield "coordination.cancel_requested", b"\x80", epoch

    def _accusation(self, coordination: str, accused: str) -> bytes:
        wires = [
            verdict.record.wire
            for verdict in self.world.verdicts(coordination)
            if verdict.event is not None and verdict.event.author == accused
        ]
        proof = tuple((wires * 2)[:2]) or (b"", b"")
        ids = (sha256(proof[0]), sha256(proof[-1]))
        body = {"rule": "E7", "accused": accused, "proof_ids": ids, "proof": proof}
        return msgspec.msgpack.encode(body)


ADVERSARIES: dict[str, type[Adversary]] = {
    each.name: each
    for each in (EquivocatingVoter, Flooder, Forger, LateVoter, Replayer, RogueCoordinator)
}
"""Adversary classes by name."""


def register(adversary: type[Adversary]) -> type[Adversary]:
    """Make an adversary available by its name; usable as a decorator.

    Raises:
        UsageError: it has no name, or the name is taken.
    """
    name = adversary.name
    if not name or ADVERSARIES.get(name, adversary) is not adversary:
        raise UsageError(f"adversary name {name!r} is missing or taken")
    ADVERSARIES[name] = adversary
    return adversary


def adversary_class(name: str) -> type[Adversary]:
    """The class registered under a name.

    Raises:
        UsageError: there is none.
    """
    if name not in ADVERSARIES:
        raise UsageError(
            f"there is no adversary {name!r}", hint=f"Known: {', '.join(sorted(ADVERSARIES))}."
        )
    return ADVERSARIES[name]


def adversaries_against(protocol: str) -> list[str]:
    """Names of the adversaries that a protocol can have, in the order of their registration."""
    return [
        name
        for name, kind in ADVERSARIES.items()
        if not kind.protocols or protocol in kind.protocols
    ]
