"""The life of a coordination: what counts, in which order, and what ends it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from audit_log import AuditLog, decided, deployment, opened, vote

from mabeam.core.coordination import Coordination
from mabeam.core.hashing import ZERO32
from mabeam.core.kernel_events import (
    CancelRequested,
    CoordinationCancelled,
    CoordinationClaimed,
    CoordinationDecided,
    CoordinationFailed,
    CoordinationOpened,
    Cut,
    DeadlinePassed,
    InputRejected,
    Invitee,
)
from mabeam.core.log import Record
from mabeam.core.replay import Replay
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST


def _reason(log: AuditLog, record: Record) -> str:
    verdict = Replay(log.root.public_key, PROTOCOLS).feed(log.records)[record.sequence - 1]
    return verdict.rejection.reason if verdict.rejection else ""


def _cancel(log: AuditLog, author: str = "client", epoch: bytes | None = None) -> Record:
    return log.append(
        author, "coordination.cancel_requested", CancelRequested("why"), "pub", epoch=epoch
    )


def _fail(log: AuditLog, code: str, author: str = "coord-1") -> Record:
    return log.append(author, "coordination.failed", CoordinationFailed(code, "x"))


def _requested() -> AuditLog:
    log = deployment()
    log.request(["a-1", "a-2", "a-3"])
    return log


# Claims and fencing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "previous"), [(2, "zeros"), (1, "claim"), (3, "claim"), (2, "opened"), (1, "zeros")]
)
def test_a_claim_must_supersede_the_one_in_force(term: int, previous: str) -> None:
    log = opened()
    fold = log.fold()
    assert fold.claim is not None
    assert fold.opened is not None
    before = {"zeros": ZERO32, "claim": fold.claim.id, "opened": fold.opened.id}[previous]
    record = log.append("coord-2", "coordination.claimed", CoordinationClaimed(term, before))
    assert _reason(log, record) == "stale_fence"
    assert (fold.coordinator, fold.term) == ("coord-1", 1)


def test_whatever_a_superseded_coordinator_signs_is_void() -> None:
    log = _requested()
    log.claim("coord-1")
    log.claim("coord-2")
    stale = [log.open("coord-1"), _fail(log, "agents_not_found", "coord-1")]
    assert [_reason(log, each) for each in stale] == ["stale_fence"] * 2
    assert _reason(log, log.open("coord-2")) == ""
    stale = [log.advance("coord-1"), _fail(log, "internal_error", "coord-1")]
    assert [_reason(log, each) for each in stale] == ["stale_fence"] * 2
    log.advance("coord-2")
    stale = [
        log.append("coord-1", "deadline.passed", DeadlinePassed("ballot", 1)),
        log.append("coord-1", "coordination.input_rejected", InputRejected(ZERO32, "late")),
    ]
    assert [_reason(log, each) for each in stale] == ["stale_fence"] * 2
    for number in (1, 2, 3):
        log.vote(f"a-{number}")
    assert _reason(log, log.advance("coord-1")) == "stale_fence"
    assert log.fold().terminal is None
    assert _reason(log, log.advance("coord-2")) == ""
    assert log.fold().phase == "decided"


def test_nobody_acts_without_a_claim() -> None:
    log = _requested()
    assert _reason(log, log.open("coord-1")) == "stale_fence"
    assert _reason(log, _fail(log, "agents_not_found")) == "stale_fence"
    assert log.fold().phase == "requested"


# Opening ------------------------------------------------------------------------------------------


def test_second_request_and_second_opening() -> None:
    log = _requested()
    assert _reason(log, log.request(["a-1"])) == "duplicate"
    log.claim()
    body = log.opening()
    log.open()
    epoch = log.fold().epoch
    assert _reason(log, log.open(body=body)) == "duplicate"
    other = msgspec.structs.replace(body, topic="other")
    assert _reason(log, log.open(body=other)) == "duplicate"
    assert log.fold().epoch == epoch
    assert _reason(log, log.request(["a-1"])) == "duplicate"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request_id": bytes(32)}, "digest_mismatch"),
        ({"protocol": "telepathy"}, "unknown_protocol"),
        ({"config": {}}, "invalid_config"),
        ({"config": {"proposal": 1, "rule": "loudest"}}, "invalid_config"),
        ({"config": {"proposal": 1, "threshold_ppm": 1}}, "invalid_config"),
        ({"config": {"proposal": 1, "weight_share_cap_ppm": 1}}, "invalid_config"),
        ({"config": {"proposal": 1, "options": ["a", "a"]}}, "invalid_config"),
        ({"config": {"proposal": 1, "unheard_of": 1}}, "invalid_config"),
    ],
)
def test_an_opening_nobody_could_have_meant(changes: dict[str, Any], reason: str) -> None:
    log = _requested()
    log.claim()
    body = msgspec.structs.replace(log.opening(), **changes)
    assert _reason(log, log.open(body=body)) == reason
    assert log.fold().opened is None
    assert _reason(log, log.open()) == ""


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 1), (2, 1, 0)])
def test_participants_are_sorted_and_distinct(order: tuple[int, ...]) -> None:
    log = _requested()
    log.claim()
    good = log.opening()
    members = tuple(good.participants[at] for at in order)
    body: CoordinationOpened = msgspec.structs.replace(good, participants=members)
    assert _reason(log, log.open(body=body)) == "invalid_config"


# Terminal events ----------------------------------------------------------------------------------


def _decided_body(log: AuditLog) -> CoordinationDecided:
    body = log.next().body
    assert isinstance(body, CoordinationDecided)
    return body


def _voted() -> AuditLog:
    log = opened(threshold_ppm=1_000_000)
    for number in (1, 2, 3):
        log.vote(f"a-{number}")
    return log


@pytest.mark.parametrize("change", ["outcome", "inputs_upto", "cut", "refs"])
def test_another_outcome_than_the_events_give(change: str) -> None:
    log = _voted()
    body, refs = _decided_body(log), log.next().refs
    changed = {
        "outcome": msgspec.structs.replace(body, outcome={**body.outcome, "decision": "disagree"}),
        "inputs_upto": msgspec.structs.replace(body, inputs_upto=body.inputs_upto + 1),
        "cut": msgspec.structs.replace(body, cut=Cut(2, body.cut.root)),
        "refs": body,
    }[change]
    wrong = log.append(
        "coord-1", "coordination.decided", changed, refs=refs[::-1] if change == "refs" else refs
    )
    assert _reason(log, wrong) == "wrong_outcome"
    verdict = Replay(log.root.public_key, PROTOCOLS).feed(log.records)[wrong.sequence - 1]
    assert len(verdict.evidence) == 1
    assert log.fold().terminal is None
    assert _reason(log, log.advance()) == ""


def test_terminal_before_there_is_a_result() -> None:
    reference = _decided_body(_voted())
    log = opened(threshold_ppm=1_000_000)
    for kind, body, reason in [
        ("coordination.decided", reference, "wrong_phase"),
        ("coordination.failed", CoordinationFailed("timeout", "x"), "wrong_phase"),
        ("coordination.cancelled", CoordinationCancelled("x"), "not_authorised"),
    ]:
        assert _reason(log, log.append("coord-1", kind, body)) == reason
    assert log.fold().terminal is None


def test_only_one_terminal_event() -> None:
    log = decided()
    terminal = log.fold().terminal
    assert terminal is not None
    refs = terminal.event.header.refs
    again = [
        log.append("coord-1", "coordination.decided", terminal.content, refs=refs),
        _fail(log, "internal_error"),
        log.append("coord-1", "coordination.cancelled", CoordinationCancelled()),
        log.append("coord-2", "coordination.claimed", CoordinationClaimed(2, log.fold().claim.id)),  # type: ignore[union-attr]
    ]
    assert {_reason(log, each) for each in again} == {"already_decided"}
    assert log.fold().terminal is terminal
    assert tuple(log.fold().intents()) == ()


def test_failure_before_opening_and_internal_error_after_it() -> None:
    log = _requested()
    log.claim()
    assert _reason(log, _fail(log, "agents_not_found")) == ""
    assert log.fold().phase == "failed"
    assert _reason(log, log.open()) == "already_decided"
    log = opened()
    assert _reason(log, _fail(log, "agents_not_found")) == "wrong_phase"
    assert _reason(log, _fail(log, "internal_error")) == ""
    assert _reason(log, log.vote("a-1")) == "late"


# Cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("author", ["a-1", "coord-1", "coord-2"])
def test_a_stranger_cancels_nothing(author: str) -> None:
    log = opened()
    assert _reason(log, _cancel(log, author)) == "not_authorised"
    assert log.fold().cancel is None


@pytest.mark.parametrize("when", ["requested", "claimed", "open"])
def test_cancelled_before_the_decision(when: str) -> None:
    log = _requested()
    if when != "requested":
        log.claim()
    if when == "open":
        log.open()
        log.advance()
    cancel = _cancel(log)
    assert _reason(log, cancel) == ""
    assert _reason(log, _cancel(log)) == ""
    if when == "requested":
        log.claim()
    assert _reason(log, log.advance()) == ""
    terminal = log.fold().terminal
    assert terminal is not None
    assert terminal.content == CoordinationCancelled("why")
    assert log.fold().phase == "cancelled"


def test_cancelling_after_the_result_is_irreversible() -> None:
    log = _voted()
    assert _reason(log, _cancel(log)) == "already_decided"
    assert log.next().type == "coordination.decided"
    log.advance()
    assert _reason(log, _cancel(log)) == "already_decided"


def test_the_result_overtakes_an_accepted_cancel() -> None:
    """Votes ordered before ``coordination.cancelled`` decide; then only the decision is valid."""
    log = opened(threshold_ppm=1_000_000)
    _cancel(log)
    for number in (1, 2, 3):
        log.vote(f"a-{number}")
    late = log.append("coord-1", "coordination.cancelled", CoordinationCancelled("why"))
    assert _reason(log, late) == "already_decided"
    assert _reason(log, log.advance()) == ""
    assert log.fold().phase == "decided"


# Epochs and invitations ---------------------------------------------------------------------------


def test_events_carry_the_epoch_in_force() -> None:
    log = _requested()
    log.claim()
    early = log.append("a-1", VOTE_CAST, vote("agree"), "pub", epoch=b"")
    foreign = log.append("a-2", VOTE_CAST, vote("agree"), "pub", epoch=bytes(31) + b"\1")
    log.open()
    log.advance()
    stale = log.append("a-3", VOTE_CAST, vote("agree"), "pub", epoch=b"")
    crossed = _cancel(log, epoch=b"")  # sent before its author could know of the opening
    cancel = _cancel(log, epoch=bytes(32))
    assert [_reason(log, each) for each in (early, foreign, stale, crossed, cancel)] == [
        "wrong_phase",
        "wrong_epoch",
        "wrong_epoch",
        "",
        "wrong_epoch",
    ]


def test_an_invitation_is_folded_without_request_and_claims() -> None:
    log = opened()
    fold = Coordination(
        "c1",
        PROTOCOLS,
        log.replay.keyring.public_key,
        role="participant",
        author="a-1",
        invited=True,
    )
    for record in log.records:
        event = log.replay.admission.recall(record)
        if event.coordination == "c1" and event.type in (
            "coordination.opened",
            "simple.ballot_opened",
        ):
            fold.apply(event)
    assert [type(intent).__name__ for intent in fold.intents()] == ["Ask"]
    member = fold.participant("a-1")
    assert member is not None
    assert Invitee("a-1").weight == member.weight
    assert fold.participant("a-9") is None


def test_an_observer_has_no_secrets() -> None:
    fold = Coordination("c1", PROTOCOLS, lambda author, key_id: None)
    with pytest.raises(ValueError, match="no secret"):
        fold._secret("x")
