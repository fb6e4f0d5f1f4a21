"""The five models: four good ones, one weak one, and none that has seen what it votes on."""

from __future__ import annotations

from functools import cache

import pytest

from mabeam.core.errors import UsageError
from mabeam.infra.demo.clinic import (
    Forest,
    Logistic,
    Neighbours,
    Stump,
    SupportVectors,
)
from mabeam.infra.demo.data import Biopsy, held_out_biopsies, training_biopsies
from mabeam.protocols.simple import VoteRequest

ALL_HELD_OUT = 171
MODELS = {
    model.model_type: model for model in (Logistic, Forest, SupportVectors, Neighbours, Stump)
}
GOOD = sorted(MODELS.keys() - {"stump"})


@cache
def _votes(model: str) -> list[tuple[bool, int]]:
    """Whether a model calls each held-out biopsy malignant, and its confidence."""
    agent = MODELS[model]()
    ballots = [agent.vote(_request(biopsy)) for biopsy in held_out_biopsies(ALL_HELD_OUT)]
    return [(ballot.option == "agree", ballot.confidence_ppm or 0) for ballot in ballots]


def _request(biopsy: Biopsy) -> VoteRequest:
    proposal = {"features": list(biopsy.features)}
    return VoteRequest(proposal, b"", ("agree", "disagree"), 1, "biopsy", "c")


def _accuracy(model: str) -> float:
    biopsies = held_out_biopsies(ALL_HELD_OUT)
    votes = zip(_votes(model), biopsies, strict=True)
    return sum(says == biopsy.malignant for (says, _), biopsy in votes) / len(biopsies)


def test_training_and_held_out_biopsies_are_disjoint_and_stratified() -> None:
    training, held_out = training_biopsies(), held_out_biopsies(ALL_HELD_OUT)
    assert {each.row for each in training} | {each.row for each in held_out} == set(range(569))
    assert not {each.features for each in training} & {each.features for each in held_out}
    for part in (training, held_out):
        malignant = sum(each.malignant for each in part) / len(part)
        assert malignant == pytest.approx(212 / 569, abs=0.01)


@pytest.mark.parametrize("count", [0, ALL_HELD_OUT + 1])
def test_only_held_out_biopsies_can_be_asked_for(count: int) -> None:
    with pytest.raises(UsageError, match="held out"):
        held_out_biopsies(count)


@pytest.mark.parametrize("model", GOOD)
def test_good_models_are_good(model: str) -> None:
    assert _accuracy(model) >= 0.93


def test_the_weak_model_is_weak_and_votes_both_ways() -> None:
    assert _accuracy("stump") <= 0.8
    assert {says for says, _ in _votes("stump")} == {True, False}


def test_the_models_differ() -> None:
    assert len({tuple(_votes(model)) for model in MODELS}) == 5


@pytest.mark.parametrize("model", sorted(MODELS))
def test_confidence_is_that_of_the_chosen_side(model: str) -> None:
    assert all(500_000 <= confidence <= 1_000_000 for _, confidence in _votes(model))
