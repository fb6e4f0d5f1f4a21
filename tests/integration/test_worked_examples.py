"""The worked examples of simple consensus (specification 3.9) through real daemons."""

from __future__ import annotations

from typing import Any

import pytest

from mabeam.core.client import Client, Decision
from mabeam.core.kernel_events import Invitee
from mabeam.infra.local import LocalDeployment

pytestmark = pytest.mark.integration

Line = tuple[str, int] | tuple[str, int, float]


def as_line(line: Line) -> dict[str, Any]:
    """What the scripted agent reads."""
    option, rank, *confidence = line
    return {"option": option, "rank": rank, "confidence": confidence[0] if confidence else None}


async def decide(
    deployment: LocalDeployment,
    weights: list[int],
    script: dict[int, list[Line]],
    **config: Any,
) -> Decision:
    """Agents 1 … n with these weights (micro-units) vote by the script; see scripted_agent."""
    client: Client = await deployment.client("client")
    try:
        lines = {
            f"agent-{number}": [as_line(line) for line in votes] for number, votes in script.items()
        }
        return await client.decide(
            "simple_consensus",
            {"proposal": {"script": lines}, "vote_timeout_ms": 2_500, **config},
            [Invitee(f"agent-{number}", weight) for number, weight in enumerate(weights, 1)],
        )
    finally:
        await client.transport.close()


async def test_1_threshold_is_met_by_the_second_vote(deployment: LocalDeployment) -> None:
    weights = [4_000_000, 3_000_000, 2_000_000, 1_000_000]
    decision = await decide(
        deployment, weights, {1: [("agree", 0)], 3: [("agree", 1)]}, threshold_ppm=600_000
    )
    outcome = decision.outcome
    assert (outcome["decision"], outcome["vote_ratio_ppm"]) == ("agree", 600_000)
    assert outcome["decided_by"] == "threshold"
    assert decision.terminal.content.cut.count == 2


async def test_1_disagreement_is_certain_after_the_second_vote(
    deployment: LocalDeployment,
) -> None:
    weights = [4_000_000, 3_000_000, 2_000_000, 1_000_000]
    decision = await decide(
        deployment, weights, {2: [("disagree", 0)], 3: [("disagree", 1)]}, threshold_ppm=600_000
    )
    assert decision.outcome["decision"] == "disagree"
    assert decision.outcome["decided_by"] == "impossibility"
    assert decision.terminal.content.cut.count == 2


async def test_2_majority_and_tie(deployment: LocalDeployment) -> None:
    won = await decide(
        deployment,
        [1_000_000] * 3,
        {1: [("a", 0)], 2: [("b", 0)], 3: [("a", 1)]},
        rule="majority",
        options=["a", "b"],
    )
    assert (won.outcome["decision"], won.outcome["vote_ratio_ppm"]) == ("a", 666_666)
    tied = await decide(
        deployment,
        [1_000_000] * 2,
        {1: [("a", 0)], 2: [("b", 0)]},
        rule="majority",
        options=["a", "b"],
    )
    assert (tied.outcome["decision"], tied.outcome["tie"]) == ("no_consensus", True)


async def test_2_plurality_needs_its_share_and_a_second_ballot_finds_it(
    deployment: LocalDeployment,
) -> None:
    first = ["a", "a", "a", "b", "b", "c", "d"]
    second = ["a", "a", "a", "a", "a", "b", "c"]
    config = {"rule": "plurality", "options": ["a", "b", "c", "d"], "min_share_ppm": 600_000}
    script: dict[int, list[Line]] = {
        number: [(one, 0), (two, 0)]
        for number, (one, two) in enumerate(zip(first, second, strict=True), 1)
    }
    short = await decide(deployment, [1_000_000] * 7, script, **config)
    assert short.outcome["decision"] == "no_consensus"
    assert short.outcome["vote_ratio_ppm"] == 428_571
    revote = await decide(
        deployment, [1_000_000] * 7, script, max_ballots=2, early_exit=False, **config
    )
    assert (revote.outcome["decision"], revote.outcome["ballot"]) == ("a", 2)
    assert revote.outcome["vote_ratio_ppm"] == 714_285
    assert revote.outcome["dissenters"] == ["agent-6", "agent-7"]


async def test_3_graded(deployment: LocalDeployment) -> None:
    decision = await decide(
        deployment,
        [2_000_000, 1_000_000, 500_000],
        {1: [("agree", 0, 0.9)], 2: [("disagree", 0, 0.8)], 3: [("agree", 1, 0.5)]},
        rule="weighted",
    )
    outcome = decision.outcome
    assert outcome["decision"] == "strong_approve"
    assert (outcome["mean_ppm"], outcome["support_ppm"]) == (719_298, 585_714)
    assert outcome["decided_by"] == "all_voted"
    assert "stated_confidence" in outcome["tolerance"]["assumes"]


@pytest.mark.parametrize(
    ("before", "after"), [([6, 1, 1], [2, 1, 1]), ([6, 1], [1, 1])], ids=["three", "two"]
)
async def test_4_weight_cap(
    deployment: LocalDeployment, before: list[int], after: list[int]
) -> None:
    decision = await decide(
        deployment,
        [weight * 1_000_000 for weight in before],
        {number: [("agree", 0)] for number in range(1, len(before) + 1)},
        weight_share_cap_ppm=500_000,
    )
    frozen = [each.weight for each in decision.opened.content.participants]
    assert frozen == [weight * 1_000_000 for weight in after]


async def test_an_agent_whose_code_fails_abstains_and_says_so(deployment: LocalDeployment) -> None:
    client = await deployment.client("client")
    script = {
        "agent-1": [{"option": "agree", "fail": True}],
        "agent-2": [{"option": "agree"}],
        "agent-3": [{"option": "nonsense"}],
    }
    try:
        decision = await client.decide(
            "simple_consensus",
            {"proposal": {"script": script}, "rule": "majority", "vote_timeout_ms": 5_000},
            ["agent-1", "agent-2", "agent-3"],
        )
        fold = await client.read(decision.coordination)
    finally:
        await client.transport.close()
    assert decision.outcome["decision"] == "no_consensus"
    assert decision.outcome["decided_by"] == "all_voted"
    assert decision.outcome["weights"]["abstain"] == 2_000_000
    assert fold.terminal is not None
