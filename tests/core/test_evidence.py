"""Proofs of misbehaviour: yes for the accused's own contradictions, no for anything else."""

from __future__ import annotations

import msgspec
import pytest
from audit_log import NODE, AuditLog, key_of, opened, vote

from mabeam.core.author import Author
from mabeam.core.envelope import Event, decode_event, sign_event
from mabeam.core.errors import PeerProtocolError
from mabeam.core.evidence import check_evidence, evidence_of
from mabeam.core.hashing import sha256
from mabeam.core.kernel_events import Body, EvidenceSubmitted
from mabeam.core.log import Record
from mabeam.core.replay import Replay
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST

EPOCH = bytes(range(32))


AGREE = vote("agree")


def _sign(
    body: Body | bytes = AGREE,
    *,
    author: str = "a-1",
    coordination: str = "c1",
    epoch: bytes = EPOCH,
    number: int = 0,
    kind: str = VOTE_CAST,
    key: str = "",
    at_ns: int = 5,
) -> Event:
    signer = Author(author, NODE, key_of(key or author), lambda: at_ns)
    signer.resume(coordination, number, bytes(32), 0)
    if isinstance(body, Body):
        return signer.sign(coordination, epoch, kind, body)
    event = signer.sign(coordination, epoch, kind, vote("agree"))
    header = msgspec.structs.replace(event.header, body_sha256=sha256(body))
    return sign_event(header, body, signer.key.secret_key)


def _key(author: str, key_id: bytes) -> bytes | None:
    key = key_of(author)
    return key.public_key if key.key_id == key_id else None


def _check(evidence: EvidenceSubmitted) -> str:
    return check_evidence(evidence, _key, PROTOCOLS)


FIRST = _sign(vote("agree"), number=0)
SECOND = _sign(vote("disagree"), number=1)
FORK = _sign(vote("disagree"), number=0)


def test_two_votes_in_one_ballot_prove_e1() -> None:
    key = _check(evidence_of("E1", "a-1", [FIRST, SECOND]))
    assert key == _check(evidence_of("E1", "a-1", [SECOND, FIRST])) == f"c1:{VOTE_CAST}:1"
    assert evidence_of("E1", "a-1", [FIRST, SECOND]) == evidence_of("E1", "a-1", [SECOND, FIRST])


def test_one_number_twice_proves_e7_even_with_the_same_content() -> None:
    assert _check(evidence_of("E7", "a-1", [FIRST, FORK])) == "c1:0"
    again = _sign(vote("agree"), number=0, at_ns=6)
    assert _check(evidence_of("E7", "a-1", [FIRST, again])) == "c1:0"


def _named(evidence: EvidenceSubmitted, **changes: object) -> EvidenceSubmitted:
    return msgspec.structs.replace(evidence, **changes)


