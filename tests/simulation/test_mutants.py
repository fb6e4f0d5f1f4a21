"""Broken rules are found within seconds, and what is left of the schedule is what it takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mabeam.core.errors import PeerProtocolError
from mabeam.core.host.participant import ParticipantHost
from mabeam.core.host.session import Session
from mabeam.core.journal import Journal
from mabeam.core.machine import LogEvent
from mabeam.core.sim.run import Result, run_case
from mabeam.core.sim.shrink import shrink
from mabeam.infra.cli.sim import draw_cases
from mabeam.infra.simulation.simple import SimulatedSimple
from mabeam.protocols.simple.ballot import BallotBox
from mabeam.protocols.simple.tally import Rules, Tally

SIMPLE = SimulatedSimple()
MAX_RUNS = 120


def _hunt(adversary: str = "all") -> Result:
    """The first of the seeds that fails."""
    for case in draw_cases(SIMPLE.protocol, adversary, range(1, MAX_RUNS)):
        result = run_case(case, SIMPLE)
        if result.failed:
            return result
    raise AssertionError(f"not found by {MAX_RUNS} schedules")


def _second_vote_overwrites(box: BallotBox, first: LogEvent, second: LogEvent, _: int) -> None:
    weight = box._weights[first.author]
    box.equivocations[first.author] = (first, second)
    for vote, sign in ((first.content, -weight), (second.content, weight)):
        box.tally._count(vote.option, sign, vote.confidence_ppm)
    box.votes[first.author] = second
    box._judge(second)
    raise PeerProtocolError("equivocation", "mutant")


def test_second_vote_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BallotBox, "_vote_again", _second_vote_overwrites)
    assert "simple_consensus" in {violation.checker for violation in _hunt().violations}


def test_more_than_the_threshold_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Rules.of

    def stricter(config: Any, total: int) -> Rules:
        rules = of(config, total)
        return msgspec.structs.replace(rules, needed=rules.needed + 1)

    monkeypatch.setattr(Rules, "of", stricter)
    assert "simple_consensus" in {violation.checker for violation in _hunt().violations}


def test_only_received_weight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cast = Tally.add

    def forgetful(tally: Tally, option: str, weight: int, confidence_ppm: int | None) -> None:
        cast(tally, option, weight, confidence_ppm)
        tally.total = tally.cast

    monkeypatch.setattr(Tally, "add", forgetful)
    monkeypatch.setattr(Tally, "uncast", property(lambda tally: 0))
    assert "simple_consensus" in {violation.checker for violation in _hunt().violations}


def test_nothing_is_signed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "find", lambda journal, coordination, key: None)
    assert "nobody_honest_accused" in {violation.checker for violation in _hunt().violations}


def test_refused_event_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(session: Session) -> bool:
        session.refused = None
        return False

    monkeypatch.setattr(Session, "_send_refused", forget)
    assert "complete" in {violation.checker for violation in _hunt().violations}


def test_amnesiac_agent_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that forgets what it signed whenever it starts again is harmless until it does."""

    def trusting(host: ParticipantHost, opened: Any) -> None:
        host.journal.born = 0
        check_time(host, opened)

    check_time = ParticipantHost._check_time
    monkeypatch.setattr(ParticipantHost, "_check_time", trusting)
    found = _hunt()
    assert "nobody_honest_accused" in {violation.checker for violation in found.violations}
    least = shrink(found, SIMPLE)
    faults = least.case.faults or ()
    assert "crash_losing_journal" in {fault.kind for fault in faults}
    assert len(faults) <= 2
    assert run_case(least.case, SIMPLE).digest == least.digest
