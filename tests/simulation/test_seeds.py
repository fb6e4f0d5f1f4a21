"""Every failing seed ever found, done again. No file here is ever removed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mabeam.core.sim import run as runs
from mabeam.core.sim.checkers import UNTRUSTED_OPERATOR, nobody_honest_accusable
from mabeam.core.sim.run import Case, Result, run_case
from mabeam.infra.simulation import simulation_of

SEEDS = sorted(Path(__file__).with_name("seeds").glob("*.json"))
TRUNCATED = [
    file
    for file in SEEDS
    if file.stem in ("truncated-tail-coordination", "truncated-tail-registry-again")
]


def _run(file: Path) -> Result:
    case = msgspec.json.decode(file.read_bytes(), type=Case)
    return run_case(case, simulation_of(case.protocol))


@pytest.mark.parametrize("file", SEEDS, ids=lambda file: file.stem)
def test_kept_seed(file: Path) -> None:
    result = _run(file)
    assert not result.failed, (result.case.note, *map(str, result.violations))


@pytest.mark.parametrize("file", TRUNCATED, ids=lambda file: file.stem)
def test_even_lost_events_accuse_nobody(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkers = (*UNTRUSTED_OPERATOR, nobody_honest_accusable)
    monkeypatch.setattr(runs, "UNTRUSTED_OPERATOR", checkers)
    assert not _run(file).failed
