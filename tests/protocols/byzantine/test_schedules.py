"""Agreement, integrity and liveness over many seeds, sizes and adversaries (TST-4, TST-6)."""

from __future__ import annotations

import pytest

from tests.protocols.byzantine.adversaries import ADVERSARIES
from tests.protocols.byzantine.worlds import SIZES, play, world

SEEDS = 1_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("adversary", ["none", *ADVERSARIES])
def test_schedules(adversary: str, count: int) -> None:
    for seed in range(SEEDS):
        try:
            play(world(count, adversary, seed))
        except AssertionError as error:
            raise AssertionError(f"world({count}, {adversary!r}, {seed}): {error}") from error
