"""Keep a cancellation that the nats client swallows.

Some of its coroutines (connecting, flushing, closing) catch ``CancelledError`` and return as if
nothing had happened; a task that relies on being cancelled would then run for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def cancellation_kept() -> Generator[None, None, None]:
    """Raise again what was swallowed inside; an enclosing ``asyncio.timeout`` works as usual.

    Raises:
        asyncio.CancelledError: the task was cancelled inside and went on.
    """
    task = asyncio.current_task()
    assert task is not None, "used outside a task"
    before = task.cancelling()
    yield
    if task.cancelling() > before:
        raise asyncio.CancelledError
