"""Certificates: lists of event ids that prove a quorum, checked against the events themselves.

The answer is one of three. *Proven*: every event is at hand and says what it should. *Pending*: an
event is not at hand; the log may still deliver it, so nobody is to blame yet. *Invalid*: an event
at hand contradicts the certificate; nothing that arrives later can mend that. Nothing in a
certificate is believed because its author says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...core.machine import LogEvent
from .config import Group
from .events import CHECKPOINT, NEW_VIEW, PRE_PREPARE, PREPARE, PreparedEntry

Lookup = Callable[[bytes], LogEvent | None]
"""The event with an id, if it is at hand."""


class Check:
    """Result of checking certificates.

    Attributes:
        fault: what is wrong, empty if nothing is.
        missing: ids of events that would be needed to tell.
    """

    __slots__ = ("fault", "missing")

    def __init__(self) -> None:
        self.fault = ""
        self.missing: set[bytes] = set()

    @property
    def is_proven(self) -> bool:
        """Everything needed is at hand and in order."""
        return not self.fault and not self.missing

    def require(self, condition: bool, fault: str) -> None:
        """Note ``fault`` unless the condition holds."""
        if not condition and not self.fault:
            self.fault = fault


class EventStore:
    """Events at hand by id, with the slot at which they become dispensable."""

    def __init__(self) -> None:
        self._events: dict[bytes, LogEvent] = {}
        self._by_slot: dict[int, list[bytes]] = {}

    def __contains__(self, event_id: bytes) -> bool:
        return event_id in self._events

    def get(self, event_id: bytes) -> LogEvent | None:
        """The event, if it is at hand."""
        return self._events.get(event_id)

    def events(self) -> tuple[LogEvent, ...]:
        """Everything at hand."""
        return tuple(self._events.values())

    def above(self, slot: int) -> Iterator[LogEvent]:
        """Events at hand that become dispensable only with a slot above this one."""
        for each, ids in self._by_slot.items():
            if each > slot:
                yield from (self._events[i] for i in ids if i in self._events)

    def add(self, event: LogEvent, slot: int | None) -> None:
        """Keep an event until ``slot`` is dropped or the event is; for ever if it is ``None``."""
        self._events[event.event.id] = event
        if slot is not None:
            self._by_slot.setdefault(slot, []).append(event.event.id)

    def drop(self, event_id: bytes) -> None:
        """Forget one event; the log keeps it."""
        self._events.pop(event_id, None)

    def drop_upto(self, slot: int) -> None:
        """Forget the events of slots up to ``slot``; the log keeps them."""
        for each in [each for each in self._by_slot if each <= slot]:
            for event_id in self._by_slot.pop(each):
                self._events.pop(event_id, None)


def check_votes(
    check: Check,
    lookup: Lookup,
    group: Group,
    kind: str,
    ids: Iterable[bytes],
    matches: Callable[[LogEvent], bool],
) -> set[str]:
    """Distinct replicas that signed matching events of one type; anything else is a fault."""
    signers: set[str] = set()
    for event_id in ids:
        event = lookup(event_id)
        if event is None:
            check.missing.add(event_id)
            continue
        author = event.event.header.author
        check.require(
            event.event.header.type == kind and matches(event) and author in group.replicas,
            f"{event_id.hex()[:12]} is no matching {kind}",
        )
        check.require(author not in signers, f"{author} signs twice")
        signers.add(author)
    return signers


def check_checkpoint(
    check: Check, lookup: Lookup, group: Group, sequence: int, ids: tuple[bytes, ...]
) -> None:
    """q replicas took the same checkpoint (BYZ-14); slot 0 needs no proof."""
    if sequence == 0:
        check.require(not ids, "nothing proves slot 0")
        return
    roots: set[bytes] = set()

    def matches(event: LogEvent) -> bool:
        if event.content.sequence != sequence:
            return False
        roots.add(event.content.state_root)
        return len(roots) == 1

    check_votes(check, lookup, group, CHECKPOINT, ids, matches)
    check.require(len(set(ids)) >= group.q, f"checkpoint {sequence} has no quorum")


def is_proposal(event: LogEvent, group: Group, view: int, sequence: int, digest: bytes) -> bool:
    """A pre-prepare or NEW-VIEW slot signed by the view's primary for exactly this digest."""
    if event.event.header.author != group.primary(view):
        return False
    content = event.content
    if event.event.header.type == PRE_PREPARE:
        found: bool = (content.view, content.sequence, content.batch_digest) == (
            view,
            sequence,
            digest,
        )
        return found
    if event.event.header.type != NEW_VIEW or content.new_view != view:
        return False
    return any(s.sequence == sequence and s.batch_digest == digest for s in content.slots)


def check_prepared(check: Check, lookup: Lookup, group: Group, entry: PreparedEntry) -> None:
    """A prepare certificate: a proposal, and q signers of prepares and proposal (BYZ-3)."""
    view, sequence, digest = entry.view, entry.sequence, entry.batch_digest
    proposal = lookup(entry.proposal_id)
    if proposal is None:
        check.missing.add(entry.proposal_id)
    else:
        check.require(
            is_proposal(proposal, group, view, sequence, digest),
            f"slot {sequence}: not a proposal of view {view}",
        )

    def matches(event: LogEvent) -> bool:
        content = event.content
        return bool(
            content.batch_digest == digest and content.sequence == sequence and content.view == view
        )

    signers = check_votes(check, lookup, group, PREPARE, entry.prepare_ids, matches)
    if not check.missing:
        backed = len(signers | {group.primary(view)})
        check.require(backed >= group.q, f"slot {sequence}: {backed} signers are no quorum")
