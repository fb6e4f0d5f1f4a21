"""Every rule in a signed log: the coordinator submits it, the kernel takes it, it stands alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from replica_log import KNOWN, ReplicaLog

from mabeam.core.audit.verify import audit_records
from mabeam.core.envelope import Event, decode_event, sign_event
from mabeam.core.errors import PeerProtocolError
from mabeam.core.evidence import check_evidence, evidence_in_order, evidence_of, fits, proof_bytes
from mabeam.core.hashing import sha256
from mabeam.core.kernel_events import DeadlinePassed, EvidenceSubmitted
from mabeam.core.standalone import check_alone, read_opening
from mabeam.protocols.byzantine import Proof, submission
from mabeam.protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CheckpointTaken,
    CommitSent,
    PreparedEntry,
    PrepareSent,
    RequestSubmitted,
    SlotProposal,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.forensics import proofs_in
from tests.protocols.byzantine.signed import key_of

replace = msgspec.structs.replace
LIE = sha256(b"lie")


def two_commits() -> ReplicaLog:
    log = ReplicaLog()
    log.act()
    log.append("r2", COMMIT, CommitSent(0, 1, LIE), "pub")
    log.append("r2", PREPARE, PrepareSent(0, 1, LIE), "pub")
    return log


def amnesia() -> ReplicaLog:
    log = ReplicaLog()
    log.act()
    log.append("r2", VIEW_CHANGE, ViewChangeSent(1, 0, (), ()), "pub")
    return log


def wrong_new_view() -> ReplicaLog:
    log = ReplicaLog()
    log.time_out("r1", "r2", "r3")
    (true,) = [each for each in log.intended("r1") if each.type == NEW_VIEW]
    lie = replace(true.body, slots=(SlotProposal(1, LIE),))
    log.say("r1", replace(true, body=lie))
    return log


def two_view_changes() -> ReplicaLog:
    log = ReplicaLog()
    log.time_out("r2")
    entry = PreparedEntry(1, 0, LIE, LIE, (LIE,))
    log.append("r2", VIEW_CHANGE, ViewChangeSent(1, 0, (), (entry,)), "pub")
    return log


def stray_vote() -> ReplicaLog:
    log = ReplicaLog()
    for name in ("r0", "r1", "r2"):
        log.act([name])
    log.time_out("r1", "r2", "r3")
    log.act(["r1"])
    new_view = next(event for event in log.events() if event.type == NEW_VIEW)
    assert new_view.content.slots
    log.append("r3", PREPARE, PrepareSent(1, 1, LIE), "pub", refs=(new_view.id,))
    return log


def wrong_checkpoint() -> ReplicaLog:
    log = ReplicaLog(
        proposal=None, mode="service", checkpoint_interval=1, window=4, batch_delay_ms=0
    )
    log.append("r1", REQUEST, RequestSubmitted(1, "x"), "pub")
    log.act(without=["r2"])
    true = next(event for event in log.events() if event.type == CHECKPOINT)
    log.append("r2", CHECKPOINT, CheckpointTaken(1, LIE), "pub", refs=true.event.header.refs)
    return log


def vote_after_deadline() -> ReplicaLog:
    log = ReplicaLog()
    log.append("r2", DEADLINE_PASSED, DeadlinePassed(OVERALL), "pub")
    log.append("r2", PREPARE, PrepareSent(0, 1, LIE), "pub")
    return log


CASES: dict[str, tuple[Callable[[], ReplicaLog], str]] = {
    "E1": (two_commits, "r2"),
    "E2": (amnesia, "r2"),
    "E3": (wrong_new_view, "r1"),
    "E4": (two_view_changes, "r2"),
    "E5": (stray_vote, "r3"),
    "E6": (wrong_checkpoint, "r2"),
    "E8": (vote_after_deadline, "r2"),
}


def opening_of(log: ReplicaLog) -> bytes:
    opened = log.fold().opened
    assert opened is not None
    return opened.event.wire


def taken(log: ReplicaLog) -> list[EvidenceSubmitted]:
    """Evidence in force."""
    return [
        verdict.event.content
        for verdict in log.verdicts
        if verdict.event and verdict.event.type == "evidence.submitted" and not verdict.rejection
    ]


@pytest.mark.parametrize("rule", CASES)
def test_the_coordinator_submits_what_can_be_proven_once_and_it_stands_alone(rule: str) -> None:
    play, accused = CASES[rule]
    log = play()
    log.conclude()
    (evidence,) = taken(log)
    assert (evidence.rule, evidence.accused) == (rule, accused)
    offence = check_alone(evidence, opening_of(log), log.root.public_key, KNOWN)
    assert offence.startswith("c1:")
    assert proof_bytes(evidence) < 64 * 1024
    found = {(proof.rule, proof.accused) for proof in proofs_in(log.events(), log.machine.group)}
    assert found == {(rule, accused)}


@pytest.mark.parametrize("rule", CASES)
def test_the_audit_names_the_accused_and_finds_nothing_else_wrong(rule: str) -> None:
    play, accused = CASES[rule]
    log = play()
    log.conclude()
    report = audit_records(log.records, log.root.public_key, KNOWN, head=len(log.records))
    assert report.clean, report.first_divergence
    convicted = {(each.rule, each.culprit) for each in report.findings if each.rule}
    assert convicted == {(rule, accused)}


@pytest.mark.parametrize("rule", CASES)
def test_what_a_participant_has_proven_the_coordinator_does_not_repeat(rule: str) -> None:
    log = CASES[rule][0]()
    proof = next(proofs_in(log.events(), log.machine.group))
    log.append("r3", "evidence.submitted", submission(proof), "pub")
    log.conclude()
    assert len(taken(log)) == 1


def test_replicas_that_order_another_protocol_answer_for_it_too() -> None:
    log = ReplicaLog(protocol="simple_consensus")
    log.append("r2", COMMIT, CommitSent(0, 1, LIE), "pub")
    log.append("r2", VIEW_CHANGE, ViewChangeSent(1, 0, (), ()), "pub")
    log.conclude()
    (evidence,) = taken(log)
    assert (evidence.rule, evidence.accused) == ("E2", "r2")
    assert check_alone(evidence, opening_of(log), log.root.public_key, KNOWN)
    report = audit_records(log.records, log.root.public_key, KNOWN, head=len(log.records))
    assert report.clean, report.first_divergence


def test_evidence_about_another_coordination_silences_nobody() -> None:
    log = two_commits()
    signer = log.author("r2")
    elsewhere = [
        signer.sign("c2", b"\1" * 32, COMMIT, CommitSent(0, 1, digest))
        for digest in (LIE, b"x" * 32)
    ]
    log.append("r2", "evidence.submitted", evidence_of("E1", "r2", elsewhere), "pub")
    log.conclude()
    assert [decode_event(each.proof[0]).header.coordination for each in taken(log)] == ["c2", "c1"]


def test_an_offence_has_one_key_whatever_proves_it() -> None:
    log = amnesia()
    log.append("r2", COMMIT, CommitSent(0, 2, LIE), "pub")
    proofs = [p for p in proofs_in(log.events(), log.machine.group) if p.rule == "E2"]
    assert len(proofs) == 2
    keys = {check_alone(submission(p), opening_of(log), log.root.public_key, KNOWN) for p in proofs}
    assert keys == {f"c1:{VIEW_CHANGE}:1"}


# What is no proof --------------------------------------------------------------------------------


def _stray() -> tuple[ReplicaLog, EvidenceSubmitted]:
    log = stray_vote()
    proof = next(proofs_in(log.events(), log.machine.group))
    return log, submission(proof)


def _events(evidence: EvidenceSubmitted) -> list[Event]:
    return [decode_event(wire) for wire in evidence.proof]


def _resigned(event: Event, log: ReplicaLog, **changes: object) -> Event:
    header = replace(event.header, **changes)
    return sign_event(header, event.body, log.author(event.header.author).key.secret_key)


def _forged(event: Event) -> Event:
    return sign_event(event.header, event.body, key_of("somebody else").secret_key)


CHANGES: dict[str, Callable[[list[Event], ReplicaLog], list[Event]]] = {
    "another epoch": lambda events, log: [_resigned(events[0], log, epoch=LIE), *events[1:]],
    "another coordination": lambda e, log: [_resigned(e[0], log, coordination="c2"), *e[1:]],
    "not by the accused first": lambda events, log: [*events[1:], events[0]],
    "an event twice": lambda events, log: [*events, events[-1]],
    "without what it rests on": lambda events, log: events[:-1],
    "nothing but the vote": lambda events, log: events[:1],
    "an event of the others forged": lambda events, log: [*events[:-1], _forged(events[-1])],
    "another type": lambda e, log: [_resigned(e[0], log, type="simple.vote_cast"), *e[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_proof(change: str) -> None:
    log, evidence = _stray()
    events = CHANGES[change](_events(evidence), log)
    changed = evidence_in_order(evidence.rule, evidence.accused, events)
    keys, root, opening = log.replay.keyring.public_key, log.root.public_key, opening_of(log)
    assert check_alone(evidence, opening, root, KNOWN)
    assert check_evidence(evidence, keys, KNOWN, log.fold().context)
    assert refusal(lambda: check_alone(changed, opening, root, KNOWN)) == "invalid_proof"
    assert (
        refusal(lambda: check_evidence(changed, keys, KNOWN, log.fold().context)) == "invalid_proof"
    )


def refusal(check: Callable[[], str]) -> str:
    """Why a proof is refused."""
    with pytest.raises(PeerProtocolError) as refused:
        check()
    return refused.value.reason


def test_a_rule_of_a_protocol_needs_its_configuration() -> None:
    log, evidence = _stray()
    keys, context = log.replay.keyring.public_key, log.fold().context
    assert context is not None
    for given, frozen in (
        (evidence, None),
        (evidence, replace(context, epoch=LIE)),
        (replace(evidence, rule="E9"), context),
        (replace(evidence, accused="r0"), context),
    ):
        assert refusal(partial(check_evidence, given, keys, KNOWN, frozen)) == "invalid_proof"


def test_two_view_changes_are_e4_and_not_e1() -> None:
    log = two_view_changes()
    pair = [event.event for event in log.events() if event.type == VIEW_CHANGE]
    keys = log.replay.keyring.public_key
    assert check_evidence(evidence_of("E4", "r2", pair), keys, KNOWN) == f"c1:{VIEW_CHANGE}:1"
    with pytest.raises(PeerProtocolError, match="E4, not E1"):
        check_evidence(evidence_of("E1", "r2", pair), keys, KNOWN)


def test_a_large_proof_is_refused_before_a_signature_is_checked() -> None:
    log, evidence = _stray()
    large = replace(
        evidence, proof=(*evidence.proof, bytes(250_000)), proof_ids=(*evidence.proof_ids, LIE)
    )
    assert not fits(large)

    def no_key(author: str, key_id: bytes) -> bytes | None:
        raise AssertionError("a signature is checked")

    with pytest.raises(PeerProtocolError, match="too large"):
        check_evidence(large, no_key, KNOWN, log.fold().context)


def test_an_opening_is_only_believed_with_the_roots_signatures() -> None:
    log = two_commits()
    opening = decode_event(opening_of(log))
    other = key_of("another root").public_key
    for wire, root in (
        (opening.wire, other),
        (_forged(opening).wire, log.root.public_key),
        (log.events()[0].event.wire, log.root.public_key),
        (_resigned(opening, log, author="r2", key_id=log.author("r2").key.key_id).wire, None),
    ):
        with pytest.raises(PeerProtocolError):
            read_opening(wire, root or log.root.public_key, KNOWN)


# E6 in detail ------------------------------------------------------------------------------------


def test_e6_rests_on_what_the_checkpoint_itself_cites() -> None:
    log = wrong_checkpoint()
    (proof,) = proofs_in(log.events(), log.machine.group)
    kinds = [event.type for event in proof.events]
    assert kinds[0] == CHECKPOINT
    assert {COMMIT, REQUEST} <= set(kinds)
    for left_out in range(1, len(proof.events)):
        fewer = Proof("E6", "r2", proof.events[:left_out] + proof.events[left_out + 1 :])
        evidence = submission(fewer)
        with pytest.raises(PeerProtocolError):
            check_alone(evidence, opening_of(log), log.root.public_key, KNOWN)


def test_a_checkpoint_that_cites_nothing_is_wrong_by_itself() -> None:
    log = wrong_checkpoint()
    log.append("r3", CHECKPOINT, CheckpointTaken(5, LIE), "pub")
    proofs = {p.accused: p for p in proofs_in(log.events(), log.machine.group)}
    assert len(proofs["r3"].events) == 1


def test_a_later_checkpoint_is_judged_with_the_earlier_ones_of_its_author() -> None:
    log = ReplicaLog(
        proposal=None, mode="service", checkpoint_interval=1, window=4, batch_delay_ms=0
    )
    log.append("r1", REQUEST, RequestSubmitted(1, "x"), "pub")
    log.act()
    log.append("r1", REQUEST, RequestSubmitted(2, "y"), "pub")
    log.act(without=["r2"])
    true = next(e for e in log.events() if e.type == CHECKPOINT and e.content.sequence == 2)
    log.append("r2", CHECKPOINT, CheckpointTaken(2, LIE), "pub", refs=true.event.header.refs)
    log.conclude()
    (evidence,) = taken(log)
    assert (evidence.rule, evidence.accused) == ("E6", "r2")
    assert check_alone(evidence, opening_of(log), log.root.public_key, KNOWN) == (
        f"c1:{CHECKPOINT}:2"
    )
    kinds = [decode_event(wire).header.type for wire in evidence.proof]
    assert kinds.count(CHECKPOINT) == 2
