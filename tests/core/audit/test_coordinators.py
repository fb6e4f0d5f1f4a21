"""An audit computes again what coordinators signed, and names whoever signed something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from audit_log import AuditLog, deployment, key_of, opened, vote
from audit_tampering import accused, altered, audit, first

from mabeam.core.audit.findings import Report
from mabeam.core.hashing import ZERO32
from mabeam.core.identity import KeyPair
from mabeam.core.kernel_events import (
    AgentRegistered,
    AgentRevoked,
    CancelRequested,
    CoordinationCancelled,
    CoordinationClaimed,
    CoordinationFailed,
    CoordinationOpened,
    DeadlinePassed,
    InputRejected,
    OutcomeReported,
)
from mabeam.core.names import REGISTRY
from mabeam.protocols.simple.events import VOTE_CAST, BallotClosed, BallotOpened


def blamed(report: Report, code: str, culprit: str = "coord-1") -> None:
    """The first divergence is this one, and nobody else is accused."""
    found = first(report)
    assert (found.severity, found.code, found.culprit) == ("wrong", code, culprit), found
    assert accused(report) == {culprit}
    assert not report.ok


def voted(**config: Any) -> AuditLog:
    """All votes are cast; the coordinator has not said anything yet."""
    log = opened(threshold_ppm=1_000_000, **config)
    for number in (1, 2, 3):
        log.vote(f"a-{number}")
    return log


# Endings ------------------------------------------------------------------------------------------


def _decision(outcome: dict[str, Any]) -> None:
    outcome["decision"] = "disagree"


def _tally(outcome: dict[str, Any]) -> None:
    outcome["weights"]["options"]["agree"] -= 1


def _extra(outcome: dict[str, Any]) -> None:
    outcome["note"] = "trust me"


@pytest.mark.parametrize("change", [_decision, _tally, _extra])
def test_a_result_the_votes_do_not_give(change: Callable[[dict[str, Any]], None]) -> None:
    log = voted()
    due = log.next()
    log.append("coord-1", due.type, altered(due, change), refs=due.refs)
    log.advance()
    report = audit(log)
    blamed(report, "wrong_outcome")
    assert first(report).rule == "E9"
    assert first(report).proof == (log.records[16].wire,)
    assert report.endings == {"decided": 1}
    assert "recomputed" in first(report).message


def test_a_result_that_leaves_votes_out() -> None:
    log = voted()
    due = log.next()
    log.append("coord-1", due.type, due.body, refs=due.refs[:2])
    report = audit(log)
    blamed(report, "wrong_outcome")


def test_no_consensus_before_the_deadline() -> None:
    patient, hasty = opened(), opened()
    for log in (patient, hasty):
        log.vote("a-1")
    patient.advance(due=True)
    due = patient.next()
    hasty.append("coord-1", due.type, due.body, refs=due.refs)
    report = audit(hasty)
    blamed(report, "premature_ending")
    assert report.endings == {"open": 1}


def test_an_ending_by_somebody_else_has_no_effect() -> None:
    log = voted()
    due = log.next()
    log.append("coord-2", due.type, altered(due, _decision), refs=due.refs)
    log.advance()
    report = audit(log)
    assert report.clean
    assert report.rejections == {"stale_fence": 1}


def test_two_different_endings() -> None:
    log = voted()
    due = log.next()
    log.advance()
    log.append("coord-1", due.type, altered(due, _decision), refs=due.refs)
    report = audit(log)
    blamed(report, "two_endings")
    assert first(report).proof == (log.records[16].wire, log.records[17].wire)


def test_two_different_endings_are_proof_whatever_is_missing() -> None:
    log = voted()
    due = log.next()
    log.advance()
    log.append("coord-1", due.type, altered(due, _decision), refs=due.refs)
    log.author("a-1").sign("c1", log.fold().epoch, VOTE_CAST, vote("agree"))  # never stored
    log.vote("a-1")
    report = audit(log)
    assert not report.complete
    blamed(report, "two_endings")


def test_the_same_ending_again_is_harmless() -> None:
    log = voted()
    due = log.next()
    log.advance()
    log.append("coord-1", due.type, due.body, refs=due.refs)
    assert audit(log).clean


def test_a_cancellation_overtaken_by_the_deciding_vote_is_honest() -> None:
    log = opened(threshold_ppm=1_000_000)
    log.vote("a-1")
    log.vote("a-2")
    log.append("client", "coordination.cancel_requested", CancelRequested("enough"), "pub")
    due = log.next()
    log.vote("a-3")
    log.append("coord-1", due.type, due.body, refs=due.refs)
    log.advance()
    report = audit(log)
    assert report.clean, report.findings
    assert report.rejections == {"already_decided": 1}
    assert report.endings == {"decided": 1}


def test_a_cancellation_nobody_asked_for() -> None:
    log = opened()
    log.append("coord-1", "coordination.cancelled", CoordinationCancelled("no reason"))
    blamed(audit(log), "premature_ending")


def test_a_cancellation_instead_of_the_result() -> None:
    log = voted()
    log.append("coord-1", "coordination.cancelled", CoordinationCancelled("no reason"))
    blamed(audit(log), "wrong_ending")


def test_an_internal_error_is_taken_on_trust_and_said_so() -> None:
    log = opened()
    log.append("coord-1", "coordination.failed", CoordinationFailed("internal_error", "boom"))
    report = audit(log)
    assert report.clean
    assert [finding.code for finding in report.findings] == ["unchecked_failure"]
    assert report.endings == {"failed": 1}


def test_an_internal_error_instead_of_the_result_is_pointed_out() -> None:
    log = voted()
    log.append("coord-1", "coordination.failed", CoordinationFailed("internal_error", "boom"))
    report = audit(log)
    assert report.clean
    assert [(f.code, f.culprit) for f in report.findings] == [("suppressed_result", "coord-1")]


# Openings -----------------------------------------------------------------------------------------


def reopened(change: Callable[[AuditLog, CoordinationOpened], CoordinationOpened]) -> AuditLog:
    """A log whose coordination was opened with something else than is due."""
    log = deployment()
    log.request(["a-1", "a-2", "a-3"])
    log.claim()
    log.open(body=change(log, log.opening()))
    return log


def _heavier(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
    favourite, *others = due.participants
    heavy = msgspec.structs.replace(favourite, weight=5_000_000)
    return msgspec.structs.replace(due, participants=(heavy, *others))


def _fewer(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
    return msgspec.structs.replace(
        due, participants=due.participants[:2], certificates=due.certificates[:3]
    )


def _easier(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
    return msgspec.structs.replace(due, config={**due.config, "threshold_ppm": 500_000})


@pytest.mark.parametrize("change", [_heavier, _fewer, _easier])
def test_an_opening_that_request_and_registry_do_not_give(
    change: Callable[[AuditLog, CoordinationOpened], CoordinationOpened],
) -> None:
    report = audit(reopened(change))
    blamed(report, "wrong_opening")


def _foreign(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
    other = AuditLog(root=KeyPair(b"\7" * 32))
    certificate = other.certify("a-1", ["agent"])
    return msgspec.structs.replace(
        due, certificates=(due.certificates[0], certificate, *due.certificates[2:])
    )


def _substituted(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
    certificate = log.certify("a-1", ["agent"], key_of("another key"))
    return msgspec.structs.replace(
        due, certificates=(due.certificates[0], certificate, *due.certificates[2:])
    )


def _missing(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
    return msgspec.structs.replace(due, certificates=due.certificates[:-1])


@pytest.mark.parametrize("change", [_foreign, _substituted, _missing])
def test_certificates_that_do_not_lead_to_the_root(
    change: Callable[[AuditLog, CoordinationOpened], CoordinationOpened],
) -> None:
    report = audit(reopened(change))
    blamed(report, "wrong_certificates")
    assert "a-" in first(report).message


def test_a_snapshot_that_never_existed() -> None:
    def invent(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
        snapshot = msgspec.structs.replace(due.registry_snapshot, digest=b"\1" * 32)
        return msgspec.structs.replace(due, registry_snapshot=snapshot)

    report = audit(reopened(invent))
    assert (first(report).severity, first(report).code) == ("wrong", "snapshot_mismatch")
    assert accused(report) == set()


def test_an_opening_from_an_older_snapshot_is_recomputed_as_of_then() -> None:
    log = deployment()
    log.request(["a-1", "a-2", "a-3"])
    log.claim()
    due = log.opening()
    log.admit("a-9", "agent")
    log.revoke("a-2")
    log.open(body=due)
    report = audit(log)
    assert report.clean
    assert [finding.code for finding in report.findings] == ["stale_snapshot"]
    assert "a-2" in report.findings[0].message


def test_an_opening_with_a_revoked_participant() -> None:
    log = deployment()
    log.request(["a-1", "a-2"])
    log.claim()
    due = log.opening()
    log.revoke("a-2")
    snapshot = msgspec.structs.replace(
        due.registry_snapshot,
        sequence=log.replay.keyring.sequence,
        digest=log.replay.keyring.digest,
    )
    log.open(body=msgspec.structs.replace(due, registry_snapshot=snapshot))
    report = audit(log)
    blamed(report, "wrong_opening")
    assert "agents_not_found" in first(report).message


def test_a_refusal_that_is_due_passes_even_if_the_registry_moved_on() -> None:
    log = deployment()
    log.request(["a-1", "a-7"])
    log.claim()
    log.open()
    assert audit(log).clean
    late = deployment()
    late.request(["a-1", "a-7"])
    late.claim()
    body = msgspec.msgpack.decode(log.fold().terminal.event.body, type=CoordinationFailed)  # type: ignore[union-attr]
    late.admit("a-7", "agent")
    late.append("coord-1", "coordination.failed", body)
    report = audit(late)
    assert report.clean, report.findings
    assert report.endings == {"failed": 1}


def test_a_refusal_without_ground() -> None:
    log = deployment()
    log.request(["a-1"])
    log.claim()
    body = CoordinationFailed("agents_not_found", "no such agents", "", {"missing": ["a-1"]})
    log.append("coord-1", "coordination.failed", body)
    blamed(audit(log), "unfounded_failure")


def test_a_refusal_for_another_reason_than_the_right_one() -> None:
    log = deployment()
    log.request(["a-1", "a-7"])
    log.claim()
    log.append("coord-1", "coordination.failed", CoordinationFailed("empty_participants", "none"))
    blamed(audit(log), "wrong_failure")


# Conduct ------------------------------------------------------------------------------------------


def test_a_deadline_before_its_time_is_a_warning() -> None:
    log = opened(vote_timeout_ms=5_000)
    log.pass_time(3_000)
    log.advance(due=True)
    log.advance()
    report = audit(log)
    assert report.clean
    (finding,) = report.findings
    assert (finding.severity, finding.code) == ("warning", "early_deadline")
    assert finding.culprit == "coord-1"
    assert "5000 ms" in finding.message


def test_a_deadline_in_time_is_not() -> None:
    log = opened(vote_timeout_ms=5_000)
    log.pass_time(5_000)
    log.advance(due=True)
    log.advance()
    report = audit(log)
    assert report.clean
    assert report.findings == ()
    assert report.endings == {"decided": 1}


def test_an_act_the_machine_did_not_intend() -> None:
    log = opened()
    log.append("coord-1", "deadline.passed", DeadlinePassed("tea", 1))
    blamed(audit(log), "not_intended")


def test_a_ballot_opened_with_other_references() -> None:
    log = deployment()
    log.request(["a-1"])
    log.claim()
    log.open()
    due = log.next()
    assert isinstance(due.body, BallotOpened)
    log.append("coord-1", due.type, due.body, refs=(ZERO32,))
    blamed(audit(log), "not_intended")


def test_a_tally_between_ballots_that_the_votes_do_not_give() -> None:
    log = opened(max_ballots=2)
    for number, option in enumerate(("agree", "abstain", "abstain"), 1):
        log.vote(f"a-{number}", option)
    due = log.next()
    assert isinstance(due.body, BallotClosed)
    tally = msgspec.structs.replace(due.body.tally, abstain=0, silent=2_000_000)
    false = msgspec.structs.replace(due.body, tally=tally)
    log.append("coord-1", due.type, false, refs=due.refs)
    report = audit(log)
    blamed(report, "wrong_tally")
    assert first(report).rule == "E9"
    log.advance()
    log.advance()
    for number in (1, 2, 3):
        log.vote(f"a-{number}", ballot=2)
    log.advance()
    assert audit(log).endings == {"decided": 1}


def test_what_was_intended_before_the_last_votes_is_honest() -> None:
    log = opened(threshold_ppm=1_000_000, vote_timeout_ms=5_000, early_exit=False)
    log.vote("a-1")
    log.pass_time(6_000)
    due = log.next(due=True)
    log.vote("a-2")
    log.append("coord-1", due.type, due.body, refs=due.refs)
    log.advance()
    assert audit(log).findings == ()


def test_a_notice_is_compared_with_the_verdict() -> None:
    log = opened()
    log.vote("a-1")
    again = log.vote("a-1", "disagree")
    event_id = log.replay.admission.admit(again).id  # type: ignore[union-attr]
    log.append("coord-1", "coordination.input_rejected", InputRejected(event_id, "equivocation"))
    assert audit(log).clean
    log.append("coord-1", "coordination.input_rejected", InputRejected(event_id, "late"))
    blamed_besides = audit(log)
    assert first(blamed_besides).code == "false_notice"
    assert first(blamed_besides).culprit == "coord-1"


def test_a_notice_about_an_unknown_event_leaves_the_audit_incomplete() -> None:
    log = opened()
    log.append("coord-1", "coordination.input_rejected", InputRejected(b"\5" * 32, "late"))
    report = audit(log)
    assert report.ok
    assert not report.complete


# Honest and dishonest company ---------------------------------------------------------------------


def test_an_honest_run_with_everything_that_happens() -> None:
    log = opened(agents=5, threshold_ppm=800_000, vote_timeout_ms=5_000)
    log.vote("a-1")
    log.vote("a-2")
    log.vote("a-2", "disagree")
    log.advance()  # evidence against a-2
    stored = log.vote("a-3")
    log.store(stored.wire, stored.subject)
    log.claim("coord-2")
    log.append("coord-1", "deadline.passed", DeadlinePassed("ballot", 1))
    log.pass_time(6_000)
    log.advance("coord-2", due=True)
    log.advance("coord-2")
    log.vote("a-4")
    log.append(
        "client",
        "outcome.reported",
        OutcomeReported(stored_id(log), "general", "truth", 1, "client"),
        "pub",
    )
    report = audit(log)
    assert report.clean, report.findings
    assert accused(report) == {"a-2"}
    (finding,) = report.findings
    assert (finding.code, finding.rule, len(finding.proof)) == ("equivocation", "E1", 2)
    assert report.rejections == {
        "duplicate": 1,
        "equivocation": 1,
        "late": 1,
        "stale_fence": 1,
    }
    assert report.endings == {"decided": 1}


def stored_id(log: AuditLog) -> bytes:
    """Id of the decision."""
    terminal = log.fold().terminal
    assert terminal is not None
    return terminal.id


def test_a_fork_of_an_authors_own_chain_is_named() -> None:
    log = opened()
    log.vote("a-1")
    log.fork("a-1", VOTE_CAST, vote("disagree"))
    report = audit(log)
    assert report.clean
    (finding,) = report.findings
    assert (finding.rule, finding.culprit, finding.code) == ("E7", "a-1", "equivocation")


def test_a_revoked_coordinator_is_ignored_and_another_goes_on() -> None:
    log = voted()
    log.revoke("coord-1")
    due = log.next()
    log.append("coord-1", due.type, due.body, refs=due.refs)
    report = audit(log)
    assert report.clean
    assert report.rejections == {"revoked_key": 1}
    assert report.endings == {"open": 1}
    log.claim("coord-2")
    log.advance("coord-2")
    assert audit(log).endings == {"decided": 1}


def test_a_gap_in_a_chain_is_incomplete_and_nobodys_fault() -> None:
    log = opened()
    fold = log.fold()
    log.author("a-1").sign("c1", fold.epoch, VOTE_CAST, vote("agree"))  # never stored
    log.vote("a-1", "disagree")
    report = audit(log)
    assert report.ok
    assert not report.complete
    assert (first(report).code, first(report).author) == ("chain_gap", "a-1")
    assert accused(report) == set()


def _lied(log: AuditLog) -> AuditLog:
    """The coordinator announces what the votes do not give."""
    due = log.next()
    log.append("coord-1", due.type, altered(due, _decision), refs=due.refs)
    return log


def _skip(log: AuditLog, author: str) -> None:
    """Leave a number of the author's chain in the registry empty."""
    log.author(author).sign(REGISTRY, b"", "agent.revoked", AgentRevoked("nobody"))