E1 = evidence_of("E1", "a-1", [FIRST, SECOND])
E7 = evidence_of("E7", "a-1", [FIRST, FORK])
FORGED = msgspec.msgpack.encode(
    [FORK.header_bytes, bytes([FORK.signature[0] ^ 1]) + FORK.signature[1:], FORK.body]
)


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(evidence_of("E1", "a-1", [FIRST, FIRST]), id="the same event twice"),
        pytest.param(evidence_of("E7", "a-1", [FIRST, FIRST]), id="the same event twice, fork"),
        pytest.param(evidence_of("E1", "a-1", [FIRST]), id="one event"),
        pytest.param(evidence_of("E7", "a-1", [FIRST, SECOND, FORK]), id="three events"),
        pytest.param(evidence_of("E7", "a-1", [FIRST, SECOND]), id="no fork"),
        pytest.param(
            evidence_of("E1", "a-1", [FIRST, _sign(vote("agree"), number=3)]), id="the same answer"
        ),
        pytest.param(
            evidence_of("E1", "a-1", [FIRST, _sign(vote("disagree", 2), number=1)]),
            id="another ballot",
        ),
        pytest.param(
            evidence_of("E1", "a-1", [FIRST, _sign(vote("disagree"), epoch=bytes(32), number=1)]),
            id="another epoch",
        ),
        pytest.param(
            evidence_of("E1", "a-1", [FIRST, _sign(vote("disagree"), coordination="c2")]),
            id="another coordination",
        ),
        pytest.param(
            evidence_of("E7", "a-1", [FIRST, _sign(vote("disagree"), coordination="c2")]),
            id="another coordination, fork",
        ),
        pytest.param(
            evidence_of("E1", "a-1", [FIRST, _sign(b"\xc0", number=1)]), id="malformed body"
        ),
        pytest.param(
            evidence_of(
                "E1",
                "a-1",
                [_sign(kind="simple.ballot_closed"), _sign(b"\x80", kind="simple.ballot_closed")],
            ),
            id="a type without uniqueness",
        ),
        pytest.param(
            evidence_of("E1", "a-1", [FIRST, _sign(vote("disagree"), author="a-2")]),
            id="by two authors",
        ),
        pytest.param(_named(E1, accused="a-2"), id="accusing another"),
        pytest.param(
            evidence_of("E7", "a-1", [FIRST, _sign(vote("disagree"), key="a-2")]),
            id="signed with a key that is not the accused's",
        ),
        pytest.param(
            _named(E7, proof=(FIRST.wire, FORGED), proof_ids=(FIRST.id, FORK.id)), id="forged"
        ),
        pytest.param(_named(E1, proof_ids=E1.proof_ids[::-1]), id="ids in another order"),
        pytest.param(_named(E1, proof_ids=(E1.proof_ids[0], bytes(32))), id="other ids"),
        pytest.param(_named(E1, proof=(*E1.proof[:1], b"junk")), id="damaged"),
        pytest.param(_named(E1, rule="E7"), id="another rule"),
        pytest.param(_named(E1, rule="E9"), id="a rule that needs the log"),
    ],
)
def test_no_proof(evidence: EvidenceSubmitted) -> None:
    with pytest.raises(PeerProtocolError) as refused:
        _check(evidence)
    assert refused.value.reason == "invalid_proof"


# In a log -----------------------------------------------------------------------------------------


def _submit(log: AuditLog, evidence: EvidenceSubmitted, author: str = "a-3") -> str:
    record: Record = log.append(author, "evidence.submitted", evidence, "pub")
    verdict = Replay(log.root.public_key, PROTOCOLS).feed(log.records)[record.sequence - 1]
    return verdict.rejection.reason if verdict.rejection else ""


def _equivocated() -> tuple[AuditLog, list[Event]]:
    log = opened(4)
    votes = [log.vote("a-1", option) for option in ("agree", "disagree")]
    return log, [decode_event(record.wire) for record in votes]


def test_the_coordinator_submits_what_nobody_submitted_before() -> None:
    log, events = _equivocated()
    assert log.next().type == "evidence.submitted"
    assert log.next().body == evidence_of("E1", "a-1", events)
    assert _submit(log, evidence_of("E1", "a-1", events)) == ""
    with pytest.raises(AssertionError, match="intends nothing"):
        log.next()


def test_an_invalid_proof_has_no_effect_in_a_log() -> None:
    log, events = _equivocated()
    forged = evidence_of("E7", "a-1", [events[0], events[0]])
    other = evidence_of("E1", "a-2", events)
    assert [_submit(log, each) for each in (forged, other)] == ["invalid_proof"] * 2
    assert log.next().type == "evidence.submitted"


def test_evidence_is_taken_after_the_end_and_changes_nothing() -> None:
    log, events = _equivocated()
    for agent in ("a-2", "a-3", "a-4"):
        log.vote(agent)
    assert log.next().type == "evidence.submitted"
    log.advance()
    log.advance()
    terminal = log.fold().terminal
    assert terminal is not None
    assert _submit(log, evidence_of("E1", "a-1", events)) == ""
    assert log.fold().terminal is terminal
