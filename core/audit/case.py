"""One coordination under audit: the fold, and what its events show about their authors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from ..admission import Rejection
from ..coordination import Coordination
from ..errors import PeerProtocolError
from ..evidence import check_evidence
from ..hashing import ZERO32, sha256
from ..kernel_events import TERMINAL_TYPES, EvidenceSubmitted, InputRejected
from ..log import Record
from ..machine import LogEvent, Protocols
from .conformance import Window, early_by_ms
from .endings import false_ending, is_overtaken, second_ending, suppressed_result
from .findings import Finding, about, blame, convict
from .omissions import MAX_FORGED_KEPT, Forged, forged, omissions
from .openings import check_opened, check_refused, is_reproduced
from .proofs import prove_equivocation
from .registry import RegistryHistory

MAX_NOTICES = 10
"""``coordination.input_rejected`` events per author and coordination."""

Sink = Callable[[Finding], None]

_KERNEL_FAMILIES = frozenset({"agent", "coordination", "evidence", "outcome"})


class Case:
    """Folds one coordination and judges every event of it.

    Args:
        id: coordination id.
        protocols: known protocols.
        registry: the registry, in step with the log.
        sink: takes findings that nothing later can change.
        whole_log: every record of the log is being read.

    Attributes:
        fold: the coordination.
        first: position of its first record.
        digest: hash over its records so far, to recognise them when they are read again.
        events: authentic events by id.
        held: findings that stand unless something turns out to be missing.
        reproduced: whether it was opened with the very registry read here.
    """

    def __init__(
        self, id: str, protocols: Protocols, registry: RegistryHistory, sink: Sink, whole_log: bool
    ) -> None:
        self.fold = Coordination(id, protocols, registry.keyring.public_key)
        self.first = 0
        self.digest = ZERO32
        self.events: dict[bytes, LogEvent] = {}
        self.held: list[Finding] = []
        self.reproduced = False
        self.sink = sink
        self._protocols = protocols
        self._registry = registry
        self._whole_log = whole_log
        self._window = Window()
        self._reasons: dict[bytes, set[str]] = {}
        self._counted: dict[bytes, int] = {}
        self._notices: Counter[str] = Counter()
        self._offences: set[tuple[str, str, str]] = set()
        self._forgeries: list[Forged] = []
        self._broken = False

    # Taking records ---------------------------------------------------------------------------

    def note(self, record: Record) -> None:
        """Account for a record, whatever it turns out to be."""
        self.first = self.first or record.sequence
        place = record.sequence.to_bytes(8, "big")
        self.digest = sha256(self.digest + place + sha256(record.wire))

    def refuse(self, record: Record, rejection: Rejection) -> None:
        """Take a record that admission refused."""
        if rejection.event_id:
            self._reasons.setdefault(rejection.event_id, set()).add(rejection.reason)
        if not rejection.proven and len(self._forgeries) < MAX_FORGED_KEPT:
            self._forgeries.append(forged(record, rejection))

    def judge(self, record: Record, event: LogEvent) -> str:
        """Fold an authentic event.

        Returns:
            The reason why it has no effect, or an empty string.
        """
        self.events.setdefault(event.id, event)
        if self._broken:
            return "not_judged"
        try:
            return self._fold(event, record.subject.split(".", 5)[4] == "ctl")
        except Exception as error:  # a machine that fails must not end the audit of the others
            self._broken = True
            message = (
                f"the protocol's machine failed on it ({type(error).__name__}: {error}); the rest "
                "of this coordination is not judged"
            )
            self.sink(about("incomplete", "machine_failed", event, message))
            return "not_judged"

    def _fold(self, event: LogEvent, control: bool) -> str:
        claimant, ended = self.fold.coordinator, self.fold.terminal
        try:
            self.fold.apply(event)
        except PeerProtocolError as error:
            self._reasons.setdefault(event.id, set()).add(error.reason)
            self._without_effect(event, error, claimant, ended)
            if error.reason == "equivocation":
                self._window.collect(self.fold.intents())
            self._settle(event, ended)
            return error.reason
        self._settle(event, ended)
        self._in_force(event, control)
        self._window.collect(self.fold.intents())
        return ""

    def _settle(self, event: LogEvent, before: LogEvent | None) -> None:
        """What an ending rests on may arrive after it; then nothing is wrong with it."""
        ended = self.fold.terminal
        if ended is not None and ended is not before and ended is not event:
            self.held = [each for each in self.held if each.event_id != ended.id.hex()]

    # Events in force --------------------------------------------------------------------------

    def _in_force(self, event: LogEvent, control: bool) -> None:
        if event.type == "coordination.input_rejected":
            self._check_notice(event)
        elif event.type == "evidence.submitted":
            self._accept_evidence(event)
        else:
            self._check_coordinators(event, control)
            if control or (event.type == "deadline.passed" and not self._is_replicas(event)):
                self._window.restart()

    def _is_replicas(self, event: LogEvent) -> bool:
        """Whether it is one replica's word, which counts only with those of others (COM-7)."""
        return self.fold.is_ordered and self.fold.participant(event.author) is not None

    def _check_coordinators(self, event: LogEvent, control: bool) -> None:
        fold = self.fold
        if event.type == "coordination.opened" and fold.request is not None:
            findings = check_opened(
                event, fold.request, self._registry, self._protocols, whole_log=self._whole_log
            )
            self.reproduced = is_reproduced(event, self._registry)
            for finding in findings:
                if finding.severity == "warning":
                    self.sink(finding)
                else:
                    self.held.append(finding)
        elif event.type == "coordination.failed" and (
            fold.opened is None or event.content.code == "internal_error"
        ):
            refusal = suppressed_result(event, fold) or check_refused(
                event, fold.request, self._registry, self._protocols
            )
            if refusal is not None:
                self.held.append(refusal)
        elif (event.type == "deadline.passed" and not self._is_replicas(event)) or (
            event.type.partition(".")[0] not in _KERNEL_FAMILIES
            and event.author == fold.coordinator
            and (control or fold.participant(event.author) is None)
        ):
            self._check_intended(event)

    def _check_intended(self, event: LogEvent) -> None:
        offer = self._window.offer(event)
        if offer is None and self._window.asked:
            message = "it may be an answer of the coordinator's own code, which nobody can check"
            self.sink(about("warning", "unchecked_answer", event, message))
        elif offer is None:
            message = f"the machine intended no such {event.type} at that point"
            self.held.append(blame("not_intended", event, message))
        elif since := self.events.get(offer.since):
            early_ms = early_by_ms(event, since, offer)
            if early_ms:
                message = (
                    f"signed {early_ms} ms before its {offer.delay_ms} ms were over, by the "
                    "signer's clock"
                )
                self.sink(about("warning", "early_deadline", event, message, culprit=event.author))

    def _check_notice(self, event: LogEvent) -> None:
        notice: InputRejected = event.content
        addressed = self.events.get(notice.event_id)
        reasons = self._reasons.get(notice.event_id, set())
        if addressed is None and not reasons:
            message = f"it names event {notice.event_id.hex()[:12]}, which is not here"
            self.sink(about("incomplete", "missing_event", event, message))
        elif notice.reason not in reasons:
            due = ", ".join(sorted(reasons)) or "the event counts"
            message = f"it tells the sender {notice.reason!r}; the fold says: {due}"
            self.held.append(blame("false_notice", event, message))
        if addressed is not None:
            self._notices[addressed.author] += 1
            if self._notices[addressed.author] == MAX_NOTICES + 1:
                message = f"more than {MAX_NOTICES} notices to {addressed.author!r}"
                self.sink(about("warning", "too_many_notices", event, message))

    def _accept_evidence(self, event: LogEvent) -> None:
        evidence: EvidenceSubmitted = event.content
        lookup = self._registry.keyring.public_key
        offence = check_evidence(evidence, lookup, self._protocols, self.fold.context)
        message = f"{evidence.accused!r} broke {evidence.rule}, as {event.author!r} proved"
        self._convict(event, evidence, offence, message)

    # Events without effect --------------------------------------------------------------------

    def _without_effect(
        self, event: LogEvent, error: PeerProtocolError, claimant: str, ended: LogEvent | None
    ) -> None:
        if error.reason == "equivocation":
            self._equivocation(event, error)
        elif event.author == claimant and event.type in TERMINAL_TYPES:
            if ended is not None:
                second = second_ending(event, error, ended)
                self.held += [second] if second else []
            elif not is_overtaken(event, error, self._window):
                self._counted.update(dict.fromkeys(event.event.header.refs, event.sequence))
                self.held.append(false_ending(event, error, self.fold))
        elif event.author == claimant and error.evidence == (event.id,):
            if self._window.offer(event) is None:
                self._counted.update(dict.fromkeys(event.event.header.refs, event.sequence))
                self.held.append(blame(error.reason, event, error.message, rule="E9"))
        elif event.type == "coordination.opened" and error.reason == "unknown_protocol":
            self.sink(about("incomplete", "unknown_protocol", event, error.message))

    def _equivocation(self, event: LogEvent, error: PeerProtocolError) -> None:
        lookup = self._registry.keyring.public_key
        proven = prove_equivocation(error.evidence, self.events, lookup, self._protocols)
        if proven is None:
            message = f"{error.message}; the events named do not prove it"
            self.sink(about("warning", "unproven_equivocation", event, message))
        else:
            self._convict(event, *proven, error.message)

    def _convict(
        self, event: LogEvent, evidence: EvidenceSubmitted, offence: str, message: str
    ) -> None:
        key = (evidence.rule, evidence.accused, offence)
        if key not in self._offences:
            self._offences.add(key)
            self.sink(convict(event, evidence, message))

    # Conclusion -------------------------------------------------------------------------------

    def omissions(self, *, whole_log: bool) -> Iterator[Finding]:
        """What is missing from the coordination as far as it has been read."""
        return omissions(
            self.fold, self.events, self._counted, self._forgeries, whole_log=whole_log
        )
