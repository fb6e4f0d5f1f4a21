"""The evidence in a log: every submitted proof, checked again on its own.

A proof is checked with the opening of its coordination and the root key alone where that suffices,
else with the keys of the registry (a client's key is in no opening).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ..admission import Admission, Rejection
from ..envelope import Event, decode_event
from ..errors import PeerProtocolError
from ..evidence import check_evidence
from ..hashing import sha256
from ..kernel_events import EvidenceSubmitted, build_catalog
from ..keyring import Keyring
from ..log import Record
from ..machine import Context, LogEvent, Protocols
from ..names import REGISTRY
from ..standalone import OPENED, check_alone, read_opening

SUBMITTED = "evidence.submitted"


class Exhibit(msgspec.Struct, frozen=True):
    """One submitted proof. Ids are hexadecimal.

    Attributes:
        sequence, event_id, coordination, submitter: the submission.
        rule, accused: what is claimed.
        valid: whether it is proven.
        alone: whether the opening and the root key are enough to check it.
        offence: uniqueness key of the offence, empty unless valid.
        problem: why nothing is proven, empty if valid.
        proof_ids: ids of the proof's events.
        proof_bytes: size of those events as transported.
        words: what it proves, for people; empty until somebody who knows the protocol fills it in.
    """

    sequence: int
    event_id: str
    coordination: str
    submitter: str
    rule: str
    accused: str
    valid: bool
    alone: bool
    offence: str
    problem: str
    proof_ids: tuple[str, ...]
    proof_bytes: int
    words: str = ""


class Exhibits:
    """Collects the evidence of records given in log order.

    Args:
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.

    Attributes:
        openings: openings seen, by coordination and epoch; as claimed, not checked.
    """

    def __init__(self, root_public_key: bytes, protocols: Protocols) -> None:
        self.openings: dict[tuple[str, bytes], bytes] = {}
        self._root = root_public_key
        self._protocols = protocols
        self._keyring = Keyring(root_public_key)
        catalog = build_catalog(kind for spec in protocols.values() for kind in spec.event_types)
        self._admission = Admission(catalog, self._keyring)

    def feed(self, records: Iterable[Record]) -> Iterator[tuple[Exhibit, tuple[LogEvent, ...]]]:
        """The proofs in these records, each with its events as far as they can be read.

        Records that are no events of their authors are skipped: an audit counts them.
        """
        for record in records:
            tokens = record.subject.split(".")
            if len(tokens) != 8:
                continue
            of_registry = tokens[3] == REGISTRY
            if not of_registry and tokens[5] not in _TOKENS:
                continue
            event = self._admission.admit(record)
            if isinstance(event, Rejection):
                continue
            if of_registry:
                self._fold_registry(event)
            elif event.type == OPENED:
                key = (event.coordination, sha256(event.event.body))
                self.openings.setdefault(key, event.event.wire)
            else:
                yield self._exhibit(event), self._contents(event.content)

    def _fold_registry(self, event: LogEvent) -> bool:
        try:
            self._keyring.apply(event)
        except PeerProtocolError:
            return False
        return True

    def _exhibit(self, event: LogEvent) -> Exhibit:
        evidence: EvidenceSubmitted = event.content
        offence = problem = ""
        alone = False
        try:
            offence, alone = self._judge(evidence)
        except PeerProtocolError as error:
            problem = error.message
        return Exhibit(
            event.sequence,
            event.id.hex(),
            event.coordination,
            event.author,
            evidence.rule,
            evidence.accused,
            not problem,
            alone,
            offence,
            problem,
            tuple(each.hex() for each in evidence.proof_ids),
            sum(map(len, evidence.proof)),
        )

    def _judge(self, evidence: EvidenceSubmitted) -> tuple[str, bool]:
        header = decode_event(evidence.proof[0]).header
        opening = self.openings.get((header.coordination, header.epoch))
        context: Context | None = None
        if opening is not None:
            context, _ = read_opening(opening, self._root, self._protocols)
            try:
                return check_alone(evidence, opening, self._root, self._protocols), True
            except PeerProtocolError as error:
                if error.reason != "invalid_proof":
                    raise
        keys = self._keyring.public_key
        return check_evidence(evidence, keys, self._protocols, context), False

    def _contents(self, evidence: EvidenceSubmitted) -> tuple[LogEvent, ...]:
        """The proof's events with typed bodies; none if one cannot be read."""
        try:
            return tuple(self._typed(decode_event(wire)) for wire in evidence.proof)
        except (PeerProtocolError, KeyError):
            return ()

    def _typed(self, event: Event) -> LogEvent:
        return LogEvent(0, 0, event, self._admission.decode_body(event))


_TOKENS = frozenset(each.replace(".", "_") for each in (OPENED, SUBMITTED))
"""Event types of interest as they stand in subjects."""
