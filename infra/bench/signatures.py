"""The yardsticks: how fast this machine signs and verifies, with nothing else going on."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from nacl.bindings import crypto_sign, crypto_sign_open

from ...core.hashing import sha256
from ...core.identity import KeyPair

SAMPLE = 4000
VERIFY_THREADS = 2

SAMPLE_EVERY_S = 0.05
SAMPLE_SIZE = 10


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


class RunningYardstick:
    """What signing and verifying cost while something else runs: CPU seconds, sampled all along.

    Attributes:
        spent_s: CPU time of the samples themselves, to be taken off what is measured.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._key = KeyPair.generate()
        self._message = b"mabeam/event/v1\0" + sha256(os.urandom(32))
        self._signed = crypto_sign(self._message, self._key.secret_key)
        self._signing_s = self._verifying_s = 0.0
        self._samples = 0

    async def run(self) -> None:
        """Sample until cancelled; call :meth:`sample` once more if the run may be short."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def sample(self) -> None:
        """Some signatures and verifications, on the calling thread."""
        started = time.thread_time()
        for _ in range(SAMPLE_SIZE):
            crypto_sign(self._message, self._key.secret_key)
        signed = time.thread_time()
        for _ in range(SAMPLE_SIZE):
            crypto_sign_open(self._signed, self._key.public_key)
        verified = time.thread_time()
        self._signing_s += signed - started
        self._verifying_s += verified - signed
        self._samples += SAMPLE_SIZE
        self.spent_s += verified - started

    def rates(self) -> tuple[float, float]:
        """Signatures and verifications a second of CPU time, one thread."""
        return self._samples / self._signing_s, self._samples / self._verifying_s
