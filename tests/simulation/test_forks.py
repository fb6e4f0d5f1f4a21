"""More traitors than the group tolerates: whatever they achieve, it gives them away."""

from __future__ import annotations

import pytest

from mabeam.infra.simulation.byzantine.forks import attempt

SEEDS = range(12)


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_every_fork_names_its_traitors_and_nobody_else(count: int) -> None:
    forks = 0
    for seed in SEEDS:
        fork = attempt(seed, count)
        found = fork.forensics
        assert set(found.culprits) <= fork.traitors, (count, seed)
        assert set(fork.named) <= fork.traitors, (count, seed)
        assert found.verdict != "incomplete", (count, seed)
        if found.verdict == "culprits":
            forks += 1
            assert len(found.culprits) > fork.tolerated, (count, seed)
    assert forks >= len(SEEDS) - 2
