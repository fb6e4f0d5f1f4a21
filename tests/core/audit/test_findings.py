"""Reports count everything, keep a bounded number of findings and go through JSON unchanged."""

from __future__ import annotations

import msgspec

from mabeam.core.audit.findings import (
    MAX_FINDINGS_PER_CODE,
    Finding,
    Findings,
    Report,
    differences,
    readable,
)


def test_the_first_divergence_is_the_earliest_and_no_warning() -> None:
    findings = Findings()
    findings.add(Finding("warning", "forged_record", "", 1))
    findings.add(Finding("incomplete", "chain_gap", "", 7))
    findings.add(Finding("wrong", "wrong_outcome", "", 9))
    findings.add(Finding("wrong", "damaged_record", "", 7))
    report = findings.report("log")
    assert report.first_divergence is not None
    assert report.first_divergence.code == "damaged_record"
    assert [finding.sequence for finding in report.findings] == [1, 7, 7, 9]
    assert not report.ok
    assert not report.complete
    assert not report.clean


def test_a_flood_of_one_code_hides_no_other() -> None:
    findings = Findings()
    for number in range(MAX_FINDINGS_PER_CODE + 50):
        findings.add(Finding("warning", "forged_record", "", number))
    findings.add(Finding("warning", "equivocation", "", 9999, culprit="a-1", proof=(b"\0",)))
    report = findings.report("log")
    assert report.counts["warning"] == MAX_FINDINGS_PER_CODE + 51
    assert len(report.findings) == MAX_FINDINGS_PER_CODE + 1
    assert report.findings[-1].culprit == "a-1"
    assert report.clean
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_differences_name_fields_with_both_values() -> None:
    told = {"a": {"b": [1, 2]}, "c": b"\1", "d": 1}
    due = {"a": {"b": [1, 3]}, "c": b"\2", "d": 1}
    assert differences(told, due) == "a.b[1] is 2, recomputed 3; c is '01', recomputed '02'"
    assert differences(told, told) == ""
    assert readable({b"\1": (b"\2",)}) == {"01": ["02"]}
