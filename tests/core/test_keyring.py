"""The keyring: which key counts at which point of the log."""

from __future__ import annotations

import msgspec
import pytest
from audit_log import START_NS, TICK_NS, AuditLog, key_of, vote

from mabeam.core.author import Author
from mabeam.core.identity import Certificate, KeyPair, Role, issue_certificate
from mabeam.core.kernel_events import (
    AgentAdmitted,
    AgentKeyRotated,
    AgentRegistered,
    AgentRevoked,
    Body,
    HealthChanged,
)
from mabeam.core.log import Record
from mabeam.core.names import REGISTRY
from mabeam.core.replay import Replay
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST


class _Log(AuditLog):
    """An audit log that also hands out certificates of every kind."""

    def certificate(
        self,
        id: str,
        key: KeyPair,
        serial: int,
        *,
        roles: tuple[Role, ...] = ("agent",),
        not_before_ns: int = 0,
        not_after_ns: int = 2**62,
        root: KeyPair | None = None,
    ) -> bytes:
        certificate = Certificate(
            id, roles, key.public_key, "", "ops", "root", not_before_ns, not_after_ns, serial
        )
        return issue_certificate(certificate, root or self.root)

    def operate(self, kind: str, body: Body, author: str = "root") -> Record:
        return self.append(author, kind, body, coordination=REGISTRY)

    def admit_with(self, id: str, wire: bytes, key: KeyPair) -> Record:
        self._authors.setdefault(id, Author(id, "n1", key, lambda: self.now_ns))
        return self.operate("agent.admitted", AgentAdmitted(wire))

    def speak(self, id: str, key: KeyPair) -> Record:
        """Something signed with a key, in a coordination of its own."""
        name = f"talk-{len(self.records)}"
        event = Author(id, "n1", key, lambda: self.now_ns).sign(name, b"", VOTE_CAST, vote("agree"))
        return self.put(event)

    def reason(self, record: Record) -> str:
        """Why the record is rejected at admission or by the registry, or empty."""
        verdicts = Replay(self.root.public_key, PROTOCOLS).feed(self.records)
        verdict = verdicts[record.sequence - 1]
        if verdict.rejection is None or verdict.rejection.reason == "wrong_phase":
            return ""
        return verdict.rejection.reason


OLD, NEW = key_of("old key"), key_of("new key")


def _admitted() -> _Log:
    log = _Log()
    log.admit_with("a-1", log.certificate("a-1", OLD, 1), OLD)
    return log


def test_admitted_key_counts_from_the_admission_on() -> None:
    log = _Log()
    log._authors["a-1"] = Author("a-1", "n1", OLD, lambda: log.now_ns)
    before = log.speak("a-1", OLD)
    log.admit_with("a-1", log.certificate("a-1", OLD, 1), OLD)
    after = log.speak("a-1", OLD)
    assert (log.reason(before), log.reason(after)) == ("unknown_author", "")
    assert log.reason(log.speak("a-1", NEW)) == "unknown_key"


def test_rotation_voids_the_old_key_from_there_on() -> None:
    log = _admitted()
    before = log.speak("a-1", OLD)
    log.operate("agent.key_rotated", AgentKeyRotated(log.certificate("a-1", NEW, 2)))
    old, new = log.speak("a-1", OLD), log.speak("a-1", NEW)
    assert [log.reason(each) for each in (before, old, new)] == ["", "rotated_key", ""]
    assert log.replay.keyring.public_key("a-1", OLD.key_id) == OLD.public_key
    current = log.replay.keyring.current("a-1")
    assert current is not None
    assert current.certificate.event_key == NEW.public_key
    assert [entry.end_reason for entry in log.replay.keyring.history("a-1")] == ["rotated_key", ""]


def test_revocation_voids_all_keys_and_a_new_certificate_readmits() -> None:
    log = _admitted()
    log.operate("agent.revoked", AgentRevoked("a-1"))
    revoked = log.speak("a-1", OLD)
    assert log.replay.keyring.current("a-1") is None
    log.admit_with("a-1", log.certificate("a-1", NEW, 2), NEW)
    assert log.reason(revoked) == "revoked_key"
    assert log.reason(log.speak("a-1", OLD)) == "revoked_key"
    assert log.reason(log.speak("a-1", NEW)) == ""


def test_a_renewed_certificate_of_one_key_leaves_no_hole() -> None:
    """What was signed before the renewal still verifies for a reader that knows both already."""
    log = _admitted()
    before = log.speak("a-1", OLD)
    log.operate("agent.key_rotated", AgentKeyRotated(log.certificate("a-1", OLD, 2)))
    after = log.speak("a-1", OLD)
    for record in (before, after):
        admitted = log.replay.admission.admit(record)
        assert getattr(admitted, "reason", "") == ""


def test_readmission_of_a_revoked_key_does_not_bring_back_the_time_between() -> None:
    log = _admitted()
    log.operate("agent.revoked", AgentRevoked("a-1"))
    between = log.speak("a-1", OLD)
    log.admit_with("a-1", log.certificate("a-1", OLD, 2), OLD)
    assert getattr(log.replay.admission.admit(between), "reason", "") == "revoked_key"
    assert log.reason(log.speak("a-1", OLD)) == ""


