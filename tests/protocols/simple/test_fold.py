"""What each event does in each phase: rejections, equivocation, deadlines, revotes."""

from __future__ import annotations

from typing import Any

import pytest

from mabeam.core.hashing import merkle_root
from mabeam.core.kernel_events import DeadlinePassed, EvidenceSubmitted
from mabeam.core.machine import TERMINAL_KEY, After, Append
from mabeam.protocols.simple.events import (
    BALLOT_CLOSED,
    BALLOT_OPENED,
    BallotClosed,
    BallotOpened,
    VoteCast,
)
from mabeam.protocols.simple.fold import TRANSITIONS
from tests.protocols.simple.ballot_world import COORDINATOR, World, log_event, of_type, rejection

THREE = {"a": 1, "b": 1, "c": 1}


def test_every_phase_can_be_left_but_the_last() -> None:
    sources = {phase for phase, _ in TRANSITIONS}
    assert set(TRANSITIONS.values()) - sources == {"decided"}


def test_rejections_while_open() -> None:
    world = World(THREE, max_ballots=2)
    assert world.vote("stranger", "agree") == "not_participant"
    assert world.vote("a", "agree", digest=bytes(32)) == "digest_mismatch"
    assert world.vote("a", "perhaps") == "unknown_option"
    assert world.vote("a", "neutral") == "unknown_option"
    assert world.vote("a", "agree", ballot=2) == "wrong_phase"
    assert world.coordinator.boxes[0].votes == {}
    assert world.coordinator.waiting_for() == ("a", "b", "c")
    assert world.vote("a", "agree") is None
    assert world.vote("a", "agree") == "duplicate"
    assert world.replay(world.log[-2]) == "duplicate"
    assert world.coordinator.waiting_for() == ("b", "c")


def test_an_invalid_vote_is_no_equivocation() -> None:
    """COM-6: whether the invalid vote comes before or after the valid one."""
    for invalid_first in (True, False):
        world = World(THREE)
        steps = ["digest", "agree"] if invalid_first else ["agree", "digest"]
        reasons = [
            world.vote("a", "agree", digest=bytes(32) if step == "digest" else None)
            for step in steps
        ]
        assert sorted(map(str, reasons)) == ["None", "digest_mismatch"]
        assert set(world.coordinator.boxes[0].votes) == {"a"}
        assert world.coordinator.boxes[0].void == set()


def test_votes_before_the_ballot_and_after_the_verdict() -> None:
    world = World(THREE)
    early = log_event(1, "a", "simple.vote_cast", VoteCast(1, world.digest, "agree"))
    machine = type(world.coordinator)(world.context)
    assert rejection(machine, early) == "wrong_phase"
    world.deadline()
    assert world.vote("a", "agree") == "late"
    assert world.vote("a", "agree") == "duplicate"
    assert world.vote("a", "disagree") == "equivocation"
    assert world.outcome.silent == ("a", "b", "c")


@pytest.mark.parametrize("change", [{"option": "disagree"}, {"confidence_ppm": 1}])
def test_any_other_content_is_equivocation(change: dict[str, Any]) -> None:
    """COM-17: content, not only the choice."""
    world = World({"a": 1, "b": 1})
    world.vote("a", "agree")
    fields: dict[str, Any] = {"ballot": 1, "proposal_digest": world.digest, "option": "agree"}
    body = VoteCast(**{**fields, **change})
    assert world.append("a", "simple.vote_cast", body) == "equivocation"
    assert world.coordinator.boxes[0].void == {"a"}


def test_evidence_is_offered_once_and_by_anyone() -> None:
    world = World(THREE)
    votes = [
        log_event(10 + n, "a", "simple.vote_cast", VoteCast(1, world.digest, option))
        for n, option in enumerate(("agree", "disagree", "abstain"))
    ]
    machine = world.coordinator
    assert [rejection(machine, vote) for vote in votes] == [None, "equivocation", "equivocation"]
    (append,) = [i for i in machine.intents() if isinstance(i, Append)]
    evidence: Any = append.body
    assert isinstance(evidence, EvidenceSubmitted)
    assert evidence.proof_ids == append.refs == tuple(sorted(vote.id for vote in votes[:2]))
    other = EvidenceSubmitted("E1", "a", (bytes(32),), (b"",))
    assert rejection(machine, log_event(20, "b", "evidence.submitted", other)) is None
    assert append in list(machine.intents())
    assert rejection(machine, log_event(21, "b", "evidence.submitted", evidence)) is None
    assert rejection(machine, votes[1]) == "equivocation"
    assert not [i for i in machine.intents() if isinstance(i, Append)]