def _registered(log: AuditLog) -> None:
    body = AgentRegistered(node="n1")
    log.append("a-1", "agent.registered", body, "pub", coordination=REGISTRY, epoch=b"")


def test_a_gap_that_a_member_makes_in_the_registry_covers_no_lie() -> None:
    """It hides no key, and the opening was computed from the very registry at hand."""
    log = _lied(voted())
    _skip(log, "a-1")
    _registered(log)
    report = audit(log)
    found = [f for f in report.findings if f.culprit]
    assert [(f.severity, f.code, f.culprit) for f in found] == [
        ("wrong", "wrong_outcome", "coord-1")
    ]
    assert not report.ok
    assert not report.complete
    assert "chain_gap" in {finding.code for finding in report.findings}


def test_a_gap_in_the_operators_chain_accuses_nobody() -> None:
    """What is missing may have ended a key whose votes count here."""
    log = _lied(voted())
    _skip(log, "root")
    log.admit("late", "agent")
    report = audit(log)
    assert accused(report) == set()
    assert not report.complete


def test_a_gap_of_one_who_became_an_operator_accuses_nobody() -> None:
    log = voted()
    log.admit("a-1", "agent", "operator")
    _lied(log)
    _skip(log, "a-1")
    _registered(log)
    assert accused(audit(log)) == set()