@pytest.mark.parametrize(
    ("offset_ns", "expected"), [(-1, "expired_key"), (0, ""), (TICK_NS - 1, "")]
)
def test_certificate_counts_from_not_before(offset_ns: int, expected: str) -> None:
    log = _Log()
    start = START_NS + 100 * TICK_NS
    log.admit_with("a-1", log.certificate("a-1", OLD, 1, not_before_ns=start), OLD)
    log.now_ns = start + offset_ns - TICK_NS
    assert log.reason(log.speak("a-1", OLD)) == expected


@pytest.mark.parametrize(("offset_ns", "expected"), [(-1, ""), (0, "expired_key")])
def test_certificate_counts_until_not_after(offset_ns: int, expected: str) -> None:
    log = _Log()
    end = START_NS + 100 * TICK_NS
    log.admit_with("a-1", log.certificate("a-1", OLD, 1, not_after_ns=end), OLD)
    log.now_ns = end + offset_ns - TICK_NS
    assert log.reason(log.speak("a-1", OLD)) == expected


@pytest.mark.parametrize("serial", [0, 1])
def test_serials_only_grow(serial: int) -> None:
    log = _admitted()
    rotation = AgentKeyRotated(log.certificate("a-1", NEW, serial))
    assert log.reason(log.operate("agent.key_rotated", rotation)) == "stale_serial"
    assert log.reason(log.speak("a-1", OLD)) == ""
    assert log.reason(log.speak("a-1", NEW)) == "unknown_key"


def test_certificates_of_another_root_or_none() -> None:
    log = _Log()
    foreign = log.certificate("a-1", OLD, 1, root=key_of("another root"))
    assert log.reason(log.admit_with("a-1", foreign, OLD)) == "invalid_certificate"
    assert log.reason(log.admit_with("a-1", b"junk", OLD)) == "invalid_certificate"
    assert log.replay.keyring.ids() == []


@pytest.mark.parametrize("role", ["agent", "coordinator", "client", "projector"])
def test_only_operators_change_the_registry(role: Role) -> None:
    log = _Log()
    log.admit_with("x", log.certificate("x", OLD, 1, roles=(role,)), OLD)
    wire = log.certificate("y", NEW, 1)
    for kind, body in [
        ("agent.admitted", AgentAdmitted(wire)),
        ("agent.key_rotated", AgentKeyRotated(wire)),
        ("agent.revoked", AgentRevoked("x")),
    ]:
        assert log.reason(log.operate(kind, body, "x")) == "not_authorised"
    assert log.replay.keyring.ids() == ["x"]
    assert log.replay.keyring.current("x") is not None


def test_operator_role_may_admit_but_only_what_root_signed() -> None:
    log = _Log()
    log.admit_with("op", log.certificate("op", OLD, 1, roles=("operator",)), OLD)
    wire = log.certificate("y", NEW, 1)
    assert log.reason(log.operate("agent.admitted", AgentAdmitted(wire), "op")) == ""
    own = log.certificate("z", NEW, 1, root=OLD)
    assert log.reason(log.operate("agent.admitted", AgentAdmitted(own), "op")) == (
        "invalid_certificate"
    )


def test_forged_root_is_an_unknown_key() -> None:
    log = _Log()
    event = Author("root", "n1", OLD, lambda: log.now_ns).sign(
        REGISTRY, b"", "agent.admitted", AgentAdmitted(log.certificate("a-1", OLD, 1))
    )
    assert log.reason(log.put(event, "ctl")) == "unknown_key"


def test_registration_and_health() -> None:
    log = _admitted()
    log.admit_with("c", log.certificate("c", NEW, 1, roles=("coordinator",)), NEW)
    log.append("a-1", "agent.registered", AgentRegistered("n7"), "pub", coordination=REGISTRY)
    log.operate("agent.health_changed", HealthChanged("a-1", "overloaded"), "c")
    unknown = log.operate("agent.health_changed", HealthChanged("ghost", "healthy"), "c")
    agent = log.replay.keyring.agent("a-1")
    assert agent.registered is not None
    assert (agent.registered.node, agent.health) == ("n7", "overloaded")
    assert log.reason(unknown) == "unknown_author"
    assert (
        log.reason(
            log.append(
                "a-1",
                "agent.health_changed",
                HealthChanged("a-1", "healthy"),
                "ctl",
                coordination=REGISTRY,
            )
        )
        == "not_authorised"
    )


def test_digest_covers_what_was_folded_and_only_that() -> None:
    log = _admitted()
    digest, sequence = log.replay.keyring.digest, log.replay.keyring.sequence
    log.operate("agent.revoked", AgentRevoked("ghost"))
    assert (log.replay.keyring.digest, log.replay.keyring.sequence) == (digest, sequence)
    twin = log.replay.keyring.copy()
    log.operate("agent.revoked", AgentRevoked("a-1"))
    assert log.replay.keyring.digest != digest
    assert twin.digest == digest
    assert twin.current("a-1") is not None
    assert msgspec.msgpack.encode(twin.history("a-1")) != msgspec.msgpack.encode(
        log.replay.keyring.history("a-1")
    )
