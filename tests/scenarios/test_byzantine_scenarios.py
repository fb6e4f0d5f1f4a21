"""Every scenario of Byzantine consensus: full message trace against its golden text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Golden
from tests.scenarios.byzantine_script import run_script

SCENARIOS = sorted((Path(__file__).parent / "byzantine").glob("*.txt"))


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 30


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: str(path.stem))
def test_scenario(path: Path, golden: Golden) -> None:
    golden.check(path, run_script(path.read_text(encoding="utf-8")))
