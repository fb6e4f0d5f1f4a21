"""Real keys, certificates and signatures for the events of a network."""

from __future__ import annotations

import msgspec

from mabeam.core.author import encode_body
from mabeam.core.envelope import VERSION, Event, Header, sign_event
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.identity import Certificate, KeyPair, Role, issue_certificate
from mabeam.core.kernel_events import CoordinationOpened
from mabeam.core.machine import Context, LogEvent
from tests.protocols.byzantine.network import COORDINATION

COORDINATOR = "coordinator"
replace = msgspec.structs.replace


def key_of(name: str) -> KeyPair:
    """The same key for the same name in every run."""
    return KeyPair(name.encode().ljust(32, b"."))


class Signatures:
    """Signs a network's events with one key per author and opens its coordination for real.

    Attributes:
        root: the deployment's root key.
        opening: the signed ``coordination.opened``, once a context was asked for.
    """

    def __init__(self) -> None:
        self.root = key_of("root")
        self.opening: Event | None = None
        self._epoch = ZERO32

    def certificate(self, name: str, role: Role) -> bytes:
        """What the root says about an author."""
        pair = key_of(name)
        issued = Certificate(name, (role,), pair.public_key, "", name, "root", 0, 2**62, 1)
        return issue_certificate(issued, self.root)

    def context(self, context: Context) -> Context:
        """The configuration as a coordinator opens with it and everybody freezes it."""
        members = tuple(
            replace(each, key_id=key_of(each.agent_id).key_id) for each in context.participants
        )
        opened = replace(
            context.opened,
            participants=members,
            certificates=(
                self.certificate(COORDINATOR, "coordinator"),
                *(self.certificate(each.agent_id, "agent") for each in members),
            ),
            config=msgspec.to_builtins(context.config),
        )
        if self.opening is None:
            self.opening = self._sign(COORDINATOR, "coordination.opened", encode_body(opened), b"")
            self._epoch = sha256(self.opening.body)
        assert encode_body(opened) == self.opening.body
        frozen = msgspec.msgpack.decode(self.opening.body, type=CoordinationOpened)
        return replace(context, epoch=self._epoch, opened_id=self.opening.id, opened=frozen)

    def event(self, draft: LogEvent) -> LogEvent:
        """The same event with a real signature, under the epoch of the opening."""
        header = draft.event.header
        signed = self._sign(
            header.author,
            header.type,
            encode_body(draft.content),
            self._epoch,
            header.author_seq,
            header.refs,
            draft.sequence,
        )
        return LogEvent(draft.sequence, draft.stored_ns, signed, draft.content)

    def _sign(
        self,
        author: str,
        kind: str,
        body: bytes,
        epoch: bytes,
        number: int = 0,
        refs: tuple[bytes, ...] = (),
        at_ns: int = 0,
    ) -> Event:
        key = key_of(author)
        header = Header(
            VERSION, COORDINATION, epoch, kind, author, key.key_id, number, ZERO32, refs, at_ns,
            sha256(body),
        )  # fmt: skip
        return sign_event(header, body, key.secret_key)
