"""A failing run says which lies were told, whether it takes any, and leaves a log to look at."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mabeam.core.sim.run import Case, Recording, run_case
from mabeam.core.sim.shrink import shrink
from mabeam.infra.cli.main import run
from mabeam.infra.simulation import simulation_of
from mabeam.infra.simulation.recorded import record_run
from mabeam.protocols.byzantine.config import group_of
from mabeam.protocols.byzantine.view_change import check_new_view
from tests.protocols.simple.test_mutants import Mutant, applied

PROTOCOL = "byzantine_consensus"
SIMULATION = simulation_of(PROTOCOL)
WRONG_QUORUM = Mutant(
    "quorum 2f + 1",
    group_of,
    "quorum = replica_quorum(len(replicas), config.f)",
    "quorum = 2 * config.f + 1",
)
TRUSTED_SLOTS = Mutant(
    "NEW-VIEW slots trusted", check_new_view, "computed.slots == body.slots", "True"
)
USURPED = Case(PROTOCOL, 6, "liar", 4)


def test_the_adversary_is_left_out_where_nobody_needs_to_lie() -> None:
    with applied(WRONG_QUORUM):
        failing = run_case(Case(PROTOCOL, 1, "equivocating_voter"), SIMULATION)
        assert failing.failed
        least = shrink(failing, SIMULATION)
        assert run_case(least.case, SIMULATION).failed
    assert (least.case.adversary, least.case.drawn_with) == ("", "equivocating_voter")
    assert not run_case(least.case, SIMULATION).failed, "the rule is whole again"


def test_a_liar_that_is_needed_stays() -> None:
    with applied(TRUSTED_SLOTS):
        failing = run_case(USURPED, SIMULATION)
        least = shrink(failing, SIMULATION)
    assert failing.failed
    assert least.case.adversary == "liar"
    told = "\n".join(least.story)
    assert "r0 signs new_view_sent to view 4" in told
    assert "counts r0's new_view_sent to view 4: executed slots are replaced" in told


def test_the_story_is_in_order_and_bounded() -> None:
    recording = Recording()
    assert run_case(USURPED, SIMULATION, recording).story == (), "of a failed run only"
    assert recording.world is not None
    everything = recording.world.story(10_000)
    times = [float(line.split()[0]) for line in everything]
    assert times == sorted(times)
    assert len(everything) > 5
    last = recording.world.story(5)
    assert last == (f"({len(everything) - 5} earlier lines left out)", *everything[-5:])
    recording.world.note_violation("something")
    recording.world.note("what came later")
    assert recording.world.story(1)[-1].endswith("violated: something")


def test_real_signatures_change_nothing_else() -> None:
    stubbed = run_case(USURPED, SIMULATION)
    recorded = record_run(USURPED, SIMULATION)
    again = recorded.result
    assert again.endings == stubbed.endings
    assert (again.records, again.virtual_s) == (stubbed.records, stubbed.virtual_s)


def test_exported_run_is_drawn_and_verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, bundle = tmp_path / "case.json", tmp_path / "run.bundle"
    file.write_bytes(msgspec.json.encode(Case(PROTOCOL, 1)))
    assert run(["sim", "run", "--case", str(file), "--export", str(bundle)]) == 0
    out = capsys.readouterr().out
    commands = [line.split()[1:] for line in out.splitlines() if line.startswith("  mabeam")]
    assert len(commands) == 2
    for command in commands:
        assert run(command) == 0, command
    assert "clean: " in capsys.readouterr().out


def test_nothing_is_exported_where_nothing_failed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundle = tmp_path / "run.bundle"
    assert run(["sim", "run", "--runs", "2", "--export", str(bundle)]) == 0
    assert "is not written: no run failed" in capsys.readouterr().out
    assert not bundle.exists()
