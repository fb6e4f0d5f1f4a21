"""Under another deployment's root key nothing verifies, and everybody says so."""

from __future__ import annotations

import pytest
from audit_log import AuditLog, decided

from mabeam.core.audit.auditor import Auditor
from mabeam.core.audit.bundle import encode_bundle
from mabeam.core.audit.bundle_audit import verify_bundle
from mabeam.core.audit.replay import steps
from mabeam.core.audit.roots import check_root
from mabeam.core.errors import VerificationError
from mabeam.core.identity import KeyPair
from mabeam.core.log import Record
from mabeam.infra.evidence_report import report_on
from mabeam.protocols import PROTOCOLS

LOG = decided()
ROOT = LOG.root.public_key
PLAIN = encode_bundle("c1", LOG.records, ROOT)
OTHER = KeyPair(b"\1" * 32).public_key


def test_a_log_of_another_root_is_not_clean() -> None:
    auditor = Auditor(OTHER, PROTOCOLS)
    auditor.feed(LOG.records)
    report = auditor.finish()
    assert not report.ok
    assert report.first_divergence is not None
    assert report.first_divergence.code == "wrong_root"


def test_a_bundle_of_another_root_has_one_finding() -> None:
    report = verify_bundle(PLAIN, OTHER, PROTOCOLS)
    assert [finding.code for finding in report.findings] == ["wrong_root"]
    assert OTHER.hex() in report.findings[0].message


def test_neither_evidence_nor_steps_are_made_of_it() -> None:
    with pytest.raises(VerificationError, match="signed nothing here"):
        report_on(LOG.records, OTHER, PROTOCOLS)
    with pytest.raises(VerificationError, match="signed nothing here"):
        list(steps(LOG.records, "c1", OTHER, PROTOCOLS))


def test_the_right_root_and_records_that_tell_nothing_pass() -> None:
    check_root(LOG.records, ROOT)
    check_root([], OTHER)
    check_root([Record(1, 1, "mabeam.v1.evt._registry.ctl.x.n.root", b"garbage")], OTHER)
    forged = AuditLog(root=KeyPair(b"\1" * 32))
    forged.certify("coord-1", ["coordinator"])
    check_root([*forged.records, *LOG.records], ROOT)
