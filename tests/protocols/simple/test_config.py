"""Defaults, bounds and errors of 3.2, weights of SIM-7 and SIM-8 as frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from mabeam.core.errors import ConfigError, PeerProtocolError
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple import SPEC, ReputationFigures, SimpleConfig
from mabeam.protocols.simple.coordinator import SimpleCoordinator
from mabeam.protocols.simple.participant import SimpleParticipant
from mabeam.protocols.simple.proposal import MAX_PROPOSAL_BYTES, proposal_digest
from tests.protocols.simple.ballot_world import World, context_for, members

EXPERT = ReputationFigures(860_000, 860_000, 860_000, 860_000)
MIDDLING = ReputationFigures(500_000, 500_000, 500_000, 500_000)


def freeze(weights: Mapping[str, int], **fields: Any) -> tuple[SimpleConfig, list[int]]:
    config, participants = SPEC.freeze(SimpleConfig(proposal=1, **fields), members(weights))
    return config, [participant.weight for participant in participants]


def test_registered() -> None:
    assert PROTOCOLS["simple_consensus"].config_type is SPEC.config_type
    assert {kind.name.partition(".")[0] for kind in SPEC.event_types} == {SPEC.family}
    assert {kind.name: kind.uniqueness for kind in SPEC.event_types}["simple.vote_cast"] == (
        "ballot",
    )


def test_a_minimal_config_opens_with_the_defaults() -> None:
    config = msgspec.convert({"proposal": "x"}, SPEC.config_type)
    frozen, participants = SPEC.freeze(config, members({"a": 1_000_000, "b": 2_000_000}))
    assert frozen == SimpleConfig(
        proposal="x",
        rule="threshold",
        options=("agree", "disagree"),
        threshold_ppm=700_000,
        min_share_ppm=0,
        min_turnout_ppm=0,
        weight_source="config",
        weight_share_cap_ppm=1_000_000,
        early_exit=True,
        vote_timeout_ms=None,
        max_ballots=1,
        grade_bounds_ppm=(700_000, 500_000, 300_000),
        early_stop_ppm=600_000,
    )
    assert [each.weight for each in participants] == [1_000_000, 2_000_000]
    assert SPEC.default_timeout_ms(None) == 30_000


def test_defaults_that_depend_on_other_fields() -> None:
    assert freeze({"a": 1}, rule="unanimous")[0].threshold_ppm == 1_000_000
    assert freeze({"a": 1}, rule="weighted")[0].min_turnout_ppm == 500_000
    assert freeze({"a": 1}, rule="weighted")[0].options == ("agree", "neutral", "disagree")
    assert freeze({"a": 1, "b": 1}, weight_source="expertise")[0].weight_share_cap_ppm == 500_000
    assert freeze({"a": 1}, weight_source="expertise")[0].weight_share_cap_ppm == 1_000_000
    assert freeze({"a": 1}, grade_bounds_ppm=(900_000, 800_000, 1))[0].early_stop_ppm == 800_000


def test_freezing_and_the_wire_change_nothing_more() -> None:
    weights = {"a": 3_000_000, "b": 2_000_000, "c": 1_000_000}
    for rule in ("threshold", "majority", "unanimous", "plurality", "weighted"):
        config, participants = SPEC.freeze(
            SimpleConfig(proposal={"k": [1, b"x"]}, rule=rule, weight_source="expertise"),
            members(weights),
        )
        assert SPEC.freeze(config, participants) == (config, participants)
        wire = msgspec.msgpack.encode(msgspec.to_builtins(config, builtin_types=(bytes,)))
        assert msgspec.convert(msgspec.msgpack.decode(wire), SimpleConfig) == config


@pytest.mark.parametrize(
    ("overall_ms", "fields", "expected_ms"),
    [
        (30_000, {}, 30_000),
        (30_000, {"max_ballots": 4}, 7_500),
        (30_000, {"vote_timeout_ms": 9}, 9),
        (1, {"max_ballots": 10}, 1),
    ],
)
def test_vote_timeout(overall_ms: int, fields: dict[str, Any], expected_ms: int) -> None:
    world = World({"a": 1}, overall_timeout_ms=overall_ms, **fields)
    (deadline,) = world.intents()
    assert world.log[0].content.closes_after_ms == expected_ms
    assert getattr(deadline, "delay_ms", None) == expected_ms


@pytest.mark.parametrize(
    ("code", "field", "fields"),
    [
        ("unknown_rule", "rule", {"rule": "consensus"}),
        ("invalid_threshold", "threshold_ppm", {"threshold_ppm": 499_999}),
        ("invalid_threshold", "threshold_ppm", {"threshold_ppm": 1_000_001}),
        ("invalid_config", "weight_source", {"weight_source": "votes"}),
        ("invalid_config", "options", {"rule": "majority", "options": ("a",)}),
        ("invalid_config", "options", {"rule": "majority", "options": ("a", "a")}),
        ("invalid_config", "options", {"rule": "majority", "options": ("a", "abstain")}),
        ("invalid_config", "options", {"rule": "majority", "options": ("a", "no_consensus")}),
        ("invalid_config", "options", {"rule": "majority", "options": ("a", "b" * 65)}),
        ("invalid_config", "options", {"rule": "plurality", "options": tuple(map(str, range(65)))}),
        ("invalid_config", "options", {"options": ("a", "b")}),
        ("invalid_config", "options", {"rule": "unanimous", "options": ("a", "b")}),
        ("invalid_config", "options", {"rule": "weighted", "options": ("agree", "disagree")}),
        ("invalid_config", "min_share_ppm", {"min_share_ppm": -1}),
        ("invalid_config", "min_turnout_ppm", {"min_turnout_ppm": 1_000_001}),
        ("invalid_config", "weight_share_cap_ppm", {"weight_share_cap_ppm": 0}),
        ("invalid_config", "vote_timeout_ms", {"vote_timeout_ms": 0}),
        ("invalid_config", "max_ballots", {"max_ballots": 0}),
        ("invalid_config", "max_ballots", {"max_ballots": 11}),
        ("invalid_config", "grade_bounds_ppm", {"grade_bounds_ppm": (500_000, 700_000, 1)}),
        ("invalid_config", "early_stop_ppm", {"early_stop_ppm": 499_999}),
        ("invalid_config", "proposal", {"proposal": "x" * MAX_PROPOSAL_BYTES}),
        ("invalid_config", "proposal", {"proposal": object()}),
        ("invalid_config", "proposal", {"proposal": 2**70}),
    ],
)
def test_a_wrong_field_is_named_with_its_bound(code: str, field: str, fields: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SimpleConfig(**{"proposal": 1, **fields})
    assert caught.value.code == code
    assert caught.value.hint
    details: Any = getattr(caught.value, "details", None)
    assert details["field"] == field
    assert details["bound"]
    assert len(details["value"]) <= 256


def test_typed_errors_survive_decoding() -> None:
    """The kernel decodes a request's parameters; the code must not become a generic one."""
    with pytest.raises(ConfigError) as caught:
        msgspec.convert({"proposal": 1, "rule": "dice"}, SimpleConfig)
    assert caught.value.code == "unknown_rule"
    for wrong in ({}, {"proposal": 1, "colour": "red"}, {"proposal": 1, "threshold_ppm": "0.7"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, SimpleConfig)


def test_errors_about_participants() -> None:
    for code, weights, fields in (
        ("empty_participants", {}, {}),
        ("invalid_config", {"a": 1}, {"reputation": {"stranger": EXPERT}}),
        ("invalid_config", {"a": 1, "b": 1, "c": 1}, {"weight_share_cap_ppm": 333_333}),
    ):
        with pytest.raises(ConfigError) as caught:
            freeze(weights, **fields)
        assert caught.value.code == code
    twice = members({"a": 1}) * 2
    with pytest.raises(ConfigError) as caught:
        SPEC.freeze(SimpleConfig(proposal=1), twice)
    assert caught.value.code == "duplicate_participant"


def test_a_coordinator_that_opens_with_an_impossible_config_is_at_fault() -> None:
    context = context_for({"a": 1, "b": 1, "c": 1}, SimpleConfig(proposal=1))
    forged = msgspec.structs.replace(
        context, config=SimpleConfig(proposal=1, weight_share_cap_ppm=1)
    )
    for machine in (SimpleCoordinator, SimpleParticipant):
        with pytest.raises(PeerProtocolError) as caught:
            machine(forged)
        assert caught.value.reason == "invalid_config"


def test_an_incomplete_frozen_config_means_the_same_as_the_complete_one() -> None:
    context = context_for({"a": 1, "b": 1}, SimpleConfig(proposal=1))
    bare = msgspec.structs.replace(context, config=SimpleConfig(proposal=1))
    assert list(SimpleCoordinator(bare).intents()) == list(SimpleCoordinator(context).intents())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"weight_source": "config"}, [5, 7]),
        ({"weight_source": "equal"}, [1_000_000, 1_000_000]),
        ({"weight_source": "reputation"}, [1_000_000, 1_000_000]),
        ({"weight_source": "expertise"}, [1_000_000, 1_000_000]),
        (
            {
                "weight_source": "reputation",
                "reputation": {"b": ReputationFigures(topic_accuracy_ppm=680_675)},
            },
            [1, 756_876],
        ),
        (
            {
                "weight_source": "reputation",
                "rule": "plurality",
                "options": tuple("0123456789"),
                "reputation": {"b": ReputationFigures(topic_accuracy_ppm=680_675)},
            },
            [1, 2_954_100],
        ),
        (
            {
                "weight_source": "expertise",
                "weight_share_cap_ppm": 1_000_000,
                "reputation": {"a": EXPERT, "b": MIDDLING},
            },
            [1_799_612, 600_000],
        ),
        ({"weight_source": "expertise", "reputation": {"a": EXPERT}}, [100_000, 100_000]),
        ({"weight_share_cap_ppm": 500_000}, [5, 5]),
    ],
)
def test_weight_sources(fields: dict[str, Any], expected: list[int]) -> None:
    assert freeze({"a": 5, "b": 7}, **fields)[1] == expected


@pytest.mark.parametrize("source", ["reputation", "expertise"])
def test_weights_without_standing_are_labelled(source: str) -> None:
    """SIM-7."""
    for reputation, labelled in (({}, True), ({"a": EXPERT}, False)):
        world = World({"a": 1, "b": 1}, weight_source=source, reputation=reputation)
        world.deadline()
        assert ("unverified_weights" in world.outcome.tolerance.assumes) == labelled


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert proposal_digest({"a": 1, "b": [2, {"c": 3, "d": 4}]}) == proposal_digest(
        {"b": [2, {"d": 4, "c": 3}], "a": 1}
    )
    assert proposal_digest({"a": 1}) != proposal_digest({"a": 2})
