"""The yardsticks: how fast this machine signs and verifies, with nothing else going on."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from nacl.bindings import crypto_sign, crypto_sign_open

from ...core.hashing import sha256
from ...core.identity import KeyPair

SAMPLE = 4000
VERIFY_THREADS = 2


def sign_rate() -> float:
    """Ed25519 signatures a second, one thread."""
    key = KeyPair.generate()
    message = b"mabeam/event/v1\0" + sha256(os.urandom(32))
    started = time.perf_counter()
    for _ in range(SAMPLE):
        crypto_sign(message, key.secret_key)
    return SAMPLE / (time.perf_counter() - started)


def verify_rate(threads: int = VERIFY_THREADS) -> float:
    """Ed25519 verifications a second over ``threads`` threads."""
    key = KeyPair.generate()
    signed = crypto_sign(b"mabeam/event/v1\0" + sha256(os.urandom(32)), key.secret_key)

    def verify(count: int) -> None:
        for _ in range(count):
            crypto_sign_open(signed, key.public_key)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(verify, [10] * threads))
        started = time.perf_counter()
        list(pool.map(verify, [SAMPLE] * threads))
        return threads * SAMPLE / (time.perf_counter() - started)
