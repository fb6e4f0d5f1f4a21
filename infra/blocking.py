"""Running a coroutine from synchronous code, whether or not an event loop runs above it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_blocking(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in a thread and a loop of its own."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def target() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=target, name="mabeam-local")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
