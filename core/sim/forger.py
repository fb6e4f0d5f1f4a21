"""A signer that follows no rule but the envelope's: what whoever holds an admitted key can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..envelope import VERSION, Event, Header, sign_event
from ..hashing import ZERO32, sha256
from ..identity import KeyPair


class Forger:
    """Signs any events under one key.

    Args:
        id: its admitted id.
        key: its admitted key.
        clock_ns: wall clock.

    Attributes:
        chains: per coordination the next number and the id before it.
    """

    def __init__(self, id: str, key: KeyPair, clock_ns: Callable[[], int]) -> None:
        self.id = id
        self.key = key
        self.chains: dict[str, tuple[int, bytes]] = {}
        self._clock_ns = clock_ns

    def sign(
        self,
        coordination: str,
        epoch: bytes,
        type_name: str,
        body: msgspec.Struct | bytes,
        refs: tuple[bytes, ...] = (),
        **changes: Any,
    ) -> Event:
        """The next event of its chain; ``changes`` replaces header fields, body bytes go as is."""
        number, previous = self.chains.get(coordination, (0, ZERO32))
        encoded = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
        header = Header(
            VERSION,
            coordination,
            epoch,
            type_name,
            self.id,
            self.key.key_id,
            number,
            previous,
            refs,
            self._clock_ns(),
            sha256(encoded),
        )
        event = sign_event(msgspec.structs.replace(header, **changes), encoded, self.key.secret_key)
        self.chains[coordination] = event.header.author_seq + 1, event.id
        return event
