"""Conformance: what a coordinator appended must be what its machine intended.

A coordinator appends under optimistic concurrency over the ``ctl`` subjects, so what it knew was
the log up to the previous ``ctl`` event plus some prefix of what followed. Hence the rule: the
event must equal an intent that the machine had after one of the events since (and including) the
last ``ctl`` event in force. What the fold or the opening decides by itself (claims, results, the
opening) is not looked up here.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..author import encode_body
from ..hashing import sha256
from ..machine import After, Append, Ask, Intent, LogEvent


class Offer(msgspec.Struct, frozen=True):
    """An append the machine intended.

    Attributes:
        since: id of the event it waits after, empty for what is due at once.
        delay_ms: how long it waits, 0 for what is due at once.
    """

    since: bytes = b""
    delay_ms: int = 0


class Window:
    """The intents a coordinator's machine had since its last event in force.

    Attributes:
        asked: the machine also asked user code, whose answer cannot be recomputed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._offers: dict[bytes, Offer] = {}

    def restart(self) -> None:
        """Begin anew after a ``ctl`` event in force."""
        self.asked = False
        self._offers.clear()

    def collect(self, intents: Iterable[Intent]) -> None:
        """Take what the machine intends at one point."""
        for intent in intents:
            if isinstance(intent, Append):
                self._offers[_digest(intent)] = Offer()
            elif isinstance(intent, After):
                self._offers.setdefault(_digest(intent.then), Offer(intent.since, intent.delay_ms))
            elif isinstance(intent, Ask):
                self.asked = True

    def offer(self, event: LogEvent) -> Offer | None:
        """The intent that the event equals in type, body and references, or ``None``."""
        header = event.event.header
        return self._offers.get(_fingerprint(header.type, event.event.body, header.refs))


def early_by_ms(event: LogEvent, since: LogEvent, offer: Offer) -> int:
    """How much too early a deadline was signed, by the signers' clocks (COM-7); 0 if it was not."""
    passed_ms = (event.event.header.at_ns - since.event.header.at_ns) // 1_000_000
    return max(0, offer.delay_ms - passed_ms)


def _digest(append: Append) -> bytes:
    return _fingerprint(append.type, encode_body(append.body), append.refs)


def _fingerprint(type_name: str, body: bytes, refs: tuple[bytes, ...]) -> bytes:
    return sha256(b"".join((type_name.encode(), b"\0", sha256(body), *refs)))
