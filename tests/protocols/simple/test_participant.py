"""The participant's machine and the types an agent's code works with."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from mabeam.core.errors import UsageError
from mabeam.core.kernel_events import DeadlinePassed
from mabeam.core.machine import Ask, AskFailed
from mabeam.protocols.simple import Ballot, SimpleConfig, VoteRequest
from mabeam.protocols.simple.events import BALLOT_CLOSED, BALLOT_OPENED, BallotClosed, VoteCast
from mabeam.protocols.simple.participant import SimpleParticipant
from tests.protocols.simple.ballot_world import (
    COORDINATOR,
    World,
    context_for,
    log_event,
    of_type,
    rejection,
)


def question(world: World, agent: str) -> Ask | None:
    """What the agent is asked now; asking twice gives the same."""
    intents = world.participants[agent].intents()
    assert intents == world.participants[agent].intents()
    assert all(isinstance(intent, Ask) for intent in intents)
    return intents[0] if intents and isinstance(intents[0], Ask) else None


def test_asks_once_per_ballot_until_the_own_vote_is_in_the_log() -> None:
    world = World({"a": 1, "b": 1}, max_ballots=2, rule="majority")
    ask = question(world, "a")
    assert ask is not None
    assert ask.key == ("vote", 1)
    assert ask.timeout_ms == world.log[0].content.closes_after_ms
    assert ask.answer_type is Ballot
    assert ask.request == VoteRequest(
        "the proposal", world.digest, ("agree", "disagree"), 1, "general", "c-1"
    )
    append = ask.reply(Ballot.agree(0.25))
    assert append == ask.reply(Ballot.agree(0.25))
    assert append.body == VoteCast(1, world.digest, "agree", 250_000)
    assert (append.key, append.sign_once) == (("vote", 1), True)
    assert append.refs == (world.log[0].id,)
    assert world.answer("a", Ballot.agree(0.25)) is None
    assert question(world, "a") is None
    assert world.participants["a"].phase() == "waiting"
    assert question(world, "b") is not None
    world.answer("b", Ballot.disagree())
    again = question(world, "a")
    assert again is not None
    assert again.key == ("vote", 2)
    world.deadline()
    assert question(world, "a") is None


def test_failing_code_abstains_and_says_why() -> None:
    world = World({"a": 1})
    world.answer("a", AskFailed("x" * 100, "traceback"))
    (vote,) = of_type(world, "simple.vote_cast")
    assert (vote.content.option, vote.content.failure) == ("abstain", "x" * 64)
    assert (world.outcome.decision, world.outcome.decided_by) == ("no_consensus", "all_voted")
    assert world.outcome.weights.abstain == world.outcome.weights.total


@pytest.mark.parametrize(
    "answer",
    [
        Ballot.choose("perhaps"),
        Ballot("agree", 1_000_001),
        Ballot("agree", -1),
        Ballot("agree", True),
        Ballot("agree", None, b"short"),
        "agree",
        None,
    ],
)
def test_an_answer_that_must_not_be_given_is_refused(answer: Any) -> None:
    ask = question(World({"a": 1}), "a")
    assert ask is not None
    with pytest.raises(UsageError):
        ask.reply(answer)


def test_no_vote_on_another_proposal() -> None:
    """SIM-1: an agent is never asked about what the configuration does not say."""
    context = context_for({"a": 1}, SimpleConfig(proposal=1), author="a")
    opened = World({"a": 1}).log[0].content
    machine = SimpleParticipant(context)
    event = log_event(1, COORDINATOR, BALLOT_OPENED, opened)
    assert rejection(machine, event) == "digest_mismatch"
    assert machine.intents() == ()


def test_an_invitation_without_the_votes_is_enough() -> None:
    """A participant is shown the coordinator's events only."""
    world = World({"a": 1, "b": 1}, max_ballots=3, rule="majority")
    world.vote("a", "agree")
    world.vote("b", "disagree")
    world.deadline()
    context = msgspec.structs.replace(world.context, author="b")
    machine = SimpleParticipant(context)
    for event in world.log:
        if event.author == COORDINATOR:
            assert rejection(machine, event) is None
    (ask,) = machine.intents()
    assert ask.key == ("vote", 3)
    old = log_event(99, COORDINATOR, BALLOT_OPENED, world.log[0].content)
    assert rejection(machine, old) == "wrong_phase"
    stale = log_event(99, COORDINATOR, "deadline.passed", DeadlinePassed("ballot", 2))
    assert rejection(machine, stale) is None
    assert machine.intents() == (ask,)
    closed = BallotClosed(3, "no_consensus", world.coordinator.boxes[0].tally.weights())
    assert rejection(machine, log_event(99, COORDINATOR, BALLOT_CLOSED, closed)) is None
    assert machine.intents() == ()


@pytest.mark.parametrize("author", ["", "stranger"])
def test_observers_are_not_asked(author: str) -> None:
    world = World({"a": 1})
    machine = SimpleParticipant(msgspec.structs.replace(world.context, author=author))
    machine.apply(world.log[0])
    assert machine.intents() == ()


def test_constructors() -> None:
    assert Ballot.agree() == Ballot("agree")
    assert Ballot.disagree(confidence=0.1234567) == Ballot("disagree", 123_457)
    assert Ballot.choose("x", confidence=1) == Ballot("x", 1_000_000)
    assert Ballot.abstain() == Ballot("abstain")
    for wrong in (-0.1, 1.0000001, math.nan, math.inf, "high"):
        with pytest.raises(UsageError, match="0 to 1"):
            Ballot.agree(confidence=wrong)  # type: ignore[arg-type]


def test_a_failure_is_reported_only_with_an_abstention() -> None:
    with pytest.raises(ValueError, match="failure"):
        VoteCast(1, bytes(32), "agree", failure="timeout")
    wire = msgspec.msgpack.encode(
        {"ballot": 1, "proposal_digest": bytes(32), "option": "agree", "failure": "timeout"}
    )
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(wire, type=VoteCast)
