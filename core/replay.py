"""Replay: the fold of a whole log, shared by projector and auditor.

Records go in batches through admission (signatures on a thread pool), then one by one, in log
order, into the registry or their coordination. Memory is bounded: the least recently touched
coordinations are forgotten and restored from history when another event of theirs arrives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain

import msgspec

from .admission import DEFAULT_CLOCK_SKEW_MS, Admission, Candidate, Rejection, reject
from .chain import ChainBook
from .coordination import Coordination
from .envelope import verify_signature
from .errors import PeerProtocolError
from .kernel_events import build_catalog
from .keyring import Keyring
from .log import Record
from .machine import LogEvent, Protocols
from .names import REGISTRY

VERIFY_CHUNK = 256
MIN_POOLED = 64
DEFAULT_CAPACITY = 2_000

SignatureClaim = tuple[bytes, bytes, bytes]
"""Event id, signature and public key."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one record.

    Attributes:
        record: as stored.
        event: the admitted event, ``None`` if admission refused it.
        rejection: why it has no effect, ``None`` if it counts.
        coordination: the fold it belongs to, after it; ``None`` for the registry and for records
            that admission refused.
        evidence: ids of the events that prove misbehaviour, if the rejection does.
        settled: terminal event announced before that is in force from this record on, because what
            it rests on has arrived.
    """

    record: Record
    event: LogEvent | None
    rejection: Rejection | None
    coordination: Coordination | None
    evidence: tuple[bytes, ...] = ()
    settled: LogEvent | None = None


class Prepared(msgspec.Struct, frozen=True):
    """Records on their way into a :class:`Replay`.

    Attributes:
        records: as stored, in log order.
        examined: the first step of their admission.
        keyring_sequence: last registry event folded when they were examined.
        checks: for each candidate, in order and in chunks, whether its signature is good.
    """

    records: Sequence[Record]
    examined: Sequence[Candidate | Rejection]
    keyring_sequence: int
    checks: Iterator[list[bool]]


class Replay:
    """Folds a log from its beginning.

    Args:
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.
        capacity: coordinations kept in memory.
        max_clock_skew_ms: see :class:`~mabeam.core.admission.Admission`.
    """

    def __init__(
        self,
        root_public_key: bytes,
        protocols: Protocols,
        *,
        capacity: int = DEFAULT_CAPACITY,
        max_clock_skew_ms: int = DEFAULT_CLOCK_SKEW_MS,
    ) -> None:
        self.protocols = protocols
        self.keyring = Keyring(root_public_key)
        self.registry_chains = ChainBook()
        self.admission = Admission(
            build_catalog(kind for spec in protocols.values() for kind in spec.event_types),
            self.keyring,
            max_clock_skew_ms,
        )
        self.capacity = capacity
        self._coordinations: OrderedDict[str, Coordination] = OrderedDict()

    def coordination(self, id: str) -> Coordination | None:
        """The fold of a coordination, if it is in memory."""
        return self._coordinations.get(id)

    def unknown(self, records: Iterable[Record]) -> set[str]:
        """Coordinations these records belong to that are not in memory (new or forgotten).

        The others count as just used, so that restoring these does not push those out; the records
        must belong to at most :attr:`capacity` coordinations.
        """
        names = {record.subject.split(".", 4)[3] for record in records} - {REGISTRY}
        missing = set()
        for name in names:
            if name in self._coordinations:
                self._coordinations.move_to_end(name)
            else:
                missing.add(name)
        return missing

    def restore(self, id: str, events: Iterable[LogEvent]) -> None:
        """Bring back a forgotten coordination from its admitted events, in log order."""
        coordination = self._touch(id)
        for event in events:
            try:
                coordination.apply(event)
            except PeerProtocolError:
                continue  # it was rejected, and recorded, when it was first folded

    def feed(self, records: Sequence[Record], pool: Executor | None = None) -> list[Verdict]:
        """Admit and fold records in log order.

        Args:
            records: the next records; :meth:`unknown` coordinations must have been restored.
            pool: threads or processes that check signatures; inline without one. Processes are
                faster, because folding holds the interpreter lock.
        """
        return self.fold(self.prepare(records, pool))

    def prepare(self, records: Sequence[Record], pool: Executor | None = None) -> Prepared:
        """Examine records and start checking their signatures; changes no state.

        May run ahead of :meth:`fold`: a key that is known stays known, and what no key was known
        for is examined again at its turn if the registry has changed by then.
        """
        examined = [self.admission.examine(record) for record in records]
        claims = [
            (each.event.id, each.event.signature, each.public_key)
            for each in examined
            if isinstance(each, Candidate)
        ]
        return Prepared(records, examined, self.keyring.sequence, _check(claims, pool))

    def fold(self, prepared: Prepared) -> list[Verdict]:
        """Finish the admission of prepared records and fold them, in log order."""
        good = chain.from_iterable(prepared.checks)
        verdicts = []
        for record, each in zip(prepared.records, prepared.examined, strict=True):
            if isinstance(each, Candidate):
                result = self.admission.conclude(each, next(good))
            elif self.keyring.sequence != prepared.keyring_sequence:
                result = self.admission.admit(record)
            else:
                result = each
            if isinstance(result, Rejection):
                verdicts.append(Verdict(record, None, result, None))
            else:
                verdicts.append(self.judge(record, result))
        return verdicts

    def judge(self, record: Record, event: LogEvent) -> Verdict:
        """Fold the next record, which was admitted as ``event``."""
        if event.coordination == REGISTRY:
            return self._judge_registry(record, event)
        coordination = self._touch(event.coordination)
        rejection: Rejection | None = None
        evidence: tuple[bytes, ...] = ()
        before = coordination.terminal
        try:
            coordination.apply(event)
        except PeerProtocolError as error:
            rejection, evidence = reject(record, event.event, error), error.evidence
        ended = coordination.terminal
        settled = ended if ended is not before and ended is not event else None
        return Verdict(record, event, rejection, coordination, evidence, settled)

    def _judge_registry(self, record: Record, event: LogEvent) -> Verdict:
        try:
            self.fold_registry(event)
        except PeerProtocolError as error:
            return Verdict(record, event, reject(record, event.event, error), None, error.evidence)
        return Verdict(record, event, None, None)

    def fold_registry(self, event: LogEvent) -> None:
        """Fold an admitted event of ``_registry``."""
        self.registry_chains.add(event.event)
        self.keyring.apply(event)

    def _touch(self, id: str) -> Coordination:
        coordination = self._coordinations.get(id)
        if coordination is not None:
            self._coordinations.move_to_end(id)
            return coordination
        coordination = Coordination(id, self.protocols, self.keyring.public_key)
        self._coordinations[id] = coordination
        if len(self._coordinations) > self.capacity:
            self._coordinations.popitem(last=False)
        return coordination


def _check(claims: list[SignatureClaim], pool: Executor | None) -> Iterator[list[bool]]:
    if pool is None or len(claims) < MIN_POOLED:
        return map(verify_signatures, [claims])
    futures = [
        pool.submit(verify_signatures, claims[at : at + VERIFY_CHUNK])
        for at in range(0, len(claims), VERIFY_CHUNK)
    ]
    return (future.result() for future in futures)


def verify_signatures(claims: Sequence[SignatureClaim]) -> list[bool]:
    """Check signatures; what the pool runs, on threads or in other processes."""
    return [verify_signature(*claim) for claim in claims]
