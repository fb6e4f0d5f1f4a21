"""All vote vectors of small ballots against the naive counter (specification 3.8)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import pytest

from mabeam.core.kernel_events import DeadlinePassed
from mabeam.core.machine import Append, Context, LogEvent
from mabeam.protocols.simple import SimpleConfig
from mabeam.protocols.simple.coordinator import SimpleCoordinator
from mabeam.protocols.simple.events import ABSTAIN, VOTE_CAST, VoteCast
from tests.protocols.simple.ballot_world import COORDINATOR, context_for, log_event, rejection
from tests.protocols.simple.naive_count import NaiveVote, naive_decision

SILENT = None
VOID = "void"
UNEQUAL = (4, 3, 2, 1, 1, 2)

CASES: dict[str, dict[str, Any]] = {
    "half": {"threshold_ppm": 500_000},
    "three-fifths": {"threshold_ppm": 600_000},
    "seven-tenths": {},
    "all": {"rule": "unanimous"},
    "majority": {"rule": "majority"},
    "plurality": {"rule": "plurality"},
    "plurality-with-share": {"rule": "plurality", "min_share_ppm": 500_000},
    "graded": {"rule": "weighted", "early_stop_ppm": 1_000_000},
    "turnout": {"threshold_ppm": 500_000, "min_turnout_ppm": 666_667},
}


class Electorate:
    """One frozen ballot and all events anybody could sign in it, made once."""

    def __init__(self, weights: Sequence[int], fields: dict[str, Any]) -> None:
        self.weights = weights
        self.names = [f"v{number}" for number in range(len(weights))]
        config = SimpleConfig(proposal=1, **fields)
        named = dict(zip(self.names, weights, strict=True))
        self.context: Context = context_for(named, config)
        (opening,) = SimpleCoordinator(self.context).intents()
        assert isinstance(opening, Append)
        self.opened = log_event(1, COORDINATOR, opening.type, opening.body)
        body: Any = opening.body
        self.options: tuple[str, ...] = body.options
        choices = (*self.options, ABSTAIN)
        self.votes: dict[tuple[str, str], LogEvent] = {
            (name, choice): log_event(
                2 + at, name, VOTE_CAST, VoteCast(1, body.proposal_digest, choice)
            )
            for at, (name, choice) in enumerate(itertools.product(self.names, choices))
        }
        self.deadline = log_event(999, COORDINATOR, "deadline.passed", DeadlinePassed("ballot", 1))

    def machine(self) -> SimpleCoordinator:
        """A coordinator whose ballot has just been opened."""
        machine = SimpleCoordinator(self.context)
        machine.apply(self.opened)
        return machine

    def decide(self, vector: Sequence[str | None], order: Iterable[int] | None = None) -> Any:
        """The outcome when these votes come in this order, then the deadline."""
        machine = self.machine()
        for index in order if order is not None else range(len(vector)):
            self._cast(machine, self.names[index], vector[index])
        if machine.phase() == "voting":
            machine.apply(self.deadline)
        terminal = machine.terminal()
        assert terminal is not None
        body: Any = terminal.body
        return body.outcome

    def _cast(self, machine: SimpleCoordinator, name: str, choice: str | None) -> None:
        if choice == VOID:
            events = [self.votes[name, option] for option in self.options[:2]]
        else:
            events = [self.votes[name, choice]] if choice is not None else []
        for event in events:
            assert rejection(machine, event) in (None, "late", "equivocation")

    def naive(self, vector: Sequence[str | None], fields: dict[str, Any]) -> str:
        """The naive counter's decision on all votes."""
        share = "min_share_ppm" if fields.get("rule") == "plurality" else "threshold_ppm"
        default = 0 if share == "min_share_ppm" else 700_000
        graded = fields.get("rule") == "weighted"
        turnout = fields.get("min_turnout_ppm", 500_000 if graded else 0)
        return naive_decision(
            fields.get("rule", "threshold"),
            [NaiveVote(w, choice) for w, choice in zip(self.weights, vector, strict=True)],
            options=self.options,
            share=Fraction(fields.get(share, default), 1_000_000),
            turnout=Fraction(turnout, 1_000_000),
        )


def compare(fields: dict[str, Any], weights: Sequence[int], *, voids: bool = False) -> None:
    """Every vector of votes, abstentions and silence (and void votes) decides as counted naively.
    Equivocators come first.

    The machine decides as early as it can and the naive counter never does, so this also shows that
    no early decision differs from the decision on all votes (SIM-5, COM-10).
    """
    electorate = Electorate(weights, fields)
    choices = (*electorate.options, ABSTAIN, SILENT, *((VOID,) if voids else ()))
    for vector in itertools.product(choices, repeat=len(weights)):
        order = sorted(range(len(vector)), key=lambda index: vector[index] != VOID)
        outcome = electorate.decide(vector, order)
        if len(outcome["void"]) < vector.count(VOID):
            continue  # decided by a prefix, before the last equivocator gave itself away
        expected = electorate.naive(vector, fields)
        assert outcome["decision"] == expected, (fields, weights, vector)
        assert sum(outcome["weights"]["options"].values()) <= outcome["weights"]["total"]
        assert (outcome["quality_ppm"] == 0) or outcome["decision"] != "no_consensus"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_equal_weights(case: str, count: int) -> None:
    compare(CASES[case], (1,) * count)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [2, 4, 5])
def test_unequal_weights(case: str, count: int) -> None:
    compare(CASES[case], UNEQUAL[:count])


@pytest.mark.parametrize("case", CASES)
def test_void_votes(case: str) -> None:
    compare(CASES[case], UNEQUAL[:4], voids=True)


def test_three_options() -> None:
    for rule in ("majority", "plurality"):
        compare({"rule": rule, "options": ("x", "y", "z")}, (1, 2, 1, 1, 1))


@pytest.mark.parametrize("case", sorted(set(CASES) - {"graded"}))
def test_order_is_irrelevant_without_equivocation(case: str) -> None:
    """COM-6, SIM-5: all orders of all vectors of four unequal voters."""
    electorate = Electorate(UNEQUAL[:4], CASES[case])
    for vector in itertools.product((*electorate.options, ABSTAIN, SILENT), repeat=4):
        decisions = {
            electorate.decide(vector, order)["decision"]
            for order in itertools.permutations(range(4))
        }
        assert len(decisions) == 1, vector
