"""What a coordinator does must be what its machine intended, however lenient the protocol is."""

from __future__ import annotations

import msgspec
import pytest
from audit_log import AuditLog
from audit_tampering import accused, audit, first
from relay import NOTE, RELAY, STEP, Note, Step

from mabeam.core.audit.verify import audit_records
from mabeam.core.kernel_events import CoordinationRequested, Invitee
from mabeam.protocols import PROTOCOLS


@pytest.fixture
def log() -> AuditLog:
    """A relay of three steps, opened."""
    log = AuditLog(protocols={"relay": RELAY})
    log.admit("coord-1", "coordinator")
    log.admit("coord-2", "coordinator")
    log.admit("client", "client")
    log.admit("a-1", "agent")
    body = CoordinationRequested("relay", {}, (Invitee("a-1"),))
    log.append("client", "coordination.requested", body, "req")
    log.claim()
    log.open()
    return log


def note(log: AuditLog, word: str) -> None:
    """The agent says something."""
    log.append("a-1", NOTE, Note(word), "pub")


def test_steps_as_intended_pass(log: AuditLog) -> None:
    for _ in range(4):
        log.advance()
    report = audit(log)
    assert report.clean
    assert report.endings == {"decided": 1}


@pytest.mark.parametrize("number", [1, 3, 7])
def test_a_step_that_is_not_the_next_is_not_intended(log: AuditLog, number: int) -> None:
    log.advance()
    log.append("coord-1", STEP, Step(number))
    report = audit(log)
    assert (first(report).code, first(report).culprit) == ("not_intended", "coord-1")
    assert first(report).sequence == len(log.records)


def test_intents_are_those_since_the_last_act_in_force(log: AuditLog) -> None:
    note(log, "hello")
    log.advance()
    note(log, "hello")
    log.append("coord-1", STEP, Step(1))
    assert first(audit(log)).sequence == len(log.records)


def test_a_claim_in_between_changes_nothing(log: AuditLog) -> None:
    log.advance()
    log.claim("coord-2")
    log.advance("coord-2")
    report = audit(log)
    assert report.clean
    assert accused(report) == set()


def test_what_an_equivocation_leads_to_is_intended(log: AuditLog) -> None:
    note(log, "skip")
    log.append("coord-1", STEP, Step(2))
    report = audit(log)
    assert report.clean
    assert [finding.code for finding in report.findings] == ["unproven_equivocation"]


def test_an_answer_of_the_coordinators_own_code_is_not_judged(log: AuditLog) -> None:
    note(log, "ask")
    log.append("coord-1", STEP, Step(42))
    report = audit(log)
    assert report.clean
    assert [finding.code for finding in report.findings] == ["unchecked_answer"]


def test_a_machine_that_fails_ends_only_its_own_coordination(log: AuditLog) -> None:
    body = CoordinationRequested("relay", {"steps": 0}, (Invitee("a-1"),))
    fold = log.fold()
    event = log.author("a-1").sign("c1", fold.epoch, NOTE, Note("fail"))
    with pytest.raises(RuntimeError):
        log.put(event)
    log.append("client", "coordination.requested", body, "req", coordination="c2")
    report = audit(log)
    assert report.ok
    assert not report.complete
    assert (first(report).code, first(report).sequence) == ("machine_failed", 9)
    assert report.coordinations == 2


def test_a_protocol_this_program_does_not_know_cannot_be_judged(log: AuditLog) -> None:
    log.advance()
    report = audit_records(log.records, log.root.public_key, PROTOCOLS)
    assert report.ok
    assert not report.complete
    assert first(report).code == "unknown_protocol"
    newer = {"relay": msgspec.structs.replace(RELAY, version=2)}
    report = audit_records(log.records, log.root.public_key, newer)
    assert first(report).code == "unknown_protocol"
