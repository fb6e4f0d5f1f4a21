"""Publish frames of the NATS protocol, composed by hand: the client library takes far longer.

Callers pass subjects made of checked identifiers only; nothing here looks for line breaks.
"""

from __future__ import annotations


def header(name: str, value: str) -> bytes:
    """One header line; header blocks are concatenations of these."""
    return f"{name}: {value}\r\n".encode("ascii")


def publish_frame(subject: str, reply: str, headers: bytes, payload: bytes) -> bytes:
    """A ``PUB`` or ``HPUB`` frame; ``headers`` is a block of header lines, possibly empty."""
    if not headers:
        return b"PUB %s %s %d\r\n%s\r\n" % (
            subject.encode("ascii"),
            reply.encode("ascii"),
            len(payload),
            payload,
        )
    head = len(headers) + 12
    return b"HPUB %s %s %d %d\r\nNATS/1.0\r\n%s\r\n%s\r\n" % (
        subject.encode("ascii"),
        reply.encode("ascii"),
        head,
        head + len(payload),
        headers,
        payload,
    )
