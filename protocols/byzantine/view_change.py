"""View changes as pure functions (BYZ-14, BYZ-17, BYZ-18; Castro & Liskov 1999, section 4.4).

Safety across views rests on one sentence: what may have been committed was prepared by a quorum;
any q view changes include one of an honest member of it; so the entry with the *highest view* per
slot, among valid view changes, is the value that may have been committed. Everything here guards a
word of it: entries and checkpoints are proven, not claimed; the slots of a NEW-VIEW are recomputed,
not trusted; and a gap is filled with the null batch and does not end the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ...core.machine import LogEvent
from .certificates import Check, Lookup, check_checkpoint, check_prepared
from .config import Group
from .digests import null_digest
from .events import VIEW_CHANGE, NewViewSent, PreparedEntry, SlotProposal, ViewChangeSent


def check_view_change(lookup: Lookup, group: Group, body: ViewChangeSent) -> Check:
    """Whether a view change is valid (BYZ-14)."""
    check = Check()
    stable = body.stable_sequence
    check_checkpoint(check, lookup, group, stable, body.checkpoint_ids)
    previous = 0
    for entry in body.prepared:
        sequence = entry.sequence
        check.require(previous < sequence, "entries are not one per slot, by slot")
        check.require(
            stable < sequence <= stable + group.window, f"slot {sequence} is out of the window"
        )
        check.require(entry.view < body.new_view, f"slot {sequence}: view {entry.view} is not over")
        check_prepared(check, lookup, group, entry)
        previous = sequence
    return check


class Plan(msgspec.Struct, frozen=True):
    """How a view starts.

    Attributes:
        lowest: min_s, the highest stable checkpoint among the view changes.
        highest: max_s, new proposals start above it.
        slots: proposals for (lowest, highest].
    """

    lowest: int
    highest: int
    slots: tuple[SlotProposal, ...]


def plan(group: Group, view_changes: Iterable[ViewChangeSent]) -> Plan:
    """What a NEW-VIEW over these valid view changes must say (BYZ-17)."""
    lowest = 0
    best: dict[int, PreparedEntry] = {}
    for body in view_changes:
        lowest = max(lowest, body.stable_sequence)
        for entry in body.prepared:
            known = best.get(entry.sequence)
            if known is None or _rank(entry) > _rank(known):
                best[entry.sequence] = entry
    highest = max((lowest, *best))
    slots = tuple(
        SlotProposal(
            sequence,
            best[sequence].batch_digest
            if sequence in best
            else null_digest(group.coordination, sequence),
        )
        for sequence in range(lowest + 1, highest + 1)
    )
    return Plan(lowest, highest, slots)


def _rank(entry: PreparedEntry) -> tuple[int, bytes]:
    """Highest view first; two digests of one view need more than f liars, the order is a choice."""
    return entry.view, entry.batch_digest


def new_view_body(group: Group, view: int, view_changes: Sequence[LogEvent]) -> NewViewSent:
    """The NEW-VIEW over these valid view changes, one per sender."""
    ordered = sorted(view_changes, key=lambda event: event.event.header.author)
    slots = plan(group, (event.content for event in ordered)).slots
    return NewViewSent(view, tuple(event.id for event in ordered), slots)


def check_new_view(lookup: Lookup, group: Group, body: NewViewSent) -> tuple[Check, Plan | None]:
    """Recompute a NEW-VIEW from the view changes it names (BYZ-18).

    Returns:
        The check, and the plan if it is proven.
    """
    check = Check()
    view_changes: list[ViewChangeSent] = []
    senders: set[str] = set()
    for event_id in body.view_change_ids:
        event = lookup(event_id)
        if event is None:
            check.missing.add(event_id)
            continue
        author = event.event.header.author
        if event.event.header.type != VIEW_CHANGE or author not in group.replicas:
            check.require(False, f"{event_id.hex()[:12]} is no view change")
            continue
        content: ViewChangeSent = event.content
        check.require(content.new_view == body.new_view, f"{author} moves to another view")
        check.require(author not in senders, f"{author} counts twice")
        inner = check_view_change(lookup, group, content)
        check.require(not inner.fault, f"{author}: {inner.fault}")
        check.missing |= inner.missing
        senders.add(author)
        view_changes.append(content)
    check.require(len(set(body.view_change_ids)) >= group.q, "too few view changes")
    if not check.is_proven:
        return check, None
    check.require(group.primary(body.new_view) in senders, "the primary's own is not among them")
    computed = plan(group, view_changes)
    check.require(computed.slots == body.slots, "the slots do not follow from the view changes")
    return check, None if check.fault else computed