def test_evidence_goes_before_the_terminal_event() -> None:
    world = World({"a": 4, "b": 4, "c": 1}, threshold_ppm=800_000)
    box = world.coordinator.boxes[0]
    for sequence, (author, option) in enumerate(
        (("a", "agree"), ("b", "agree"), ("b", "disagree")), 10
    ):
        body = VoteCast(1, world.digest, option)
        rejection(world.coordinator, log_event(sequence, author, "simple.vote_cast", body))
    assert [intent.key for intent in world.intents()] == [("evidence", 1, "b"), TERMINAL_KEY]
    assert box.verdict is not None
    assert (box.verdict.decision, box.void, box.decided_at) == ("agree", set(), 11)


def test_an_equivocation_can_decide() -> None:
    """SIM-4: voiding the rival makes the lead unassailable; the rejected event decides."""
    world = World({"a": 3, "b": 2, "c": 1}, rule="plurality", options=("x", "y"))
    world.vote("a", "x")
    world.vote("b", "y")
    assert not world.decided
    assert world.vote("b", "x") == "equivocation"
    body: Any = world.terminal and world.terminal.body
    assert (world.outcome.decision, world.outcome.void) == ("x", ("b",))
    assert body.inputs_upto == 4
    assert body.cut.count == 1


def test_the_cut_is_the_deciding_prefix_in_decided_order() -> None:
    """COM-8."""
    world = World({"a": 1, "b": 1, "c": 1, "d": 1}, threshold_ppm=500_000)
    for author, option in (("c", "disagree"), ("b", "agree"), ("a", "agree")):
        world.vote(author, option)
    votes = of_type(world, "simple.vote_cast")
    assert world.terminal is not None
    body: Any = world.terminal.body
    assert world.terminal.refs == tuple(vote.id for vote in votes)
    assert body.cut.root == merkle_root([vote.id for vote in votes])
    assert (body.cut.count, body.inputs_upto) == (3, votes[-1].sequence)


def test_without_early_exit_only_the_deadline_decides() -> None:
    """SIM-5."""
    world = World({"a": 1, "b": 1}, early_exit=False, threshold_ppm=500_000)
    world.vote("a", "agree")
    world.vote("b", "agree")
    assert not world.decided
    assert isinstance(world.intents()[0], After)
    world.deadline()
    assert (world.outcome.decision, world.outcome.decided_by) == ("agree", "threshold")
    assert world.outcome.vote_ratio_ppm == 1_000_000


def test_plurality_at_the_deadline() -> None:
    world = World({"a": 1, "b": 1, "c": 1}, rule="plurality", options=("x", "y"))
    world.vote("a", "x")
    assert not world.decided
    world.deadline()
    assert (world.outcome.decision, world.outcome.decided_by) == ("x", "deadline")
    empty = World({"a": 1}, rule="plurality", options=("x", "y"))
    empty.deadline()
    assert (empty.outcome.decision, empty.outcome.tie) == ("no_consensus", False)


@pytest.mark.parametrize(
    ("votes", "decision", "decided_by"),
    [
        ((("a", "agree", 1.0), ("b", "agree", 0.9)), "strong_approve", "threshold"),
        ((("a", "agree", 1.0),), "no_consensus", "deadline"),
        ((("a", "neutral", None), ("b", "neutral", None)), "approve", "deadline"),
        ((("a", "neutral", 1.0), ("b", "disagree", 1.0)), "reject", "deadline"),
        ((("a", "neutral", 1.0), ("b", "disagree", 0.5)), "neutral", "deadline"),
        ((("a", "agree", 0.0), ("b", "agree", 0.0)), "no_consensus", "deadline"),
        ((("a", "abstain", None), ("b", "agree", 1.0)), "no_consensus", "deadline"),
    ],
)
def test_grades(votes: Any, decision: str, decided_by: str) -> None:
    """SIM-6: grades, early stop at 0.6 of W, turnout of half of W, no confidence at all."""
    world = World({"a": 1, "b": 1, "c": 1}, rule="weighted")
    for author, option, confidence in votes:
        world.vote(author, option, confidence)
    if not world.decided:
        world.deadline()
    assert (world.outcome.decision, world.outcome.decided_by) == (decision, decided_by)


def test_turnout_holds_back_an_early_decision() -> None:
    world = World({"a": 3, "b": 1, "c": 1}, threshold_ppm=500_000, min_turnout_ppm=800_000)
    world.vote("a", "agree")
    assert not world.decided
    world.vote("b", "abstain")
    assert not world.decided
    world.vote("c", "disagree")
    assert world.outcome.decision == "agree"


