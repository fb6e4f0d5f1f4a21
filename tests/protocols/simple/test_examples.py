"""The worked examples of specification 3.9, literally, and the rules they illustrate.

Every check is a plain function without arguments: the mutant harness calls them as well.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mabeam.core.kernel_events import EvidenceSubmitted
from mabeam.protocols.simple.weights import (
    ReputationFigures,
    cap_shares,
    expertise_raw_ppm,
    expertise_weight,
    log_odds_micro,
)
from tests.protocols.simple.ballot_world import World, of_type

FOUR = {"a": 4, "b": 3, "c": 2, "d": 1}


def agents(count: int) -> dict[str, int]:
    """``count`` equal voters v1, v2 …"""
    return {f"v{number}": 1 for number in range(1, count + 1)}


def example_1_agree() -> None:
    world = World(FOUR, unit=1, threshold_ppm=600_000)
    world.vote("a", "agree")
    assert not world.decided
    world.vote("c", "agree")
    outcome = world.outcome
    assert (outcome.decision, outcome.vote_ratio_ppm) == ("agree", 600_000)
    assert (outcome.decided_by, outcome.silent) == ("threshold", ("b", "d"))
    assert outcome.quality_ppm == 600_000
    assert outcome.tolerance.q == 6


def example_1_disagree() -> None:
    world = World(FOUR, unit=1, threshold_ppm=600_000)
    world.vote("b", "disagree")
    assert not world.decided
    world.vote("c", "disagree")
    outcome = world.outcome
    assert (outcome.decision, outcome.decided_by) == ("disagree", "impossibility")
    assert outcome.vote_ratio_ppm == 500_000


def example_2_majority() -> None:
    world = World(agents(3), rule="majority", options=("a", "b"))
    world.vote("v1", "a")
    world.vote("v2", "a")
    assert (world.outcome.decision, world.outcome.vote_ratio_ppm) == ("a", 666_666)
    tied = World(agents(2), rule="majority", options=("a", "b"))
    tied.vote("v1", "a")
    tied.vote("v2", "b")
    outcome = tied.outcome
    assert (outcome.decision, outcome.tie, outcome.decided_by) == (
        "no_consensus",
        True,
        "all_voted",
    )
    assert (outcome.vote_ratio_ppm, outcome.quality_ppm) == (500_000, 0)


def example_2_plurality_and_revote() -> None:
    world = World(
        agents(7),
        rule="plurality",
        options=("a", "b", "c", "d"),
        min_share_ppm=600_000,
        max_ballots=2,
    )
    for voter, option in zip(agents(7), "aaabbcd", strict=True):
        world.vote(voter, option)
    (closed,) = of_type(world, "simple.ballot_closed")
    assert closed.content.decision == "no_consensus"
    assert closed.content.tally.options["a"] * 1_000_000 // closed.content.tally.total == 428_571
    for voter, option in zip(agents(7), "bcaaaaa", strict=True):
        assert world.vote(voter, option) is None
    outcome = world.outcome
    assert (outcome.decision, outcome.ballot, outcome.vote_ratio_ppm) == ("a", 2, 714_285)
    assert outcome.dissenters == ("v1", "v2")


def example_3_graded() -> None:
    world = World({"a": 20, "b": 10, "c": 5}, unit=100_000, rule="weighted")
    world.vote("a", "agree", 0.9)
    world.vote("b", "disagree", 0.8)
    assert not world.decided
    world.vote("c", "agree", 0.5)
    outcome = world.outcome
    assert (outcome.decision, outcome.mean_ppm) == ("strong_approve", 719_298)
    assert (outcome.support_ppm, outcome.decided_by) == (585_714, "all_voted")
    assert "stated_confidence" in outcome.tolerance.assumes
    assert (outcome.dissenters, outcome.confidence_ppm) == (("b",), 700_000)


def example_4_weights() -> None:
    assert cap_shares([6, 1, 1], 500_000) == [2, 1, 1]
    assert cap_shares([6, 1], 500_000) == [1, 1]
    assert expertise_weight(860_000) == 1_799_612
    assert expertise_weight(500_000) == 600_000
    assert expertise_weight(800_000) == 1_710_775
    assert expertise_weight(500_001) - 600_000 in range(5)  # continuous: no step at the seams
    assert expertise_weight(800_001) - 1_710_775 in range(3)
    assert expertise_weight(0) == expertise_weight(83_333) == 100_000
    assert expertise_raw_ppm(ReputationFigures(900_000, 800_000, 850_000, 900_000)) == 860_000


def example_4_log_odds() -> None:
    """Specification 12.6, example 1."""
    assert log_odds_micro(680_675, 2) == 756_876
    assert log_odds_micro(680_675, 10) == 2_954_100
    assert log_odds_micro(0, 2) == log_odds_micro(500_000, 2) == 0
    assert log_odds_micro(1_000_000, 2) == log_odds_micro(990_000, 2)


def example_5_equivocator_while_open() -> None:
    world = World(agents(7), unit=1, threshold_ppm=600_000)
    assert world.coordinator.rules.needed == 5
    world.vote("v1", "agree")
    assert world.vote("v1", "disagree") == "equivocation"
    for voter in ("v2", "v3", "v4", "v5"):
        world.vote(voter, "agree")
        assert not world.decided
    world.vote("v6", "agree")
    outcome = world.outcome
    assert (outcome.decision, outcome.void, outcome.silent) == ("agree", ("v1",), ("v7",))
    assert outcome.vote_ratio_ppm == 5_000_000 // 7
    (evidence,) = of_type(world, "evidence.submitted")
    body: EvidenceSubmitted = evidence.content
    votes = sorted((event for event in world.log[1:3]), key=lambda event: event.id)
    assert (body.rule, body.accused) == ("E1", "v1")
    assert body.proof_ids == tuple(event.id for event in votes)
    assert body.proof == tuple(event.event.wire for event in votes)


def example_5_equivocator_afterwards() -> None:
    world = World(agents(7), unit=1, threshold_ppm=600_000)
    for voter in ("v1", "v2", "v3", "v4", "v5"):
        world.vote(voter, "agree")
    terminal = world.terminal
    assert world.vote("v1", "disagree") == "equivocation"
    first, second = world.log[1], world.log[-1]
    error = world.rejections[second.sequence]
    assert error.evidence == tuple(sorted((first.id, second.id)))
    assert world.coordinator.terminal() == terminal
    assert world.outcome.decision == "agree"


EXAMPLES: list[Callable[[], None]] = [
    example_1_agree,
    example_1_disagree,
    example_2_majority,
    example_2_plurality_and_revote,
    example_3_graded,
    example_4_weights,
    example_4_log_odds,
    example_5_equivocator_while_open,
    example_5_equivocator_afterwards,
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.__name__))
def test_worked_example(example: Callable[[], None]) -> None:
    example()
