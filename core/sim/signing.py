"""A stub in the place of Ed25519, for bulk runs: a keyed hash that anybody could forge.

It is as long as a signature, binds the same bytes and costs a microsecond. No adversary here forges
by computing it, so nothing but the arithmetic of the curve is left untested; a part of all runs
uses real signatures. The stub stands in while the context is open and never elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from nacl.exceptions import BadSignatureError

from .. import envelope, identity
from ..host import health

_SIGNERS = (envelope, identity, health)


def _tag(message: bytes, public_key: bytes) -> bytes:
    return hashlib.blake2b(message, key=public_key, digest_size=64).digest()


def stub_sign(message: bytes, secret_key: bytes) -> bytes:
    """Like ``crypto_sign``: signature and message; the second half of the key is public."""
    return _tag(message, secret_key[32:]) + message


def stub_open(signed: bytes, public_key: bytes) -> bytes:
    """Like ``crypto_sign_open``: the message.

    Raises:
        BadSignatureError: the signature is another.
    """
    message = signed[64:]
    if signed[:64] != _tag(message, public_key):
        raise BadSignatureError("the stub signature does not verify")
    return message


_TRUE = [
    (module, vars(module)["crypto_sign"], vars(module)["crypto_sign_open"]) for module in _SIGNERS
]


@contextmanager
def signatures(*, stubbed: bool) -> Iterator[None]:
    """Sign with the stub, or with Ed25519 as always, while the context is open."""
    if not stubbed:
        yield
        return
    try:
        for module in _SIGNERS:
            vars(module).update(crypto_sign=stub_sign, crypto_sign_open=stub_open)
        yield
    finally:
        for module, sign, open_signed in _TRUE:
            vars(module).update(crypto_sign=sign, crypto_sign_open=open_signed)
