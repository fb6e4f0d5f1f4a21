"""What an audit reports: findings with their proofs, and the report that counts and orders them.

* ``wrong``: something differs from what the log itself gives; the audit failed.
* ``incomplete``: something needed for the verdict is missing; nothing is proven either way.
* ``warning``: contained and accounted for (a named equivocator, a forged record without effect,
  an early deadline); the audit still passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..envelope import Event
from ..kernel_events import EvidenceSubmitted
from ..machine import LogEvent

Severity = Literal["wrong", "incomplete", "warning"]

MAX_FINDINGS_PER_CODE = 1000
"""Findings of one code kept in full; further ones are counted only."""


class Finding(msgspec.Struct, frozen=True):
    """One thing an audit found. Ids are hexadecimal; empty where it does not apply.

    Attributes:
        severity: ``wrong``, ``incomplete`` or ``warning``.
        code: stable name of the kind of finding.
        message: the same for people.
        sequence: position in the log, 0 if it belongs to none.
        event_id: the event at that position.
        coordination: where it happened.
        type: type of the event.
        author: who signed the event, or whose events are missing.
        culprit: whose fault it is, empty unless the events show it.
        rule: evidence rule broken (``E1`` … ``E9``).
        proof_ids: ids of the events that show it.
        proof: those events as transported; for E1, E4 and E7 they convict without anything else.
    """

    severity: Severity
    code: str
    message: str
    sequence: int = 0
    event_id: str = ""
    coordination: str = ""
    type: str = ""
    author: str = ""
    culprit: str = ""
    rule: str = ""
    proof_ids: tuple[str, ...] = ()
    proof: tuple[bytes, ...] = ()


class Ending(msgspec.Struct, frozen=True):
    """How a coordination ended.

    Attributes:
        sequence, type, author: of the terminal event in force.
        content: its body; byte strings are hexadecimal.
    """

    sequence: int
    type: str
    author: str
    content: dict[str, Any]


class Report(msgspec.Struct, frozen=True):
    """Result of an audit.

    Attributes:
        source: ``log``, ``selection`` or ``bundle``.
        ok: nothing is wrong.
        complete: nothing needed is missing. Only ``ok and complete`` is a clean audit.
        first_divergence: the earliest finding that is wrong or incomplete.
        first_sequence, last_sequence: stretch of the log read, 0 if nothing was.
        records: records read.
        events: records that are authentic events, with or without effect.
        signatures: signatures checked.
        registry_events: registry events in force.
        registry_digest: digest of the registry after the last of them, hexadecimal.
        coordinations: coordinations with a request.
        endings: coordinations by type of the terminal event in force; ``open`` has none yet.
        rejections: records without effect, by reason.
        counts: findings by severity.
        findings: by position; at most :data:`MAX_FINDINGS_PER_CODE` of one code.
        ending: how the coordination ended, if the audit was about a single one.
    """

    source: str
    ok: bool
    complete: bool
    first_divergence: Finding | None
    first_sequence: int = 0
    last_sequence: int = 0
    records: int = 0
    events: int = 0
    signatures: int = 0
    registry_events: int = 0
    registry_digest: str = ""
    coordinations: int = 0
    endings: dict[str, int] = {}
    rejections: dict[str, int] = {}
    counts: dict[Severity, int] = {}
    findings: tuple[Finding, ...] = ()
    ending: Ending | None = None

    @property
    def clean(self) -> bool:
        """Nothing is wrong and nothing is missing."""
        return self.ok and self.complete


class Findings:
    """Collects findings; all are counted, those kept are limited per code."""

    def __init__(self) -> None:
        self.counts: Counter[Severity] = Counter()
        self.first: Finding | None = None
        self._kept: list[Finding] = []
        self._codes: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        """Take a finding."""
        self.counts[finding.severity] += 1
        self._codes[finding.code] += 1
        if self._codes[finding.code] <= MAX_FINDINGS_PER_CODE:
            self._kept.append(finding)
        if finding.severity != "warning" and (
            self.first is None or _order(finding) < _order(self.first)
        ):
            self.first = finding

    def report(self, source: str, **figures: Any) -> Report:
        """The report over everything collected; ``figures`` are its other fields."""
        return Report(
            source=source,
            ok=not self.counts["wrong"],
            complete=not self.counts["incomplete"],
            first_divergence=self.first,
            counts={severity: self.counts[severity] for severity in _RANK},
            findings=tuple(sorted(self._kept, key=_order)),
            **figures,
        )


_RANK: Mapping[Severity, int] = {"wrong": 0, "incomplete": 1, "warning": 2}


def _order(finding: Finding) -> tuple[int, int]:
    return finding.sequence, _RANK[finding.severity]


def about(severity: Severity, code: str, event: LogEvent, message: str, **more: Any) -> Finding:
    """A finding about an event at its position."""
    return Finding(
        severity,
        code,
        message,
        event.sequence,
        event.id.hex(),
        event.coordination,
        event.type,
        event.author,
        **more,
    )


def blame(code: str, event: LogEvent, message: str, *others: Event, rule: str = "") -> Finding:
    """A ``wrong`` finding with the event's author as culprit; ``others`` belong to the proof."""
    proof = (*others, event.event)
    return about(
        "wrong",
        code,
        event,
        message,
        culprit=event.author,
        rule=rule,
        proof_ids=tuple(each.id.hex() for each in proof),
        proof=tuple(each.wire for each in proof),
    )


def convict(
    event: LogEvent, evidence: EvidenceSubmitted, message: str, code: str = "equivocation"
) -> Finding:
    """A ``warning`` that names the accused of a valid proof."""
    return about(
        "warning",
        code,
        event,
        message,
        culprit=evidence.accused,
        rule=evidence.rule,
        proof_ids=tuple(each.hex() for each in evidence.proof_ids),
        proof=evidence.proof,
    )


def ending_of(terminal: LogEvent | None) -> Ending | None:
    """Summary of a terminal event."""
    if terminal is None:
        return None
    content = readable(terminal.content)
    return Ending(terminal.sequence, terminal.type, terminal.author, content)


def readable(value: Any) -> Any:
    """Plain data for people and JSON: structs as mappings, byte strings as hexadecimal."""
    return _hex(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(_hex(key)): _hex(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hex(each) for each in value]
    return value


def differences(told: Any, due: Any, limit: int = 4) -> str:
    """Names the first fields in which two bodies differ, with both values."""
    found: list[str] = []
    _compare("", readable(told), readable(due), found)
    shown = "; ".join(found[:limit])
    return shown + (f"; and {len(found) - limit} more" if len(found) > limit else "")


def _compare(path: str, told: Any, due: Any, found: list[str]) -> None:
    if isinstance(told, dict) and isinstance(due, dict):
        for key in sorted({*told, *due}):
            _compare(f"{path}.{key}" if path else key, told.get(key), due.get(key), found)
    elif isinstance(told, list) and isinstance(due, list) and len(told) == len(due):
        for place, (one, other) in enumerate(zip(told, due, strict=True)):
            _compare(f"{path}[{place}]", one, other, found)
    elif told != due:
        found.append(f"{path or 'body'} is {_short(told)}, recomputed {_short(due)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
