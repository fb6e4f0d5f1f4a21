"""Stepping through a recorded coordination: what every event did, and what was due next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ..admission import Admission, Rejection
from ..coordination import Coordination
from ..errors import PeerProtocolError
from ..kernel_events import build_catalog
from ..keyring import Keyring
from ..log import Record
from ..machine import After, Append, Ask, Intent, LogEvent, Protocols
from ..names import REGISTRY
from .findings import readable
from .roots import check_root


class Planned(msgspec.Struct, frozen=True):
    """Something the coordinator's machine would do.

    Attributes:
        kind: ``append``, ``after`` (append after a delay), ``ask`` or ``spawn``.
        key: the intent's key, joined by ``:``.
        type: type of the event to append, empty for others.
        body: its body; byte strings are hexadecimal.
        delay_ms: delay of an ``after``, else 0.
    """

    kind: str
    key: str
    type: str = ""
    body: Any = None
    delay_ms: int = 0


class Step(msgspec.Struct, frozen=True):
    """One record of a coordination and what it changed.

    Attributes:
        sequence, stored_ns, event_id, type, author: the record; empty where unreadable.
        verdict: ``in force`` or the reason why it has no effect.
        message: why, empty if it is in force.
        content: the body; byte strings are hexadecimal. ``None`` if unreadable.
        phase: phase of the coordination after it.
        coordinator: coordinator in force after it.
        waiting_for: whose events would move it on.
        planned: what the coordinator's machine would do next.
        refs: ids of the events it answers; none if it is unreadable.
    """

    sequence: int
    stored_ns: int
    event_id: str
    type: str
    author: str
    verdict: str
    message: str
    content: Any
    phase: str
    coordinator: str
    waiting_for: tuple[str, ...]
    planned: tuple[Planned, ...]
    refs: tuple[str, ...] = ()


class Recording:
    """Reads the records of one coordination and of the registry.

    Args:
        coordination: its id.
        root_public_key: the deployment's root key.
        protocols: known protocols.

    Attributes:
        fold: the coordination after the last event read.
    """

    def __init__(self, coordination: str, root_public_key: bytes, protocols: Protocols) -> None:
        self._keyring = Keyring(root_public_key)
        self.fold = Coordination(coordination, protocols, self._keyring.public_key)
        catalog = build_catalog(kind for spec in protocols.values() for kind in spec.event_types)
        self._admission = Admission(catalog, self._keyring)

    def read(self, records: Iterable[Record]) -> Iterator[tuple[Record, LogEvent | Rejection]]:
        """Authenticate; registry events are folded, the caller folds those of the coordination."""
        for record in records:
            name = record.subject.split(".", 4)[3:4]
            if name not in ([REGISTRY], [self.fold.id]):
                continue
            result = self._admission.admit(record)
            if name == [self.fold.id]:
                yield record, result
            elif isinstance(result, LogEvent):
                self._fold_registry(result)

    def _fold_registry(self, event: LogEvent) -> bool:
        try:
            self._keyring.apply(event)
        except PeerProtocolError:
            return False
        return True


def steps(
    records: Iterable[Record], coordination: str, root_public_key: bytes, protocols: Protocols
) -> Iterator[Step]:
    """Step through a coordination.

    Args:
        records: its records and those of the registry, in log order; others are skipped.
        coordination: its id.
        root_public_key: the deployment's root key.
        protocols: known protocols.

    Raises:
        VerificationError: they belong to another root key.
    """
    given = list(records)
    check_root(given, root_public_key)
    recording = Recording(coordination, root_public_key, protocols)
    for record, result in recording.read(given):
        if isinstance(result, Rejection):
            who = (result.event_id.hex(), result.type, result.author)
            yield _step(record, who, result.reason, result.message, None, recording.fold)
            continue
        verdict = message = ""
        try:
            recording.fold.apply(result)
        except PeerProtocolError as error:
            verdict, message = error.reason, error.message
        who = (result.id.hex(), result.type, result.author)
        content = readable(result.content)
        step = _step(record, who, verdict or "in force", message, content, recording.fold)
        refs = tuple(each.hex() for each in result.event.header.refs)
        yield msgspec.structs.replace(step, refs=refs)


def _step(
    record: Record,
    who: tuple[str, str, str],
    verdict: str,
    message: str,
    content: Any,
    fold: Coordination,
) -> Step:
    return Step(
        record.sequence,
        record.stored_ns,
        *who,
        verdict,
        message,
        content,
        fold.phase,
        fold.coordinator,
        fold.waiting_for(),
        tuple(planned(intent) for intent in fold.intents()),
    )


def planned(intent: Intent) -> Planned:
    """Description of an intent."""
    key = ":".join(map(str, intent.key))
    if isinstance(intent, Append):
        return Planned("append", key, intent.type, readable(intent.body))
    if isinstance(intent, After):
        then = intent.then
        return Planned("after", key, then.type, readable(then.body), intent.delay_ms)
    return Planned("ask" if isinstance(intent, Ask) else "spawn", key)
