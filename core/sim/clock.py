"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing is left to do.

The hosts run on it unchanged. Nothing real is waited for: no sockets, no threads (what is meant for
a thread runs at once, in the loop), so the order of everything follows from the program alone.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from ..errors import LimitError, UsageError

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH_NS = 1_800_000_000 * 10**9
"""Wall clock at virtual time zero, nanoseconds since 1970."""

MAX_STEPS = 2_000_000
"""Turns of the loop after which a simulation counts as stuck."""


TIDYING_STEPS = 100_000
"""Turns a simulation that is stuck has to end in good order."""

SHORTEST_S = 1e-9
"""Least step of the clock, seconds."""


class SimulationStuckError(LimitError):
    """The simulation waits for something that cannot happen, or turns in circles."""

    code = "simulation_stuck"


class _Jump:
    """Stands where a loop keeps its selector: instead of sleeping, time moves on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Let ``timeout`` seconds pass at once."""
        self._loop.pass_time(timeout)
        return []

    def close(self) -> None:
        """Nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop under virtual time, which begins at 0.

    Args:
        max_steps: turns after which the simulation is stopped.

    Attributes:
        steps: turns taken.
        main: the task that is cancelled, to tidy up, when nothing goes on.
        stuck: why nothing goes on.
    """

    def __init__(self, max_steps: int = MAX_STEPS) -> None:
        super().__init__()
        self._selector = _Jump(self)
        self._now = 0.0
        self._max_steps = max_steps
        self.steps = 0
        self.main: asyncio.Task[Any] | None = None
        self.stuck: SimulationStuckError | None = None

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def time_ns(self) -> int:
        """The virtual wall clock, nanoseconds since 1970."""
        return EPOCH_NS + round(self._now * 1e9)

    def pass_time(self, timeout: float | None) -> None:
        """Move the clock to the next timer.

        Raises:
            SimulationStuckError: no timer is set, or the limit of turns is reached, and tidying up
                does not end either.
        """
        self.steps += 1
        if timeout is None:
            self._give_up(
                "everything waits, and no timer is set",
                "Something awaited here can only come from outside the simulation.",
            )
            return
        if self.steps > self._max_steps:
            self._give_up(
                f"not finished after {self._max_steps} turns, at {self._now:.3f} virtual seconds"
            )
        if timeout > 0:  # rounding must not let a timer fire before its time, again and again
            self._now += max(SHORTEST_S, timeout)

    def _give_up(self, why: str, hint: str = "") -> None:
        before, self.stuck = self.stuck, SimulationStuckError(why, hint=hint)
        if before is not None or self.main is None:
            raise self.stuck
        self._max_steps = self.steps + TIDYING_STEPS
        self.main.cancel()

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call ``func`` at once; its result is there before anything else happens."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # handed to whoever awaits it
            future.set_exception(error)
        return future

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


def virtual_loop() -> VirtualLoop:
    """The running loop.

    Raises:
        UsageError: it does not run under virtual time.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise UsageError(
            "a simulated world needs virtual time",
            hint="Run it with simulate(main()), or mark the test with @simulated.",
        )
    return loop


def simulate(main: Coroutine[Any, Any, T], *, max_steps: int = MAX_STEPS) -> T:
    """Run a coroutine under virtual time and return its result.

    Raises:
        SimulationStuckError: it waits for something that cannot happen, or turns in circles.
    """

    async def run(loop: VirtualLoop) -> T:
        loop.main = asyncio.current_task()
        return await main

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(max_steps)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        try:
            return runner.run(run(loop))
        except asyncio.CancelledError:
            if loop.stuck is None:
                raise
            raise loop.stuck from None


def simulated(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Turn a coroutine function (a test) into a function that runs it under virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return simulate(test(*args, **kwargs))

    return run
