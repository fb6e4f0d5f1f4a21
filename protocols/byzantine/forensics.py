"""Forensics: who made a fork possible, from the events alone (EVI-3; Sheng et al. 2021).

Two commit certificates for one slot need more than f liars, and their signatures give them away:

- *within a view* the certificates share at least 2q - n >= f + 1 signers, who committed twice (E1);
- *across views* v < v' some NEW-VIEW between them dropped the first digest. Its q view changes
  share f + 1 senders with the first certificate. Each either hid what it had committed (E2) or
  showed it, and then the NEW-VIEW is wrong (E3) or the votes against it are (E5); saying two
  things to two sides is E1 or E4.

So the search is a sweep for everything provable. Too few culprits for a fork mean that the log
lacks events, which are then listed; silence is never guilt (EVI-2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from ...core.machine import LogEvent
from .config import Group
from .events import COMMIT, DEADLINE_PASSED, NEW_VIEW, OVERALL, PREPARE, VIEW_CHANGE, VOTES
from .proofs import (
    Proof,
    contradict,
    is_amnesia,
    is_stray_vote,
    is_vote_after_deadline,
    judged_new_view,
    uniqueness_key,
)


class Forensics(msgspec.Struct, frozen=True):
    """The result.

    Attributes:
        verdict: ``no_fork``; ``culprits`` if at least f + 1 are named; else ``incomplete``.
        sequence: first slot with two commit certificates, 0 without a fork.
        culprits: one proof per accused, by id.
        missing: ids referred to and not at hand, sorted; only with ``incomplete``.
    """

    verdict: Literal["no_fork", "culprits", "incomplete"]
    sequence: int
    culprits: dict[str, Proof]
    missing: tuple[bytes, ...]


def analyse(events: Iterable[LogEvent], group: Group) -> Forensics:
    """Find a fork and name its culprits; the order of ``events`` makes no difference."""
    ordered = sorted({event.id: event for event in events}.values(), key=lambda event: event.id)
    culprits = culprits_of(ordered, group)
    sequence = _first_fork(ordered, group)
    if sequence == 0:
        return Forensics("no_fork", 0, culprits, ())
    if len(culprits) > group.f:
        return Forensics("culprits", sequence, culprits, ())
    known = {event.id for event in ordered}
    named = {each for event in ordered for each in _references(event)}
    return Forensics("incomplete", sequence, culprits, tuple(sorted(named - known)))


def _first_fork(events: Iterable[LogEvent], group: Group) -> int:
    signers: dict[tuple[int, int, bytes], set[str]] = {}
    for event in events:
        if event.type == COMMIT and event.author in group.replicas:
            vote = event.content
            key = (vote.sequence, vote.view, vote.batch_digest)
            signers.setdefault(key, set()).add(event.author)
    digests: dict[int, set[bytes]] = {}
    for (sequence, _, digest), authors in signers.items():
        if len(authors) >= group.q:
            digests.setdefault(sequence, set()).add(digest)
    return min((s for s, found in digests.items() if len(found) > 1), default=0)


def _references(event: LogEvent) -> Iterator[bytes]:
    if event.type == VIEW_CHANGE:
        yield from event.content.checkpoint_ids
        for entry in event.content.prepared:
            yield entry.proposal_id
            yield from entry.prepare_ids
    elif event.type == NEW_VIEW:
        yield from event.content.view_change_ids


def culprits_of(events: Iterable[LogEvent], group: Group) -> dict[str, Proof]:
    """One proof per provable liar, by id."""
    ordered = sorted(events, key=lambda event: event.id)
    found: dict[str, Proof] = {}
    for search in (_two_contents, _amnesia, _after_deadline, _against_new_views):
        for proof in search(ordered, group):
            if proof.accused in group.replicas:
                found.setdefault(proof.accused, proof)
    return dict(sorted(found.items()))


def _two_contents(events: list[LogEvent], group: Group) -> Iterator[Proof]:
    """E1 and E4."""
    first: dict[tuple[object, ...], LogEvent] = {}
    for event in events:
        key = uniqueness_key(event)
        if key is None:
            continue
        other = first.setdefault(key, event)
        if contradict(other, event):
            rule = "E4" if event.type == VIEW_CHANGE else "E1"
            yield Proof(rule, event.author, (other, event))


def _by_author(events: list[LogEvent], *kinds: str) -> dict[str, list[LogEvent]]:
    grouped: dict[str, list[LogEvent]] = {}
    for event in events:
        if event.type in kinds:
            grouped.setdefault(event.author, []).append(event)
    return grouped


def _amnesia(events: list[LogEvent], group: Group) -> Iterator[Proof]:
    """E2."""
    view_changes = _by_author(events, VIEW_CHANGE)
    for author, commits in _by_author(events, COMMIT).items():
        for commit in commits:
            for view_change in view_changes.get(author, ()):
                if is_amnesia(commit, view_change):
                    yield Proof("E2", author, (commit, view_change))


def _after_deadline(events: list[LogEvent], group: Group) -> Iterator[Proof]:
    """E8."""
    votes = _by_author(events, *VOTES)
    for author, deadlines in _by_author(events, DEADLINE_PASSED).items():
        for deadline in deadlines:
            if deadline.content.name != OVERALL:
                continue
            for vote in votes.get(author, ()):
                if is_vote_after_deadline(deadline, vote):
                    yield Proof("E8", author, (deadline, vote))


def _against_new_views(events: list[LogEvent], group: Group) -> Iterator[Proof]:
    """E3 and E5."""
    by_id = {event.id: event for event in events}
    votes = [event for event in events if event.type in (PREPARE, COMMIT)]
    for new_view in (event for event in events if event.type == NEW_VIEW):
        is_wrong, start = judged_new_view(new_view, events, group)
        basis = (new_view, *_basis(new_view, by_id))
        if is_wrong:
            yield Proof("E3", new_view.author, basis)
        elif start is not None:
            for vote in votes:
                if is_stray_vote(vote, new_view, start, by_id.get):
                    cited = [by_id[each] for each in vote.event.header.refs if each in by_id]
                    extra = tuple(event for event in cited if event not in basis)
                    yield Proof("E5", vote.author, (vote, *basis, *extra))


def _basis(new_view: LogEvent, by_id: dict[bytes, LogEvent]) -> Iterator[LogEvent]:
    """The events a NEW-VIEW rests on: its view changes and what they refer to, as far as known."""
    seen: dict[bytes, LogEvent] = {}
    for view_change_id in new_view.content.view_change_ids:
        view_change = by_id.get(view_change_id)
        if view_change is None:
            continue
        seen[view_change_id] = view_change
        for each in _references(view_change):
            if each in by_id:
                seen[each] = by_id[each]
    yield from seen.values()
