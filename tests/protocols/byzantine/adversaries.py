"""Faulty replicas as classes: each is a replica whose host misbehaves in one stated way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from mabeam.core.hashing import sha256
from mabeam.core.machine import Append, LogEvent
from mabeam.protocols.byzantine.digests import batch_digest
from mabeam.protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    PRE_PREPARE,
    PREPARE,
    NewViewSent,
    PreparedEntry,
    PrePrepareSent,
    SlotProposal,
    ViewChangeSent,
)
from tests.protocols.byzantine.network import COORDINATION, Network, Node, log_event

replace = msgspec.structs.replace
Maker = Callable[[Network, str], Iterable[Node]]


class Faulty(Node):
    """Not one of those the invariants speak of."""

    honest = False
    correct = False


class Silent(Faulty):
    """Reads and says nothing."""

    correct = True

    def react(self) -> None:
        """Nothing."""


class Slow(Faulty):
    """Correct, but everything reaches it long after the others."""

    correct = True

    def receive(self, event: LogEvent) -> None:
        """Fold late."""
        self.network.at(self.network.now + 700, lambda: super(Slow, self).receive(event))


class EquivocatingPrimary(Faulty):
    """Proposes a second batch for every slot: the same request twice removed, or none known."""

    def publish(self, append: Append) -> None:
        """Publish a contradiction next to each proposal and vote."""
        body = append.body
        if append.type == PRE_PREPARE:
            assert isinstance(body, PrePrepareSent)
            other = self.network.random.choice(
                [each for each in self.machine.requests.known() if each not in body.request_ids]
                or [sha256(b"nothing")]
            )
            digest = batch_digest(COORDINATION, (other,))
            twin = PrePrepareSent(body.view, body.sequence, digest, (other,))
            first, second = (body, twin) if self.network.random.random() < 0.5 else (twin, body)
            self.sign(PRE_PREPARE, first, append.refs)
            self.sign(PRE_PREPARE, second, append.refs)
            return
        super().publish(append)
        if append.type in (PREPARE, COMMIT):
            for digest in sorted(self.machine.executor.batches):
                if digest != body.batch_digest:  # type: ignore[attr-defined]
                    self.sign(append.type, replace(body, batch_digest=digest), append.refs)


class Liar(Faulty):
    """Knows the protocol and lies in what only validation can catch (TST-3)."""

    mute_below = 0

    def publish(self, append: Append) -> None:
        """Publish a lie instead of, or next to, the truth."""
        body, chance = append.body, self.network.random.random()
        if isinstance(body, PrePrepareSent) and chance < 0.7:
            self.mute_below = body.view + 1
        if append.type in (PRE_PREPARE, PREPARE, COMMIT) and body.view < self.mute_below:  # type: ignore[attr-defined]
            self.machine._intents = None
            self.machine._note_own(log_event(0, self.author, append.type, body))
            return
        if isinstance(body, ViewChangeSent):
            body = self.forge_view_change(body, chance)
        elif isinstance(body, NewViewSent):
            body = self.forge_new_view(body, chance)
        elif append.type == CHECKPOINT:
            body = replace(body, state_root=sha256(b"lie"))
        elif append.type in (PREPARE, COMMIT) and chance < 0.6:
            off = 1 if chance < 0.3 else -1
            view, sequence = body.view, body.sequence  # type: ignore[attr-defined]
            field = (
                {"view": max(0, view + off)}
                if chance < 0.15
                else {"sequence": max(1, sequence + off)}
            )
            self.sign(append.type, replace(body, **field), append.refs)
        self.sign(append.type, body, append.refs)

    def forge_view_change(self, body: ViewChangeSent, chance: float) -> ViewChangeSent:
        """Forged, omitted, or stale entries; a checkpoint nobody took."""
        ids = tuple(event.id for event in self.network.log[-3:]) or (sha256(b"nothing"),)
        if chance < 0.35:
            entry = PreparedEntry(
                body.stable_sequence + 1, body.new_view - 1, sha256(b"lie"), ids[0], ids
            )
            return replace(body, prepared=(entry, *body.prepared[1:]))
        if chance < 0.6:
            return replace(body, prepared=())
        if chance < 0.75:
            return replace(body, stable_sequence=body.stable_sequence + 2, prepared=())
        if body.prepared and chance < 0.9:
            entry = replace(body.prepared[0], view=body.new_view - 1)
            return replace(body, prepared=(entry, *body.prepared[1:]))
        return body

    def forge_new_view(self, body: NewViewSent, chance: float) -> NewViewSent:
        """Wrong slots over true view changes."""
        lie = SlotProposal(len(body.slots) + 1, sha256(b"lie"))
        if chance < 0.3:
            return replace(body, slots=(*body.slots, lie))
        if chance < 0.6 and body.slots:
            return replace(body, slots=(replace(body.slots[0], batch_digest=lie.batch_digest),))
        if chance < 0.8:
            return replace(body, slots=())
        return replace(body, view_change_ids=body.view_change_ids[:-1])


class Twin(Faulty):
    """One of two correct instances with one key; each sees another half of the world early."""

    def __init__(self, network: Network, author: str, side: int) -> None:
        super().__init__(network, author)
        self.side = side

    def receive(self, event: LogEvent) -> None:
        """Nothing of the other instance, and the other half late."""
        if event.author == self.author:
            return
        if int(event.author[1:]) % 2 != self.side:
            self.network.at(self.network.now + 400, lambda: super(Twin, self).receive(event))
        else:
            super().receive(event)


def twins(network: Network, author: str) -> Iterable[Node]:
    """Both instances."""
    return Twin(network, author, 0), Twin(network, author, 1)


def single(kind: type[Node]) -> Maker:
    """One node of a class."""
    return lambda network, author: (kind(network, author),)


ADVERSARIES: Mapping[str, Maker] = {
    "silent": single(Silent),
    "slow": single(Slow),
    "equivocating_primary": single(EquivocatingPrimary),
    "liar": single(Liar),
    "twins": twins,
}
