"""What somebody with access to the storage can do to a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from audit_log import AuditLog

from mabeam.core.audit.findings import Finding, Report
from mabeam.core.audit.verify import audit_records
from mabeam.core.kernel_events import CoordinationDecided
from mabeam.core.log import Record
from mabeam.core.machine import Append


def audit(log: AuditLog, records: Iterable[Record] | None = None, **options: Any) -> Report:
    """Audit a log, or other records under its root key."""
    chosen = log.records if records is None else records
    return audit_records(chosen, log.root.public_key, log.protocols, **options)


def first(report: Report) -> Finding:
    """The first divergence, which must exist."""
    assert report.first_divergence is not None
    return report.first_divergence


def accused(report: Report) -> set[str]:
    """Everybody whom a finding names."""
    return {finding.culprit for finding in report.findings if finding.culprit}


def flipped(record: Record, bit: int) -> Record:
    """The record with one bit of its stored bytes changed."""
    wire = bytearray(record.wire)
    wire[bit // 8] ^= 1 << bit % 8
    return msgspec.structs.replace(record, wire=bytes(wire))


def renumbered(records: Iterable[Record]) -> list[Record]:
    """The records under contiguous positions, as if nothing had happened."""
    return [
        msgspec.structs.replace(record, sequence=number) for number, record in enumerate(records, 1)
    ]


def without(records: Iterable[Record], sequence: int) -> list[Record]:
    """The records but for one."""
    return [record for record in records if record.sequence != sequence]


def altered(terminal: Append, change: Callable[[dict[str, Any]], None]) -> CoordinationDecided:
    """A decision with another outcome."""
    body = msgspec.convert(msgspec.to_builtins(terminal.body), CoordinationDecided, strict=False)
    change(body.outcome)
    return body
