"""A service claims to go on from another: the audit compares what both of them say (BYZ-24)."""

from __future__ import annotations

from typing import Any

import pytest
from audit_tampering import altered, audit, first
from msgspec.structs import replace
from replica_log import ReplicaLog

from mabeam.core.audit.findings import Report
from mabeam.core.hashing import sha256
from mabeam.core.kernel_events import CoordinationRequested, Invitee
from mabeam.core.succession import Predecessor, handover_of
from mabeam.protocols.byzantine import SPEC
from mabeam.protocols.byzantine.events import (
    HANDOVER,
    REQUEST,
    HandoverRequested,
    RequestSubmitted,
)

LIE = sha256(b"lie")


def handed_over(to: str = "c2") -> ReplicaLog:
    """Service c1 executed one operation and was handed over in the same slot or the next."""
    log = ReplicaLog(proposal=None, mode="service", batch_delay_ms=0)
    log.append("client", REQUEST, RequestSubmitted(1, "x"), "pub")
    log.act()
    log.append("client", HANDOVER, HandoverRequested(to), "pub")
    log.act()
    log.conclude()
    return log


def true_claim(log: ReplicaLog) -> Predecessor:
    """What a successor of c1 has to say."""
    terminal = log.fold().terminal
    handover = handover_of(terminal)
    assert terminal is not None
    assert handover is not None
    return Predecessor("c1", terminal.id, handover.sequence, handover.state_root)


def succeed(
    log: ReplicaLog, claim: Predecessor, name: str = "c2", requester: str = "client"
) -> None:
    """A coordination that claims to go on from another."""
    config: dict[str, Any] = {"mode": "service", "predecessor": claim}
    members = tuple(map(Invitee, log.names))
    body = CoordinationRequested(SPEC.name, config, members, ordering="bft")
    log.append(requester, "coordination.requested", body, "req", coordination=name, epoch=b"")
    log.claim(coordination=name)
    log.open(coordination=name)


def told(report: Report, culprit: str = "client") -> str:
    """What the audit says is wrong."""
    found = first(report)
    assert (found.severity, found.code, found.culprit) == ("wrong", "false_predecessor", culprit)
    assert not report.ok
    return found.message


def test_a_true_claim_is_clean() -> None:
    log = handed_over()
    terminal = log.fold().terminal
    assert terminal is not None
    assert terminal.content.outcome["result"] == "handed_over"
    assert terminal.content.outcome["sequence"] == 2
    succeed(log, true_claim(log))
    report = audit(log)
    assert report.clean, report.findings
    assert report.endings == {"decided": 1, "open": 1}


def test_a_false_root_slot_or_end_is_told() -> None:
    root = handed_over()
    succeed(root, replace(true_claim(root), state_root=LIE))
    assert f"state {LIE.hex()[:12]}, 'c1' ended in" in told(audit(root))
    slot = handed_over()
    succeed(slot, replace(true_claim(slot), sequence=1))
    assert told(audit(slot)) == "it goes on from slot 1 of 'c1', not 2"
    end = handed_over()
    succeed(end, replace(true_claim(end), terminal_id=LIE))
    assert "which ended by" in told(audit(end))


def test_only_the_successor_named_goes_on() -> None:
    log = handed_over(to="c3")
    succeed(log, true_claim(log))
    assert told(audit(log)) == "'c1' was handed over to 'c3'"


def test_a_successor_must_be_the_same_clients() -> None:
    log = handed_over()
    log.admit("rival", "client")
    succeed(log, true_claim(log), requester="rival")
    assert told(audit(log), "rival") == "'client' asked for 'c1', 'rival' for its successor"


def test_what_was_not_handed_over_has_no_successor() -> None:
    log = ReplicaLog(proposal=None, mode="service")
    succeed(log, Predecessor("c1", LIE, 1, LIE))
    assert told(audit(log)) == "'c1' was not handed over"
    other = handed_over()
    succeed(other, replace(true_claim(other), coordination="c9"))
    assert told(audit(other)) == "the log holds nothing of 'c9'"


def test_a_predecessor_that_was_forgotten_is_remembered_for_this() -> None:
    log = handed_over()
    succeed(log, true_claim(log))
    assert audit(log, capacity=1).clean
    false = handed_over()
    succeed(false, replace(true_claim(false), state_root=LIE))
    assert "ended in" in told(audit(false, capacity=1))


def test_a_selection_without_the_predecessor_says_so() -> None:
    log = handed_over()
    succeed(log, true_claim(log))
    chosen = [each for each in log.records if ".c1." not in each.subject]
    report = audit(log, chosen, scope="selection")
    assert report.ok
    assert [f.code for f in report.findings if f.severity == "warning"] == ["unchecked_predecessor"]


def test_nobody_is_accused_where_records_of_the_predecessor_are_missing() -> None:
    log = handed_over()
    succeed(log, replace(true_claim(log), state_root=LIE))
    lost = next(each for each in log.records if "request_submitted" in each.subject)
    records = [each for each in log.records if each is not lost]
    report = audit(log, records, scope="selection")
    assert not [each for each in report.findings if each.culprit]
    assert not report.complete


@pytest.mark.parametrize("field", ["state_root", "successor"])
def test_a_coordinator_cannot_invent_the_end(field: str) -> None:
    log = ReplicaLog(proposal=None, mode="service", batch_delay_ms=0)
    log.append("client", HANDOVER, HandoverRequested("c2"), "pub")
    log.act()

    def change(outcome: dict[str, Any]) -> None:
        outcome[field] = LIE if field == "state_root" else "c3"

    true = log.next()
    log.append("coord-1", true.type, altered(true, change), refs=true.refs)
    found = first(audit(log))
    assert (found.code, found.culprit) == ("wrong_outcome", "coord-1")