def test_a_gap_in_the_registry_before_a_refusal_accuses_nobody() -> None:
    """A refusal cites no registry: what is missing may have been a reason for it."""
    log = deployment()
    _skip(log, "a-1")
    _registered(log)
    log.request(["a-1", "a-2", "a-3"])
    log.claim()
    body = CoordinationFailed("agents_not_found", "not registered")
    log.append("coord-1", "coordination.failed", body)
    report = audit(log)
    assert accused(report) == set()
    assert not report.complete


def test_a_chain_that_names_a_predecessor_which_is_not_there_is_the_authors_fault() -> None:
    log = opened()
    fold, signer = log.fold(), log.author("a-1")
    first_vote = signer.sign("c1", fold.epoch, VOTE_CAST, vote("agree"))
    signer.withdraw(first_vote)
    signer.resume("c1", 1, b"\3" * 32, 0)
    log.put(signer.sign("c1", fold.epoch, VOTE_CAST, vote("agree")))
    log.put(first_vote)
    report = audit(log)
    assert report.clean
    assert [(f.code, f.culprit) for f in report.findings] == [("broken_chain", "a-1")]


def test_claiming_what_nobody_requested_is_a_warning() -> None:
    log = deployment()
    body = CoordinationClaimed(1, ZERO32)
    log.append("coord-1", "coordination.claimed", body, coordination="c9")
    report = audit(log)
    assert report.clean
    assert [finding.code for finding in report.findings] == ["missing_request"]
    assert report.coordinations == 0


def test_a_parameter_no_protocol_allows_opens_nothing() -> None:
    def absurd(log: AuditLog, due: CoordinationOpened) -> CoordinationOpened:
        return msgspec.structs.replace(due, config={**due.config, "threshold_ppm": 1})

    report = audit(reopened(absurd))
    assert report.rejections == {"invalid_config": 1}
    assert report.clean
