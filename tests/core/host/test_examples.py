"""The worked examples of simple consensus (specification 3.9), played by real hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from stored import effective, reasons
from voters import Voter

from mabeam.core.client import Decision
from mabeam.core.kernel_events import Invitee


async def _decide(
    directory: Path, votes: dict[str, tuple[str, int]], config: dict[str, Any]
) -> tuple[Decision, Deployment]:
    """Run one coordination; ``votes`` gives option and weight by agent."""
    async with Deployment(directory) as deployment:
        await deployment.coordinator("coord-1")
        for id, (option, _) in votes.items():
            await deployment.agent(id, Voter(option))
        client = await deployment.client()
        participants = [Invitee(id, weight * 10**6) for id, (_, weight) in votes.items()]
        decision = await client.decide("simple_consensus", {"proposal": 1, **config}, participants)
        return decision, deployment


@pytest.mark.parametrize(
    ("options", "decision"),
    [
        (("agree", "disagree", "agree", "disagree"), "agree"),
        (("disagree", "disagree", "disagree", "agree"), "disagree"),
        (("agree", "agree", "agree", "agree"), "agree"),
    ],
)
async def test_weighted_threshold_counts_all_eligible_weight(
    tmp_path: Path, options: tuple[str, ...], decision: str
) -> None:
    votes = {f"a-{w}": (option, w) for w, option in zip((4, 3, 2, 1), options, strict=True)}
    got, deployment = await _decide(tmp_path, votes, {"threshold_ppm": 600_000})
    outcome = got.outcome
    assert outcome["decision"] == decision
    assert outcome["weights"]["total"] == 10_000_000
    assert not [r for r in reasons(deployment, got.coordination) if r != "late"]


async def test_majority_of_a_a_b(tmp_path: Path) -> None:
    votes = {"a-1": ("a", 1), "a-2": ("a", 1), "a-3": ("b", 1)}
    config = {"rule": "majority", "options": ["a", "b"], "early_exit": False}
    got, _ = await _decide(tmp_path, votes, {**config, "vote_timeout_ms": 300})
    assert (got.outcome["decision"], got.outcome["vote_ratio_ppm"]) == ("a", 666_666)
    assert got.outcome["dissenters"] == ["a-3"]


async def test_tie_is_no_consensus_and_the_revote_is_held(tmp_path: Path) -> None:
    votes = {"a-1": ("a", 1), "a-2": ("b", 1)}
    config = {"rule": "majority", "options": ["a", "b"], "max_ballots": 2}
    got, deployment = await _decide(tmp_path, votes, config)
    assert got.outcome["decision"] == "no_consensus"
    assert got.outcome["tie"] is True
    assert got.outcome["ballot"] == 2
    assert got.outcome["decided_by"] == "all_voted"
    assert effective(deployment, got.coordination) == [
        "coordination.requested",
        "coordination.claimed",
        "coordination.opened",
        *["simple.ballot_opened", "simple.vote_cast", "simple.vote_cast", "simple.ballot_closed"],
        *["simple.ballot_opened", "simple.vote_cast", "simple.vote_cast"],
        "coordination.decided",
    ]


async def test_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        await deployment.agent("a-1", Voter())
        gone = await deployment.agent("a-2", Voter())
        await deployment.kill(gone)
        client = await deployment.client()
        got = await client.decide(
            "simple_consensus", {"proposal": 1, "vote_timeout_ms": 200}, ["a-1", "a-2"]
        )
        assert got.outcome["decision"] == "no_consensus"
        assert got.outcome["decided_by"] == "deadline"
        assert got.outcome["silent"] == ["a-2"]
