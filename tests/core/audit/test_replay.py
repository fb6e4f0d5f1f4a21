"""Stepping through a recording, and folding it again under other parameters."""

from __future__ import annotations

from typing import Any

import pytest
from audit_log import AuditLog, decided, opened

from mabeam.core.audit.replay import Step, steps
from mabeam.core.audit.what_if import WhatIf, what_if
from mabeam.core.errors import NotFoundError, UsageError
from mabeam.core.kernel_events import CancelRequested
from mabeam.protocols import PROTOCOLS


def walk(log: AuditLog) -> list[Step]:
    """All steps of ``c1``."""
    return list(steps(log.records, "c1", log.root.public_key, PROTOCOLS))


def test_every_step_shows_verdict_phase_and_what_is_due() -> None:
    log = decided()
    log.store(log.records[13].wire, log.records[13].subject)
    log.store(b"garbage", log.records[13].subject)
    walked = walk(log)
    assert [(step.sequence, step.verdict, step.phase) for step in walked] == [
        (10, "in force", "requested"),
        (11, "in force", "requested"),
        (12, "in force", "opening"),
        (13, "in force", "voting"),
        (14, "in force", "voting"),
        (15, "in force", "voting"),
        (16, "in force", "decided"),
        (17, "in force", "decided"),
        (18, "duplicate", "decided"),
        (19, "malformed", "decided"),
    ]
    assert walked[4].waiting_for == ("a-2", "a-3")
    (deadline,) = walked[4].planned
    assert (deadline.kind, deadline.type, deadline.delay_ms) == ("after", "deadline.passed", 30_000)
    (ending,) = walked[6].planned
    assert (ending.kind, ending.type) == ("append", "coordination.decided")
    assert ending.body["outcome"]["decision"] == "agree"
    assert walked[7].planned == ()


def ask(log: AuditLog, **overrides: str) -> WhatIf:
    """What if ``c1`` had had other parameters."""
    return what_if(log.records, overrides, "c1", log.root.public_key, PROTOCOLS)


def split(**config: Any) -> AuditLog:
    """Five agents vote agree, agree, agree, disagree, agree under an 80 % threshold."""
    log = opened(agents=5, **{"threshold_ppm": 800_000, **config})
    for number, option in enumerate(("agree", "agree", "agree", "disagree", "agree"), 1):
        log.vote(f"a-{number}", option)
    log.advance()
    return log


def test_a_lower_threshold_decides_earlier() -> None:
    result = ask(split(), threshold_ppm="600000")
    assert result.recorded is not None
    assert result.alternative is not None
    assert result.changed == {"threshold_ppm": (800_000, 600_000)}
    assert result.recorded.sequence == 23
    assert result.recorded.content["outcome"]["weights"]["options"]["agree"] == 4_000_000
    assert result.alternative.sequence == 20
    assert result.alternative.content["outcome"]["weights"]["options"]["agree"] == 3_000_000


def test_a_higher_threshold_gives_another_decision() -> None:
    result = ask(split(), rule="unanimous")
    assert result.recorded is not None
    assert result.alternative is not None
    assert result.recorded.content["outcome"]["decision"] == "agree"
    assert result.alternative.content["outcome"]["decision"] == "disagree"
    assert result.alternative.sequence == 21


def test_what_the_recording_cannot_decide_would_still_be_open() -> None:
    log = opened(agents=3, threshold_ppm=600_000)
    log.vote("a-1")
    log.vote("a-2")
    log.advance()
    result = ask(log, threshold_ppm="900000")
    assert result.recorded is not None
    assert result.alternative is None
    assert result.waiting_for == ("a-3",)
    assert [each.type for each in result.planned] == ["deadline.passed"]


def test_votes_that_came_too_late_count_where_they_would_have() -> None:
    log = opened(agents=3, threshold_ppm=600_000)
    log.vote("a-1")
    log.vote("a-2")
    log.advance()
    log.vote("a-3", "disagree")
    result = ask(log, threshold_ppm="900000")
    assert result.alternative is not None
    assert result.alternative.content["outcome"]["decision"] == "disagree"


def test_a_deadline_passes_where_it_was_recorded() -> None:
    log = opened(agents=3, vote_timeout_ms=5_000)
    log.vote("a-1")
    log.vote("a-2")
    log.pass_time(6_000)
    log.advance(due=True)
    log.advance()
    result = ask(log, threshold_ppm="600000")
    assert result.recorded is not None
    assert result.alternative is not None
    assert result.recorded.content["outcome"]["decision"] == "no_consensus"
    assert result.alternative.content["outcome"]["decision"] == "agree"
    patient = ask(log, early_exit="false", threshold_ppm="500000")
    assert patient.alternative is not None
    assert patient.alternative.content["outcome"]["decision"] == "agree"
    assert patient.alternative.sequence == log.records[-2].sequence


def test_acts_of_the_coordinator_take_the_content_the_other_parameters_give() -> None:
    result = ask(split(), vote_timeout_ms="1234", max_ballots="2")
    assert result.alternative is not None
    assert result.recorded is not None
    assert (
        result.alternative.content["outcome"]["decision"]
        == result.recorded.content["outcome"]["decision"]
    )


def test_acts_the_other_parameters_do_not_intend_did_not_happen() -> None:
    log = opened(agents=3, max_ballots=2)
    for number, option in enumerate(("agree", "abstain", "abstain"), 1):
        log.vote(f"a-{number}", option)
    log.advance()
    log.advance()
    for number in (1, 2, 3):
        log.vote(f"a-{number}", ballot=2)
    log.advance()
    result = ask(log, early_exit="false")
    assert result.recorded is not None
    assert result.recorded.content["outcome"]["ballot"] == 2
    assert result.alternative is None
    assert [each.type for each in result.planned] == ["deadline.passed"]


def test_an_open_coordination_has_no_recorded_ending() -> None:
    log = opened(agents=3)
    log.vote("a-1")
    result = ask(log)
    assert result.recorded is None
    assert result.alternative is None
    assert result.changed == {}


def test_a_cancelled_one_shows_what_it_would_have_become() -> None:
    log = opened(agents=3)
    log.vote("a-1")
    log.vote("a-2")
    log.append("client", "coordination.cancel_requested", CancelRequested(), "pub")
    log.advance()
    result = ask(log, threshold_ppm="500000")
    assert result.recorded is not None
    assert result.recorded.type == "coordination.cancelled"
    assert result.alternative is not None
    assert result.alternative.type == "coordination.decided"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"treshold": "1"}, "no parameter treshold"),
        ({"threshold_ppm": "lots"}, "threshold_ppm=lots"),
        ({"threshold_ppm": "1"}, "threshold_ppm"),
        ({"rule": "dictatorship"}, "rule"),
        ({"options": '["a"]'}, "options"),
    ],
)
def test_bad_parameters_are_refused_with_the_known_ones(
    overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ask(decided(), **overrides)
    assert "threshold_ppm" in caught.value.hint


def test_what_was_never_opened_cannot_be_asked_about() -> None:
    with pytest.raises(NotFoundError):
        what_if([], {}, "c1", decided().root.public_key, PROTOCOLS)
