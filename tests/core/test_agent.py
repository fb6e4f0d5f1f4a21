"""The SDK: handlers are routed by the type of the request, and misuse is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mabeam.core.agent import Agent, answer, on
from mabeam.core.errors import UsageError
from mabeam.core.kernel_events import Body
from mabeam.core.machine import Append, Ask, AskFailed
from mabeam.protocols.simple import Ballot, VoteRequest

REQUEST = VoteRequest("p", b"", ("agree", "disagree"), 1, "general", "c1")


class Other(msgspec.Struct, frozen=True):
    """A request without a fixed type of answer."""

    text: str


def _ask(request: Any = REQUEST, answer_type: Any = Ballot) -> Ask:
    def reply(result: Any) -> Append:
        return Append(("x",), "simple.vote_cast", Body())

    return Ask(("x",), request, answer_type, reply, 1000)


class Both(Agent):
    """One handler for each."""

    @on(VoteRequest)
    def vote(self, request: VoteRequest) -> Ballot:
        """For votes."""
        return Ballot.agree(0.25)

    @on(Other)
    async def other(self, request: Other) -> str:
        """For the other."""
        return request.text


async def test_routed_by_type() -> None:
    agent = Both()
    assert await answer(agent, _ask()) == Ballot("agree", 250_000)
    assert await answer(agent, _ask(Other("hi"), str)) == "hi"
    failed = await answer(agent, _ask("no request at all", str))
    assert isinstance(failed, AskFailed)
    assert failed.code == "no_handler"


async def test_subclasses_inherit_and_override() -> None:
    class Contrary(Both):
        @on(VoteRequest)
        async def decide(self, request: VoteRequest) -> Ballot:
            return Ballot.disagree()

    class Quiet(Both):
        def vote(self, request: VoteRequest) -> Ballot:
            return Ballot.abstain()

    assert await answer(Contrary(), _ask()) == Ballot("disagree")
    assert await answer(Contrary(), _ask(Other("x"), str)) == "x"
    assert await answer(Quiet(), _ask()) == Ballot("abstain")
    assert await answer(Both(), _ask()) == Ballot("agree", 250_000)


def _annotated(cls: Any) -> Any:
    async def handler(self: Any, request: VoteRequest) -> str:
        return ""

    handler.__annotations__ = {"request": cls, "return": Ballot}
    return handler


async def _wrong_return(self: Any, request: VoteRequest) -> str:
    return ""


async def _too_few(self: Any) -> Ballot:
    return Ballot.agree()


async def _too_many(self: Any, request: VoteRequest, more: int) -> Ballot:
    return Ballot.agree()


async def _unresolved(self: Any, request: Nowhere) -> Ballot:  # type: ignore[name-defined]  # noqa: F821
    return Ballot.agree()


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (_annotated(Other), "takes"),
        (_annotated(dict), "takes"),
        (_wrong_return, "must return Ballot"),
        (_too_few, r"exactly \(self, request\)"),
        (_too_many, r"exactly \(self, request\)"),
        (_unresolved, "cannot be resolved"),
    ],
)
def test_misuse_is_refused_when_the_class_is_made(
    handler: Callable[..., Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        type("Wrong", (Agent,), {"vote": on(VoteRequest)(handler)})


def test_two_handlers_for_one_request_are_refused() -> None:
    async def vote(self: Any, request: VoteRequest) -> Ballot:
        return Ballot.agree()

    async def again(self: Any, request: VoteRequest) -> Ballot:
        return Ballot.disagree()

    with pytest.raises(UsageError, match="twice"):
        type("Wrong", (Agent,), {"one": on(VoteRequest)(vote), "two": on(VoteRequest)(again)})


async def test_handler_without_annotations_is_taken_at_its_word() -> None:
    def vote(self: Any, request: Any) -> Any:
        return Ballot.agree()

    vote.__annotations__ = {}
    agent = type("Bare", (Agent,), {"vote": on(VoteRequest)(vote)})()
    assert await answer(agent, _ask()) == Ballot("agree")


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None])
def test_confidence_is_a_number_from_0_to_1(confidence: Any) -> None:
    if confidence is None:
        assert Ballot.agree(confidence).confidence_ppm is None
        return
    with pytest.raises(UsageError, match="from 0 to 1"):
        Ballot.agree(confidence)
