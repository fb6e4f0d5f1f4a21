"""Omissions: what must exist by what is here, and is not.

An author's chain, the events an ending counted and the request a claim answers all name events.
Where one is missing and a record that its author did not sign like that stands in its place, the
record was damaged. A forged record alone, with nothing missing, had no effect and breaks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ..admission import Rejection
from ..chain import Gap
from ..coordination import Coordination
from ..kernel_events import TERMINAL_TYPES
from ..log import Record
from ..machine import LogEvent
from .findings import Finding, about

MAX_FORGED_KEPT = 1000
"""Forged records of one coordination that are remembered as explanations."""

_TERMINAL_TOKENS = frozenset(name.replace(".", "_") for name in TERMINAL_TYPES)


class Forged(msgspec.Struct, frozen=True):
    """A stored record that its author did not sign like that: forged, or damaged since."""

    sequence: int
    event_class: str
    type: str
    author: str
    reason: str


def forged(record: Record, rejection: Rejection) -> Forged:
    """Describe a forged record by where it is stored."""
    tokens = [*record.subject.split("."), *[""] * 8]
    return Forged(record.sequence, tokens[4], tokens[5], tokens[7], rejection.reason)


def omissions(
    fold: Coordination,
    events: Mapping[bytes, LogEvent],
    counted: Mapping[bytes, int],
    forgeries: list[Forged],
    *,
    whole_log: bool,
) -> Iterator[Finding]:
    """What is missing from a coordination.

    Args:
        fold: the coordination.
        events: its authentic events.
        counted: ids of events that a disputed ending counted, with its position.
        forgeries: its forged records.
        whole_log: every position of the log was there.
    """
    suspects: list[Forged] = []
    for gap in fold.chains.gaps():
        yield gap_finding(gap, fold.id, events.values())
        suspects += [each for each in forgeries if each.author == gap.author]
    if missing := [counted[each] for each in counted if each not in events]:
        message = f"{len(missing)} events that the ending counted are not here"
        yield Finding("incomplete", "missing_event", message, min(missing), coordination=fold.id)
        suspects += [each for each in forgeries if each.event_class == "pub"]
    if fold.request is None and fold.claim is not None:
        requests = [each for each in forgeries if each.event_class == "req"]
        suspects += requests
        acted = any(event.type != "coordination.claimed" for event in events.values())
        lost = requests or acted or not whole_log
        message = "the request it claims is not here" if lost else "it claims what nobody requested"
        yield about("incomplete" if lost else "warning", "missing_request", fold.claim, message)
    if fold.terminal is None:
        suspects += [
            each
            for each in forgeries
            if each.author == fold.coordinator and each.type in _TERMINAL_TOKENS
        ]
    yield from _broken_links(fold, events)
    for suspect in {each.sequence: each for each in suspects}.values():
        yield damaged(suspect, fold.id)


def _broken_links(fold: Coordination, events: Mapping[bytes, LogEvent]) -> Iterator[Finding]:
    """Events that name another predecessor than the one their author signed under that number."""
    for event in events.values():
        header = event.event.header
        previous = fold.chains.find(event.author, header.author_seq - 1)
        if header.author_seq and previous in events and previous != header.prev:
            assert previous is not None
            before = events[previous]
            if fold.chains.find(event.author, header.author_seq) != event.id:
                continue  # a fork, which is named as such
            yield about(
                "warning",
                "broken_chain",
                event,
                f"it names another predecessor than event {header.author_seq - 1} of its author",
                culprit=event.author,
                proof_ids=(previous.hex(), event.id.hex()),
                proof=(before.event.wire, event.event.wire),
            )


def gap_finding(gap: Gap, coordination: str, events: Iterable[LogEvent]) -> Finding:
    """An open gap in an author's chain: lost or withheld, and nobody's proven fault."""
    beyond = [
        event.sequence
        for event in events
        if event.author == gap.author and event.event.header.author_seq > gap.last
    ]
    return Finding(
        "incomplete",
        "chain_gap",
        f"events {gap.first} to {gap.last} of {gap.author!r} are missing: lost or withheld",
        min(beyond, default=0),
        coordination=coordination,
        author=gap.author,
    )


def damaged(suspect: Forged, coordination: str) -> Finding:
    """A forged record in whose place an event is missing."""
    return Finding(
        "wrong",
        "damaged_record",
        f"the record is not what {suspect.author!r} signed ({suspect.reason}), and an event of "
        "that kind is missing",
        suspect.sequence,
        coordination=coordination,
        type=suspect.type,
        author=suspect.author,
    )
