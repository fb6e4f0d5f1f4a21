"""Rows 23 to 25 of the corrections to the seed; each test fails on the seed's behaviour."""

from __future__ import annotations

import pytest

from mabeam.core.errors import ConfigError
from mabeam.protocols.simple import SPEC, SimpleConfig
from tests.protocols.simple.ballot_world import World, members


def test_row_23_disagreement_reports_its_own_ratio() -> None:
    """The seed reports ``1 - agree_ratio``, which counts abstentions as disagreement."""
    world = World({"a": 1, "b": 1, "c": 1, "d": 1}, threshold_ppm=700_000)
    world.vote("a", "abstain")
    world.vote("b", "abstain")
    world.vote("c", "disagree")
    world.vote("d", "disagree")
    assert world.outcome.decision == "disagree"
    assert world.outcome.vote_ratio_ppm == 500_000  # the seed: 1.0


def test_row_24_confidence_is_reported_and_never_multiplied_in() -> None:
    """SIM-10: the seed's comment promises weighting by confidence; only ``weighted`` has it."""
    world = World({"a": 1, "b": 1, "c": 1}, rule="majority")
    world.vote("a", "disagree", 1.0)
    world.vote("b", "agree", 0.01)
    world.vote("c", "agree", 0.02)
    outcome = world.outcome
    assert (outcome.decision, outcome.vote_ratio_ppm) == ("agree", 666_666)
    assert outcome.confidence_ppm == 15_000


def test_row_24_low_thresholds_do_not_let_agreement_win_ties() -> None:
    """In the seed any threshold up to one half lets agreement win although half disagrees."""
    with pytest.raises(ConfigError) as caught:
        SimpleConfig(proposal=1, threshold_ppm=400_000)
    assert caught.value.code == "invalid_threshold"
    tie = World({"a": 1, "b": 1}, rule="majority")
    tie.vote("a", "agree")
    tie.vote("b", "disagree")
    assert (tie.outcome.decision, tie.outcome.tie) == ("no_consensus", True)


def test_row_24_agree_and_disagree_exclude_each_other() -> None:
    """SIM-3: at exactly half with threshold one half, agree wins, in either order."""
    for order in (("agree", "disagree"), ("disagree", "agree")):
        world = World({"a": 1, "b": 1}, threshold_ppm=500_000)
        world.vote("a", order[0])
        assert world.decided == (order[0] == "agree")
        if not world.decided:
            world.vote("b", order[1])
        assert world.outcome.decision == "agree"


def test_row_24_weights_are_integers() -> None:
    """In the seed every vote counts one, whatever its weight."""
    world = World({"a": 7, "b": 1, "c": 1, "d": 1})
    world.vote("b", "disagree")
    world.vote("c", "disagree")
    world.vote("d", "disagree")
    assert not world.decided
    world.vote("a", "agree")
    assert world.outcome.decision == "agree"


def test_row_25_empty_and_duplicate_participants_are_refused() -> None:
    """The seed divides by zero without participants and lets a duplicate vote twice."""
    for participants, code in (
        ((), "empty_participants"),
        (members({"a": 1}) * 2, "duplicate_participant"),
    ):
        with pytest.raises(ConfigError) as caught:
            SPEC.freeze(SimpleConfig(proposal=1), participants)
        assert caught.value.code == code
    world = World({"a": 1, "b": 1}, threshold_ppm=1_000_000)
    world.vote("a", "agree")
    assert world.vote("a", "agree") == "duplicate"
    assert not world.decided
