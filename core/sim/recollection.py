"""Readers of one simulated log share what they decode: pure functions, remembered for one world.

Every host, client and checker decodes and checks every record for itself, as it must. In one
process that is the same work a dozen times; the answers cannot differ, so one is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from .. import admission, keyring
from ..envelope import Event
from ..host import membership

_DECODERS = (admission, membership)


@contextmanager
def recollection() -> Iterator[None]:
    """Remember decoded events, bodies and certificates while the context is open."""
    decode, verify = vars(admission)["decode_event"], vars(keyring)["verify_certificate"]
    decode_body = admission.Admission.decode_body
    bodies: dict[bytes, Any] = {}

    def decode_body_once(self: admission.Admission, event: Event) -> Any:
        body = bodies.get(event.id)
        if body is None:
            body = bodies[event.id] = decode_body(self, event)
        return body

    decode_once = cache(decode)
    try:
        for module in _DECODERS:
            vars(module)["decode_event"] = decode_once
        vars(keyring)["verify_certificate"] = cache(verify)
        admission.Admission.decode_body = decode_body_once  # type: ignore[method-assign]
        yield
    finally:
        for module in _DECODERS:
            vars(module)["decode_event"] = decode
        vars(keyring)["verify_certificate"] = verify
        admission.Admission.decode_body = decode_body  # type: ignore[method-assign]
