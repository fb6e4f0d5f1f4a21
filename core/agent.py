"""The agent SDK: a class with handlers, routed by the annotated type of the request.

    class Pathologist(Agent):
        @on(VoteRequest)
        async def vote(self, request: VoteRequest) -> Ballot: ...

Plain functions run in a thread. A handler that raises or takes too long becomes a reported failure
of that agent, never a crash.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, get_type_hints

from .errors import UsageError
from .machine import Ask, AskFailed
from .telemetry import logger

_log = logger("agent")

Handler = TypeVar("Handler", bound=Callable[..., Any])


def on(request_type: type) -> Callable[[Handler], Handler]:
    """Mark a method of an :class:`Agent` as the handler of one request type."""

    def mark(handler: Handler) -> Handler:
        handler.__mabeam_request__ = request_type  # type: ignore[attr-defined]
        return handler

    return mark


class Agent:
    """Base class of what users write.

    Class attributes:
        capabilities: announced when the agent registers.
        model_type: kind of model behind it.
        cost_per_request_micros: price of one request, micro-credits.
        max_concurrent: requests worked on at a time.
    """

    capabilities: ClassVar[tuple[str, ...]] = ()
    model_type: ClassVar[str] = "unknown"
    cost_per_request_micros: ClassVar[int] = 10_000
    max_concurrent: ClassVar[int] = 10

    _routes: ClassVar[dict[type, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: dict[type, str] = {}
        for name, member in vars(cls).items():
            request_type = getattr(member, "__mabeam_request__", None)
            if request_type is not None:
                _check_handler(cls, name, member, request_type)
                if request_type in own:
                    raise UsageError(
                        f"{cls.__name__} handles {request_type.__name__} twice: "
                        f"{own[request_type]} and {name}"
                    )
                own[request_type] = name
        cls._routes = {**cls._routes, **own}

    def handler_for(self, request: Any) -> Callable[[Any], Any] | None:
        """The bound handler for a request, or ``None``."""
        name = self._routes.get(type(request))
        return getattr(self, name) if name else None


def _check_handler(cls: type, name: str, member: Any, request_type: type) -> None:
    where = f"{cls.__name__}.{name}"
    if not callable(member):
        raise UsageError(f"{where}: @on marks methods, not {type(member).__name__}")
    parameters = list(inspect.signature(member).parameters.values())
    if len(parameters) != 2:
        raise UsageError(
            f"{where} must take exactly (self, request)",
            hint=f"Write: def {name}(self, request: {request_type.__name__})",
        )
    try:
        hints = get_type_hints(member)
    except NameError as error:
        raise UsageError(f"{where}: an annotation cannot be resolved: {error}") from None
    annotated = hints.get(parameters[1].name, request_type)
    if annotated is not request_type:
        raise UsageError(
            f"{where} is marked @on({request_type.__name__}) but takes {annotated!r}",
            hint="Annotate the request with the type given to @on.",
        )
    answer_type = getattr(request_type, "__mabeam_answer__", None)
    returned = hints.get("return", answer_type)
    if answer_type is not None and returned is not answer_type:
        raise UsageError(
            f"{where} must return {answer_type.__name__}, it is annotated to return {returned!r}"
        )


async def answer(agent: Agent, ask: Ask) -> Any:
    """Run the agent's handler for ``ask``; a failure comes back as :class:`AskFailed`."""
    handler = agent.handler_for(ask.request)
    if handler is None:
        return AskFailed("no_handler", f"no handler for {type(ask.request).__name__}")
    try:
        async with asyncio.timeout(ask.timeout_ms / 1000):
            if inspect.iscoroutinefunction(handler):
                result = await handler(ask.request)
            else:
                result = await asyncio.to_thread(handler, ask.request)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return AskFailed("handler_error", "CancelledError: the handler was cancelled from within")
    except TimeoutError:
        _log.warning("handler_timed_out", extra={"timeout_ms": ask.timeout_ms})
        return AskFailed("timeout", f"no answer within {ask.timeout_ms} ms")
    except (Exception, SystemExit) as error:  # the agent's own code may raise anything
        _log.exception("handler_raised")
        return AskFailed("handler_error", f"{type(error).__name__}: {error}"[:400])
    if not isinstance(result, ask.answer_type):
        return AskFailed(
            "wrong_answer", f"expected {ask.answer_type.__name__}, got {type(result).__name__}"
        )
    return result
