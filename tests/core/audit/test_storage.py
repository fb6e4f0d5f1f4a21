"""An audit finds what the storage lost, reordered, cut off or changed, and accuses nobody."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from audit_log import AuditLog, decided, opened
from audit_tampering import accused, audit, first, flipped, renumbered, without

from mabeam.core.audit.auditor import Auditor
from mabeam.core.audit.findings import Report
from mabeam.core.audit.verify import History
from mabeam.core.log import Record
from mabeam.protocols import PROTOCOLS


def test_a_clean_log_passes() -> None:
    report = audit(decided(), head=17)
    assert report.clean
    assert report.findings == ()
    assert (report.records, report.events, report.signatures) == (17, 17, 17)
    assert (report.coordinations, report.endings) == (1, {"decided": 1})


def test_an_unfinished_coordination_is_open_and_not_wrong() -> None:
    report = audit(opened())
    assert report.clean
    assert report.endings == {"open": 1}


def test_signatures_are_checked_on_a_pool() -> None:
    log = opened(agents=80, threshold_ppm=1_000_000)
    for number in range(1, 80):
        log.vote(f"a-{number}")
    forged = flipped(log.records[-1], 8 * 40)
    with ThreadPoolExecutor(2) as pool:
        report = audit(log, [*log.records[:-1], forged], pool=pool)
    assert report.records == report.events + 1
    assert [finding.code for finding in report.findings] == ["forged_record"]


@pytest.mark.parametrize("sequence", range(1, 17))
def test_a_dropped_record_is_a_gap_at_its_position(sequence: int) -> None:
    log = decided()
    report = audit(log, without(log.records, sequence))
    assert not report.ok
    assert (first(report).code, first(report).sequence) == ("sequence_gap", sequence)
    assert accused(report) == set()


@pytest.mark.parametrize("sequence", range(1, 17))
def test_a_dropped_record_shows_even_when_all_positions_are_rewritten(sequence: int) -> None:
    log = decided()
    report = audit(log, renumbered(without(log.records, sequence)))
    assert not report.clean
    assert accused(report) == set(), report.findings


def test_records_out_of_order_are_found() -> None:
    log = decided()
    swapped = [*log.records[:13], log.records[14], log.records[13], *log.records[15:]]
    report = audit(log, swapped)
    assert not report.ok
    assert "sequence_order" in {finding.code for finding in report.findings}
    assert first(report).sequence == 14
    assert accused(report) == set()


def test_votes_in_another_order_differ_from_the_order_the_coordinator_signed() -> None:
    log = decided()
    swapped = renumbered([*log.records[:13], log.records[14], log.records[13], *log.records[15:]])
    report = audit(log, swapped)
    assert (first(report).severity, first(report).code) == ("wrong", "order_mismatch")
    assert accused(report) == set()


def test_a_cut_off_tail_is_found_where_the_head_is_known() -> None:
    log = decided()
    report = audit(log, log.records[:15], head=17)
    assert (first(report).code, first(report).sequence) == ("truncated_log", 16)
    assert accused(report) == set()


@pytest.mark.parametrize("at", range(17))
def test_a_changed_bit_anywhere_in_a_record_is_found(at: int) -> None:
    log = decided()
    record = log.records[at]
    for bit in range(5, 8 * len(record.wire), 8 * 7 + 3):
        records: list[Record] = [*log.records]
        records[at] = flipped(record, bit)
        report = audit(log, records)
        assert not report.clean, bit
        named = {finding.sequence: finding.code for finding in report.findings}
        assert named.get(at + 1) in ("forged_record", "damaged_record"), bit
        assert accused(report) == set(), bit


def test_a_forged_record_without_effect_is_no_failure() -> None:
    log = decided()
    for record in (log.records[13], log.records[16], log.records[8]):
        wire = flipped(record, 8 * len(record.wire) - 300).wire
        log.store(wire, record.subject)
    log.store(b"garbage", log.records[12].subject)
    log.store(b"", "nonsense")
    report = audit(log)
    assert report.clean
    assert {finding.code for finding in report.findings} == {"forged_record"}
    assert sum(report.rejections.values()) == 5
    assert report.endings == {"decided": 1}


def test_coordinations_forgotten_to_save_memory_are_read_again() -> None:
    log = _three_coordinations()
    records = list(log.records)
    asked: list[str] = []

    def history(name: str) -> list[Record]:
        asked.append(name)
        return [record for record in records if f".{name}." in record.subject]

    # One batch per record: every event of another coordination pushes the last one out.
    report = _audit_slowly(log, records, history)
    assert report.clean, report.findings
    assert report.endings == {"decided": 3}
    assert len(asked) > 6


def test_memory_is_limited_by_events_too() -> None:
    log = _three_coordinations()
    auditor = Auditor(log.root.public_key, PROTOCOLS, max_events=1)
    for record in log.records:
        forgotten = auditor.forgotten([record])
        assert len(forgotten) <= 1
        for name in forgotten:
            auditor.restore(name, [each for each in log.records if f".{name}." in each.subject])
        auditor.feed([record])
    assert auditor.forgotten(log.records) == ["c1", "c2"]
    assert auditor.finish().clean


def test_a_coordination_that_cannot_be_read_again_leaves_the_audit_incomplete() -> None:
    log = _three_coordinations()
    report = _audit_slowly(log, log.records, None)
    assert not report.complete
    assert first(report).code == "history_missing"


def test_a_history_that_was_rewritten_meanwhile_is_found() -> None:
    log = _three_coordinations()

    def history(name: str) -> list[Record]:
        mine = [record for record in log.records if f".{name}." in record.subject]
        return [record for record in mine if ".a-1" not in record.subject]

    report = _audit_slowly(log, log.records, history)
    assert "history_changed" in {finding.code for finding in report.findings}
    assert accused(report) == set()


def _three_coordinations() -> AuditLog:
    log = opened(threshold_ppm=1_000_000)
    for name in ("c2", "c3"):
        log.request(["a-1", "a-2"], name)
        log.claim(coordination=name)
        log.open(coordination=name)
        log.advance(coordination=name)
    for name in ("c1", "c2", "c3"):
        log.vote("a-1", coordination=name)
    for name in ("c1", "c2", "c3"):
        log.vote("a-2", coordination=name)
    log.vote("a-3")
    for name in ("c1", "c2", "c3"):
        log.advance(coordination=name)
    return log


def _audit_slowly(log: AuditLog, records: list[Record], history: History | None) -> Report:
    auditor = Auditor(log.root.public_key, PROTOCOLS, capacity=1)
    for record in records:
        if history is not None:
            for name in auditor.forgotten([record]):
                auditor.restore(name, history(name))
        auditor.feed([record])
    return auditor.finish(len(records))
