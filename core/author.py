"""An author: signs chained events under one key, one chain per coordination."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from .envelope import VERSION, Event, Header, sign_event
from .hashing import ZERO32, sha256, tagged_hash
from .identity import KeyPair
from .kernel_events import Body

_encoder = msgspec.msgpack.Encoder()


def encode_body(body: Body) -> bytes:
    """The bytes of a body as they go into the envelope."""
    return _encoder.encode(body)


class _Head(msgspec.Struct):
    number: int = 0
    previous: bytes = ZERO32
    at_ns: int = 0


class Author:
    """Signs events for one id.

    Args:
        id: author id.
        node: node token of its subjects.
        key: event key.
        clock_ns: wall clock.
    """

    def __init__(self, id: str, node: str, key: KeyPair, clock_ns: Callable[[], int]) -> None:
        self.id = id
        self.node = node
        self.key = key
        self._clock_ns = clock_ns
        self._heads: dict[str, _Head] = {}

    def secret(self, coordination: str, label: str) -> bytes:
        """32 bytes unguessable outside and the same after a restart (for commitments)."""
        data = tagged_hash("secret", coordination, label)
        return hashlib.blake2b(data, key=self.key.seed, digest_size=32).digest()

    def knows(self, coordination: str) -> bool:
        """Whether a chain for this coordination is being continued here."""
        return coordination in self._heads

    def next_number(self, coordination: str) -> int:
        """Number of the next event of the chain, as far as it is known here."""
        head = self._heads.get(coordination)
        return head.number if head else 0

    def resume(self, coordination: str, number: int, previous: bytes, at_ns: int) -> None:
        """Continue a chain whose next event has this number, unless already further along."""
        head = self._heads.setdefault(coordination, _Head())
        if number > head.number:
            head.number, head.previous, head.at_ns = number, previous, at_ns

    def forget(self, coordination: str) -> None:
        """Drop the chain head; the coordination is over."""
        self._heads.pop(coordination, None)

    def sign(
        self,
        coordination: str,
        epoch: bytes,
        type_name: str,
        body: Body,
        refs: tuple[bytes, ...] = (),
    ) -> Event:
        """Sign the next event of the chain.

        Raises:
            UsageError: the event would exceed the size limit; the chain is then unchanged.
        """
        head = self._heads.get(coordination) or _Head()
        encoded = encode_body(body)
        at_ns = max(self._clock_ns(), head.at_ns)
        header = Header(
            VERSION,
            coordination,
            epoch,
            type_name,
            self.id,
            self.key.key_id,
            head.number,
            head.previous,
            refs,
            at_ns,
            sha256(encoded),
        )
        event = sign_event(header, encoded, self.key.secret_key)
        self._heads[coordination] = _Head(head.number + 1, event.id, at_ns)
        return event

    def withdraw(self, event: Event) -> None:
        """Take back the newest event of a chain that the log definitely refused."""
        head = self._heads.get(event.header.coordination)
        if head is not None and head.previous == event.id:
            head.number = event.header.author_seq
            head.previous = event.header.prev
