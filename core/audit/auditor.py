"""The auditor: takes records in log order and reports what does not hold.

Memory is bounded: the coordinations read least recently are forgotten (about 200 bytes each stay)
and read again, with all checks, when another event of theirs arrives.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

from ..admission import DEFAULT_CLOCK_SKEW_MS, Admission, Rejection
from ..errors import PeerProtocolError
from ..kernel_events import build_catalog
from ..log import Record
from ..machine import LogEvent, Protocols
from ..names import REGISTRY
from ..succession import link_of
from .case import Case
from .doubt import RegistryDoubt, Summary, is_unreproduced, resolve, resolve_link
from .findings import Ending, Finding, Findings, Report, ending_of
from .intake import Intake, Scope
from .omissions import MAX_FORGED_KEPT, Forged, damaged, forged, gap_finding
from .registry import RegistryHistory

DEFAULT_CAPACITY = 10_000
MAX_EVENTS_KEPT = 500_000


class Auditor:
    """Audits records fed in log order, from a live log, a mirror or a bundle alike.

    Args:
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.
        scope: ``log`` if every record will be fed, from the first on; ``selection`` for the
            registry with some coordinations.
        source: what the report calls the records; the scope unless given.
        registry_gaps: whether gaps in the registry's author chains are to be reported (a selection
            may hold a part of the registry only).
        capacity: coordinations kept in memory.
        max_events: events kept in memory.
        max_clock_skew_ms: see :class:`~mabeam.core.admission.Admission`.
    """

    def __init__(
        self,
        root_public_key: bytes,
        protocols: Protocols,
        *,
        scope: Scope = "log",
        source: str = "",
        registry_gaps: bool = True,
        capacity: int = DEFAULT_CAPACITY,
        max_events: int = MAX_EVENTS_KEPT,
        max_clock_skew_ms: int = DEFAULT_CLOCK_SKEW_MS,
    ) -> None:
        self.findings = Findings()
        self.registry = RegistryHistory(root_public_key)
        catalog = build_catalog(kind for spec in protocols.values() for kind in spec.event_types)
        admission = Admission(catalog, self.registry.keyring, max_clock_skew_ms)
        self._intake = Intake(admission, scope, self.findings.add)
        self._protocols = protocols
        self._scope = scope
        self._source = source or scope
        self._registry_gaps = registry_gaps
        self._capacity = capacity
        self._max_events = max_events
        self._cases: OrderedDict[str, Case] = OrderedDict()
        self._forgotten: dict[str, Summary] = {}
        self._registry_forgeries: list[Forged] = []
        self._kept = 0
        self._records = 0
        self._events = 0
        self._rejections: Counter[str] = Counter()

    @property
    def position(self) -> int:
        """Last position read."""
        return self._intake.position

    # Reading ----------------------------------------------------------------------------------

    def forgotten(self, records: Iterable[Record]) -> list[str]:
        """Coordinations these records belong to that must be restored before they are fed."""
        return sorted({_coordination_of(record) for record in records} & self._forgotten.keys())

    def restore(self, id: str, records: Iterable[Record]) -> None:
        """Read a forgotten coordination again; later records than :attr:`position` are ignored."""
        summary = self._forgotten.pop(id)
        case = self._case(id)
        case.sink = _ignore
        for record in records:
            if record.sequence <= self.position:
                case.note(record)
                result = self._intake.admit(record)
                if isinstance(result, Rejection):
                    case.refuse(record, result)
                else:
                    case.judge(record, result)
        case.sink, case.held = self.findings.add, list(summary.held)
        case.reproduced = summary.reproduced
        self._kept += len(case.events)
        if case.digest != summary.digest:
            message = "its records are not those that were read before"
            self.findings.add(
                Finding("wrong", "history_changed", message, summary.first, coordination=id)
            )

    def feed(self, records: Sequence[Record], pool: Executor | None = None) -> None:
        """Audit the next records.

        Args:
            records: in log order; the coordinations :meth:`forgotten` names must be restored.
            pool: where signatures are checked; inline without one.
        """
        for record, result in self._intake.read(records, pool):
            self._records += 1
            name = _coordination_of(record)
            case = self._case(name) if name and name != REGISTRY else None
            if case is not None:
                case.note(record)
            if isinstance(result, Rejection):
                self._refuse(record, result, case)
            else:
                self._accept(record, result, case)
        self._forget()

    def _refuse(self, record: Record, rejection: Rejection, case: Case | None) -> None:
        self._rejections[rejection.reason] += 1
        if case is not None:
            case.refuse(record, rejection)
        elif not rejection.proven and len(self._registry_forgeries) < MAX_FORGED_KEPT:
            self._registry_forgeries.append(forged(record, rejection))
        if not rejection.proven:
            self.findings.add(
                Finding(
                    "warning",
                    "forged_record",
                    f"stored under {record.subject!r}, but no event of that author: "
                    f"{rejection.message}",
                    record.sequence,
                    rejection.event_id.hex(),
                    rejection.coordination,
                    rejection.type,
                    rejection.author,
                )
            )

    def _accept(self, record: Record, event: LogEvent, case: Case | None) -> None:
        self._events += 1
        if case is not None:
            known = len(case.events)
            reason = case.judge(record, event)
            self._kept += len(case.events) - known
        else:
            reason = self._fold_registry(event)
        if reason:
            self._rejections[reason] += 1

    def _fold_registry(self, event: LogEvent) -> str:
        try:
            self.registry.fold(event)
        except PeerProtocolError as error:
            return error.reason
        return ""

    def _case(self, id: str) -> Case:
        case = self._cases.get(id)
        if case is not None:
            self._cases.move_to_end(id)
            return case
        if id in self._forgotten:
            del self._forgotten[id]
            self.findings.add(
                Finding(
                    "incomplete",
                    "history_missing",
                    "it was forgotten to save memory and not read again",
                    self.position,
                    coordination=id,
                )
            )
        sink = self.findings.add
        case = Case(id, self._protocols, self.registry, sink, self._scope == "log")
        self._cases[id] = case
        return case

    def _forget(self) -> None:
        while len(self._cases) > 1 and (
            len(self._cases) > self._capacity or self._kept > self._max_events
        ):
            id, case = self._cases.popitem(last=False)
            self._kept -= len(case.events)
            if case.events:
                self._forgotten[id] = self._summary(case)

    def _summary(self, case: Case) -> Summary:
        whole = self._scope == "log" and not self._intake.holes
        link = link_of(case.fold)
        return Summary(
            case.first,
            case.digest,
            case.fold.request is not None,
            case.fold.terminal.type if case.fold.terminal else "",
            tuple(case.omissions(whole_log=whole)),
            tuple(case.held),
            None if link.is_alone else link,
            case.reproduced,
        )

    # Reporting --------------------------------------------------------------------------------

    def damaged(self, code: str, message: str) -> None:
        """Note that the source failed to deliver what follows :attr:`position`."""
        self._intake.hole(self.position + 1, self.position + 1, code, message)

    def finish(self, head: int | None = None, single: str = "") -> Report:
        """The report; feed nothing afterwards.

        Args:
            head: last position the log is known to have; fewer records mean it was cut off.
            single: the coordination the audit is about, if it is a single one.
        """
        if head is not None and self.position < head:
            message = f"the log ends at {self.position}, but reached {head} before"
            self.damaged("truncated_log", message)
        if self._records and not self._events:
            message = "no record is an event of anybody whom this root key admitted"
            self.findings.add(Finding("wrong", "wrong_root", message, self._intake.first))
        held = {id: self._summary(case) for id, case in self._cases.items()}
        summaries = {**self._forgotten, **held}
        holes, whole = self._intake.holes, self._scope == "log"
        doubt = self._registry_doubt(summaries.values())
        endings: Counter[str] = Counter()
        for summary in summaries.values():
            linked = resolve_link(summary, summaries, holes, doubt, whole_log=whole)
            for finding in (*resolve(summary, holes, doubt), *linked):
                self.findings.add(finding)
            if summary.requested:
                endings[summary.ending.removeprefix("coordination.") or "open"] += 1
        return self.findings.report(
            self._source,
            first_sequence=self._intake.first,
            last_sequence=self.position,
            records=self._records,
            events=self._events,
            signatures=self._intake.signatures,
            registry_events=self.registry.events,
            registry_digest=self.registry.keyring.digest.hex(),
            coordinations=endings.total(),
            endings=dict(sorted(endings.items())),
            rejections=dict(sorted(self._rejections.items())),
            ending=self._ending(single),
        )

    def _registry_doubt(self, summaries: Iterable[Summary]) -> RegistryDoubt:
        """Report what is missing from the registry; what that leaves open."""
        gaps = self.registry.chains.gaps() if self._registry_gaps else []
        for gap in gaps:
            self.findings.add(gap_finding(gap, REGISTRY, self.registry.past))
        is_unlike = any(map(is_unreproduced, summaries))
        suspects = self._registry_forgeries if gaps or is_unlike else []
        for suspect in suspects:
            self.findings.add(damaged(suspect, REGISTRY))
        missing = "events of the registry are missing"
        if not self._registry_gaps:
            return RegistryDoubt(missing, missing)
        touches_keys = (
            any(self.registry.keyring.was_operator(gap.author) for gap in gaps)
            or any(suspect.event_class == "ctl" for suspect in suspects)
            or (is_unlike and suspects)
        )
        return RegistryDoubt(missing if gaps or suspects else "", missing if touches_keys else "")

    def _ending(self, id: str) -> Ending | None:
        case = self._cases.get(id)
        return ending_of(case.fold.terminal) if case is not None else None


def _coordination_of(record: Record) -> str:
    """The coordination a record is stored under, or an empty string."""
    tokens = record.subject.split(".", 4)
    return tokens[3] if len(tokens) == 5 else ""


def _ignore(finding: Finding) -> None:
    """The finding was reported when the event was first read."""
