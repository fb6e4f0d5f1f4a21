"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_POLL_INTERVAL_S = 0.01


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Return when ``condition()`` holds; fail the test when it does not within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"condition did not hold within {timeout_s:g} s"
        time.sleep(_POLL_INTERVAL_S)


async def wait_until_async(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """:func:`wait_until` for tests that share an event loop with what they wait for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"condition did not hold within {timeout_s:g} s"
        await asyncio.sleep(_POLL_INTERVAL_S)
