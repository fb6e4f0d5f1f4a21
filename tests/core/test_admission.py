"""Every way in which a record has no effect: its own reason, and no influence on the outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from audit_log import NODE, AuditLog, deployment, key_of, vote

from mabeam.core.author import Author, encode_body
from mabeam.core.envelope import MAX_EVENT_BYTES, Event, decode_event, sign_event
from mabeam.core.hashing import sha256
from mabeam.core.identity import Certificate, KeyPair, issue_certificate
from mabeam.core.kernel_events import (
    AgentAdmitted,
    AgentKeyRotated,
    AgentRevoked,
    Body,
    CoordinationCancelled,
    CoordinationClaimed,
)
from mabeam.core.log import Record
from mabeam.core.names import REGISTRY, EventClass, event_subject
from mabeam.core.replay import Replay
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST, VoteCast

SECOND_NS = 10**9


def _log() -> AuditLog:
    """A ballot of three, one vote in, plus ids in every state of their keys."""
    log = deployment()
    for id in ("gone", "rotated", "expired"):
        log.admit(id, "agent")
    log.revoke("gone")
    _certify(log, "rotated", key_of("rotated-2"), 1000)
    _certify(log, "expired", key_of("expired"), 1001, not_after_ns=log.now_ns)
    log.admit("projector", "projector")
    log.request([f"a-{number}" for number in (1, 2, 3)], threshold_ppm=1_000_000)
    log.claim()
    log.open()
    log.advance()
    log.vote("a-1")
    return log


def _certify(log: AuditLog, id: str, key: KeyPair, serial: int, not_after_ns: int = 2**62) -> None:
    certificate = Certificate(
        id, ("agent",), key.public_key, "", id, "root", 0, not_after_ns, serial
    )
    wire = issue_certificate(certificate, log.root)
    log.append("root", "agent.key_rotated", AgentKeyRotated(wire), coordination=REGISTRY)


def _signed(
    log: AuditLog,
    author: str,
    body: Body | bytes | None = None,
    kind: str = VOTE_CAST,
    *,
    key: KeyPair | None = None,
    **header: Any,
) -> Event:
    """An event of a fresh chain, except for what ``header`` says."""
    content = body if body is not None else vote("disagree")
    signer = Author(author, NODE, key or key_of(author), lambda: log.now_ns)
    epoch = header.pop("epoch", log.fold().epoch)
    event = signer.sign(header.pop("coordination", "c1"), epoch, kind, vote("agree"))
    encoded = content if isinstance(content, bytes) else encode_body(content)
    changed = msgspec.structs.replace(event.header, body_sha256=sha256(encoded), **header)
    return sign_event(changed, encoded, signer.key.secret_key)


def _put(log: AuditLog, event: Event, event_class: EventClass = "pub") -> Record:
    return log.put(event, event_class)


def _subject(log: AuditLog, **tokens: str) -> Record:
    """A valid vote of a-2, stored somewhere else."""
    header = _signed(log, "a-2").header
    parts = {
        "coordination": "c1",
        "event_class": "pub",
        "type_name": header.type,
        "node": NODE,
        "author": "a-2",
        **tokens,
    }
    return log.store(_signed(log, "a-2").wire, event_subject(**parts))  # type: ignore[arg-type]


def _flip(log: AuditLog, offset: int) -> Record:
    event = _signed(log, "a-2")
    wire = bytearray(event.wire)
    at = wire.index(event.signature) + offset
    wire[at] ^= 1
    return log.store(bytes(wire), event_subject("c1", "pub", VOTE_CAST, NODE, "a-2"))


def _raw(log: AuditLog, wire: bytes) -> Record:
    return log.store(wire, event_subject("c1", "pub", VOTE_CAST, NODE, "a-2"))


def _fork(log: AuditLog) -> Record:
    return log.fork("a-1", VOTE_CAST, vote("disagree"))


def _replayed(log: AuditLog) -> Record:
    """A vote of another coordination under this one's subject."""
    event = _signed(log, "a-2", coordination="c2", epoch=b"")
    return log.store(event.wire, event_subject("c1", "pub", VOTE_CAST, NODE, "a-2"))


def _unknown_field() -> bytes:
    return msgspec.msgpack.encode(
        {**msgspec.to_builtins(vote("agree"), builtin_types=(bytes,)), "extra": 1}
    )