def test_deadlines_of_other_ballots_and_other_names() -> None:
    world = World(THREE, max_ballots=2)

    def announce(name: str, number: int) -> str | None:
        return world.append(COORDINATOR, "deadline.passed", DeadlinePassed(name, number))

    assert announce("ballot", 0) == announce("ballot", 2) == "wrong_phase"
    assert announce("overall", 1) is None
    assert world.coordinator.phase() == "voting"
    world.deadline()
    assert announce("ballot", 1) == "late"
    assert (world.coordinator.phase(), len(world.coordinator.boxes)) == ("voting", 2)


def test_revote_is_a_fresh_ballot() -> None:
    """SIM-9."""
    world = World({"a": 1, "b": 1}, max_ballots=2, rule="majority")
    world.vote("a", "agree")
    world.vote("b", "disagree")
    assert world.coordinator.waiting_for() == ("a", "b")
    assert world.vote("a", "agree", ballot=1) == "duplicate"
    assert world.vote("a", "disagree", ballot=1) == "equivocation"
    assert world.vote("a", "disagree") is None
    assert world.vote("b", "disagree") is None
    outcome = world.outcome
    assert (outcome.decision, outcome.ballot, outcome.void) == ("disagree", 2, ())
    assert len(of_type(world, "evidence.submitted")) == 1
    assert [event.content.ballot for event in of_type(world, BALLOT_OPENED)] == [1, 2]
    assert of_type(world, BALLOT_OPENED)[1].event.header.refs == (
        of_type(world, BALLOT_CLOSED)[0].id,
    )


def test_the_last_ballot_may_fail_too() -> None:
    world = World({"a": 1}, max_ballots=3)
    for _ in range(3):
        world.deadline()
    assert (world.outcome.decision, world.outcome.ballot) == ("no_consensus", 3)
    assert len(of_type(world, BALLOT_CLOSED)) == 2


def test_a_coordinator_cannot_open_or_close_as_it_likes() -> None:
    world = World({"a": 1, "b": 1}, max_ballots=2)
    machine = world.coordinator
    opened = world.log[0].content
    assert rejection(machine, log_event(9, COORDINATOR, BALLOT_OPENED, opened)) == "wrong_phase"
    closed = BallotClosed(1, "no_consensus", machine.boxes[0].tally.weights())
    assert rejection(machine, log_event(9, COORDINATOR, BALLOT_CLOSED, closed)) == "wrong_phase"
    fresh = type(machine)(world.context)
    for wrong in (
        BallotOpened(2, opened.proposal_digest, opened.options, opened.closes_after_ms),
        BallotOpened(1, bytes(32), opened.options, opened.closes_after_ms),
        BallotOpened(1, opened.proposal_digest, ("agree", "yes"), opened.closes_after_ms),
        BallotOpened(1, opened.proposal_digest, opened.options, 1),
    ):
        event = log_event(1, COORDINATOR, BALLOT_OPENED, wrong)
        assert rejection(fresh, event) == "digest_mismatch"
    assert fresh.phase() == "opening"
    assert rejection(fresh, log_event(1, COORDINATOR, BALLOT_OPENED, opened)) is None
    passed = DeadlinePassed("ballot", 1)
    assert rejection(fresh, log_event(2, COORDINATOR, "deadline.passed", passed)) is None
    assert fresh.phase() == "closing"
    lie = BallotClosed(1, "no_consensus", type(closed.tally)({"agree": 9}, 0, 0, 0, 9))
    assert rejection(fresh, log_event(3, COORDINATOR, BALLOT_CLOSED, lie)) == "wrong_tally"
    assert fresh.phase() == "closing"


def test_grades_at_their_bounds() -> None:
    """SIM-6: bounds are inclusive, and so are early stop and turnout."""
    world = World({"a": 7, "b": 3}, rule="weighted", early_stop_ppm=1_000_000)
    world.vote("a", "agree", 1.0)
    world.vote("b", "disagree", 1.0)
    assert (world.outcome.decision, world.outcome.mean_ppm) == ("strong_approve", 700_000)
    early = World({"a": 6, "b": 4}, rule="weighted")
    early.vote("a", "agree", 1.0)
    assert (early.outcome.decided_by, early.outcome.support_ppm) == ("threshold", 600_000)
    half = World({"a": 1, "b": 1}, rule="weighted")
    half.vote("a", "disagree", 1.0)
    half.deadline()
    assert half.outcome.decision == "reject"
