"""Signs whatever it is told to, with keys of its own: what a hostile participant can do."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from mabeam.core.envelope import VERSION, Event, Header, sign_event
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.identity import KeyPair


class Hostile:
    """An author that follows no rule but the envelope's.

    Args:
        id: its admitted id.
        key: its admitted key.
    """

    def __init__(self, id: str, key: KeyPair) -> None:
        self.id = id
        self.key = key
        self._chains: dict[str, tuple[int, bytes]] = {}

    def sign(
        self,
        coordination: str,
        epoch: bytes,
        type_name: str,
        body: msgspec.Struct | bytes,
        refs: tuple[bytes, ...] = (),
        **changes: Any,
    ) -> Event:
        """The next event of its chain; ``changes`` replaces header fields."""
        number, previous = self._chains.get(coordination, (0, ZERO32))
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
            time.time_ns(),
            sha256(encoded),
        )
        event = sign_event(msgspec.structs.replace(header, **changes), encoded, self.key.secret_key)
        self._chains[coordination] = (event.header.author_seq + 1, event.id)
        return event


def padded(body: msgspec.Struct, size: int) -> bytes:
    """An encoding of ``body`` of about ``size`` bytes: its first field over and over."""
    fields = msgspec.structs.asdict(body)
    name = next(iter(fields))
    pair = msgspec.msgpack.encode(name) + msgspec.msgpack.encode(fields[name])
    rest = b"".join(
        msgspec.msgpack.encode(key) + msgspec.msgpack.encode(value) for key, value in fields.items()
    )
    repeats = size // len(pair)
    return b"\xdf" + (repeats + len(fields)).to_bytes(4, "big") + pair * repeats + rest