def _with(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(
        {**msgspec.to_builtins(vote("agree"), builtin_types=(bytes,)), **fields}
    )


def _stolen_cert(log: AuditLog) -> AgentAdmitted:
    certificate = Certificate(
        "a-1", ("agent",), key_of("thief").public_key, "", "x", "root", 0, 2**62, 2000
    )
    return AgentAdmitted(issue_certificate(certificate, key_of("thief")))


Attack = Callable[[AuditLog], Record]

ATTACKS: dict[str, tuple[str, Attack]] = {
    "forged signature": ("bad_signature", lambda log: _flip(log, 5)),
    "signature of another key": (
        "bad_signature",
        lambda log: _put(log, _signed(log, "a-2", key=key_of("a-3"), key_id=key_of("a-2").key_id)),
    ),
    "wrong key": ("unknown_key", lambda log: _put(log, _signed(log, "a-2", key=key_of("a-3")))),
    "never admitted": ("unknown_author", lambda log: _put(log, _signed(log, "nobody"))),
    "revoked key": ("revoked_key", lambda log: _put(log, _signed(log, "gone"))),
    "rotated key": ("rotated_key", lambda log: _put(log, _signed(log, "rotated"))),
    "expired": ("expired_key", lambda log: _put(log, _signed(log, "expired"))),
    "replay from another coordination": ("wrong_coordination", _replayed),
    "stored under another coordination": (
        "wrong_coordination",
        lambda log: _subject(log, coordination="c2"),
    ),
    "another class": ("subject_mismatch", lambda log: _subject(log, event_class="ctl")),
    "class unknown": ("subject_mismatch", lambda log: _subject(log, event_class="x")),
    "another type": ("subject_mismatch", lambda log: _subject(log, type_name="deadline.passed")),
    "another author": ("subject_mismatch", lambda log: _subject(log, author="a-3")),
    "node of two tokens": ("subject_mismatch", lambda log: _subject(log, node="n1.n2")),
    "non-participant": (
        "not_participant",
        lambda log: _put(log, _signed(log, "rotated", key=key_of("rotated-2"))),
    ),
    "stale epoch": ("wrong_epoch", lambda log: _put(log, _signed(log, "a-2", epoch=bytes(32)))),
    "no epoch": ("wrong_epoch", lambda log: _put(log, _signed(log, "a-2", epoch=b""))),
    "skewed clock": (
        "clock_skew",
        lambda log: _put(log, _signed(log, "a-2", at_ns=log.now_ns + 11 * SECOND_NS)),
    ),
    "clock running backwards": (
        "clock_skew",
        lambda log: _put(
            log,
            _signed(log, "a-1", at_ns=1, author_seq=1, prev=decode_event(log.records[-1].wire).id),
        ),
    ),
    "oversized": ("over_limit", lambda log: _raw(log, bytes(MAX_EVENT_BYTES + 1))),
    "truncated": ("malformed", lambda log: _raw(log, _signed(log, "a-2").wire[:-1])),
    "random bytes": ("malformed", lambda log: _raw(log, bytes(range(256)))),
    "unsupported version": (
        "unsupported_version",
        lambda log: _put(log, _signed(log, "a-2", version=2)),
    ),
    "body of another event": (
        "body_mismatch",
        lambda log: _raw(log, _signed(log, "a-2").wire.replace(b"disagree", b"agree___")),
    ),
    "unknown type": (
        "unknown_type",
        lambda log: _put(log, _signed(log, "a-2", kind="simple.vote_bought")),
    ),
    "unknown field": (
        "malformed_body",
        lambda log: _put(log, _signed(log, "a-2", _unknown_field())),
    ),
    "wrong type": (
        "malformed_body",
        lambda log: _put(log, _signed(log, "a-2", _with(ballot="1"))),
    ),
    "not a number": (
        "malformed_body",
        lambda log: _put(log, _signed(log, "a-2", _with(confidence_ppm=float("nan")))),
    ),
    "number out of bounds": (
        "malformed_body",
        lambda log: _put(log, _signed(log, "a-2", _with(confidence_ppm=1_000_001))),
    ),
    "body is no map": ("malformed_body", lambda log: _put(log, _signed(log, "a-2", b"\xc0"))),
    "body is not utf-8": (
        "malformed_body",
        lambda log: _put(
            log,
            _signed(log, "a-2", encode_body(vote("agree")).replace(b"agree", b"agre\xff")),
        ),
    ),
    "body nested too deep": (
        "malformed_body",
        lambda log: _put(
            log,
            _signed(log, "client", b"\x81\xa5value" + b"\x91" * 50_000, kind="outcome.reported"),
        ),
    ),
    "agent signs ctl": (
        "not_authorised",
        lambda log: _put(
            log,
            _signed(log, "a-2", CoordinationClaimed(2, bytes(32)), "coordination.claimed"),
            "ctl",
        ),
    ),
    "agent cancels": (
        "not_authorised",
        lambda log: _put(
            log, _signed(log, "a-2", CoordinationCancelled(), "coordination.cancelled"), "ctl"
        ),
    ),
    "projector speaks": ("not_authorised", lambda log: _put(log, _signed(log, "projector"))),
    "non-operator admits": (
        "not_authorised",
        lambda log: log.append(
            "coord-1", "agent.admitted", _stolen_cert(log), coordination=REGISTRY
        ),
    ),
    "non-operator revokes": (
        "not_authorised",
        lambda log: log.append(
            "coord-1", "agent.revoked", AgentRevoked("a-2"), coordination=REGISTRY
        ),
    ),
    "chain fork": ("equivocation", _fork),
    "another predecessor": (
        "chain_mismatch",
        lambda log: _put(log, _signed(log, "a-1", author_seq=1, prev=bytes(32))),
    ),
    "stored twice": (
        "duplicate",
        lambda log: log.store(log.records[-1].wire, log.records[-1].subject),
    ),
    "registry event elsewhere": (
        "wrong_phase",
        lambda log: log.append("root", "agent.revoked", AgentRevoked("a-2")),
    ),
    "vote in the registry": (
        "wrong_phase",
        lambda log: log.append(
            "a-2", VOTE_CAST, vote("agree"), "pub", coordination=REGISTRY, epoch=b""
        ),
    ),
    "digest of another proposal": (
        "digest_mismatch",
        lambda log: _put(log, _signed(log, "a-2", VoteCast(1, bytes(32), "agree"))),
    ),
}


def _finish(log: AuditLog) -> Record:
    """The honest rest: a-2 and a-3 vote, the coordinator decides."""
    log.pass_time(1)
    for agent in ("a-2", "a-3"):
        fold = log.fold()
        log.author(agent).resume("c1", *fold.chains.head(agent))
        log.vote(agent)
    coordinator = log.fold().chains.head("coord-1")
    log.author("coord-1").resume("c1", *coordinator)
    return log.advance()


def _outcome(log: AuditLog) -> bytes:
    terminal = log.fold().terminal
    assert terminal is not None
    return msgspec.msgpack.encode(terminal.content.outcome)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_rejected_and_changes_nothing(name: str) -> None:
    reason, attack = ATTACKS[name]
    log, quiet = _log(), _log()
    record = attack(log)
    _finish(log)
    _finish(quiet)
    found = Replay(log.root.public_key, PROTOCOLS).feed(log.records)
    rejection = found[record.sequence - 1].rejection
    assert rejection is not None
    assert rejection.reason == reason, rejection.message
    assert [each for each in found if each.rejection] == [found[record.sequence - 1]]
    assert _outcome(log) == _outcome(quiet)


def test_every_reason_of_admission_is_covered() -> None:
    assert {reason for reason, _ in ATTACKS.values()} >= {
        *("over_limit", "malformed", "unsupported_version", "body_mismatch", "unknown_type"),
        *("wrong_coordination", "subject_mismatch", "unknown_author", "unknown_key"),
        *("revoked_key", "rotated_key", "expired_key", "bad_signature", "not_authorised"),
        *("clock_skew", "malformed_body", "wrong_epoch", "not_participant", "equivocation"),
        *("chain_mismatch", "duplicate", "wrong_phase", "digest_mismatch"),
    }


def test_the_node_token_is_not_signed_and_decides_nothing() -> None:
    """The header has no node; the subject's is a matter of permissions only."""
    log, quiet = _log(), _log()
    record = _subject(log, node="n9")
    assert Replay(log.root.public_key, PROTOCOLS).feed(log.records)[record.sequence - 1].event
    _put(quiet, _signed(quiet, "a-2"))
    assert _fold_votes(log) == _fold_votes(quiet)


def _fold_votes(log: AuditLog) -> list[tuple[str, ...]]:
    machine = log.fold().machine
    assert machine is not None
    return [machine.waiting_for()]


def test_only_a_good_signature_makes_an_author_accountable() -> None:
    log = _log()
    forged, malformed = _flip(log, 5), _put(log, _signed(log, "a-2", b"\xc0"))
    found = Replay(log.root.public_key, PROTOCOLS).feed(log.records)
    verdicts = [found[each.sequence - 1].rejection for each in (forged, malformed)]
    assert [each is not None and each.proven for each in verdicts] == [False, True]


@pytest.mark.parametrize("subject", ["", ".", "a.b", "mabeam.v1.evt.c1.pub", "x" * 999, "." * 7])
def test_strange_subjects_are_rejected_not_crashed_on(subject: str) -> None:
    log = _log()
    admission = log.replay.admission
    for wire in (b"", _signed(log, "a-2").wire):
        rejection = admission.admit(Record(10**6, log.now_ns, subject, wire))
        assert getattr(rejection, "reason", None) in {
            "malformed",
            "subject_mismatch",
            "wrong_coordination",
        }
