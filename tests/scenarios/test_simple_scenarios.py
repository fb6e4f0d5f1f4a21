"""Every scenario of the simple consensus: full message trace against its golden text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Golden
from tests.scenarios.simple_script import run_script

SCENARIOS = sorted((Path(__file__).parent / "simple").glob("*.txt"))


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 8


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: str(path.stem))
def test_scenario(path: Path, golden: Golden) -> None:
    golden.check(path, run_script(path.read_text(encoding="utf-8")))
