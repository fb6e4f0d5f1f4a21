"""Forensics: who made a fork possible, from the events alone (EVI-3; Sheng et al. 2021).

Two commit certificates for one slot need more than f liars, and their signatures give them away:

- *within a view* the certificates share at least 2q - n >= f + 1 signers, who committed twice (E1);
- *across views* v < v' some NEW-VIEW between them dropped the first digest. Its q view changes
  share f + 1 senders with the first certificate. Each either hid what it had committed (E2) or
  showed it, and then the NEW-VIEW is wrong (E3) or the votes against it are (E5); saying two
  things to two sides is E1 or E4.

This names f + 1 as long as fewer than q replicas lie, 2f of 3f + 1. Then every prepare certificate
has an honest signer, who was in a view that a NEW-VIEW had started. A whole quorum of liars can
sign one in a view that never started, show it in the next view change, and contradict nothing.

So the search is a sweep for everything provable. Too few culprits for a fork mean that the log
lacks events, which are then listed, or that a quorum lies; silence is never guilt (EVI-2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from ...core.machine import LogEvent
from .certificates import Lookup
from .config import Group
from .events import COMMIT, DEADLINE_PASSED, NEW_VIEW, OVERALL, PREPARE, VIEW_CHANGE, VOTES
from .proofs import (
    Proof,
    contradict,
    is_amnesia,
    is_proof,
    is_stray_vote,
    is_vote_after_deadline,
    judged_new_view,
    uniqueness_key,
)
from .recomputation import batches_of, checkpoints_of, wrong_checkpoint


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
    found: dict[str, Proof] = {}
    for proof in proofs_in(events, group):
        found.setdefault(proof.accused, proof)
    return dict(sorted(found.items()))


def proofs_in(events: Iterable[LogEvent], group: Group) -> Iterator[Proof]:
    """Every proof against a replica, the smallest kinds first; one offence may come up twice."""
    ordered = sorted(events, key=lambda event: event.id)
    for search in (_two_contents, _amnesia, _after_deadline, _against_new_views, _wrong_states):
        for proof in search(ordered, group):
            if proof.accused in group.replicas:
                yield proof


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
    known = {event.id: event for event in events}.get
    votes = [event for event in events if event.type in (PREPARE, COMMIT)]
    for new_view in (event for event in events if event.type == NEW_VIEW):
        judged = judged_new_view(new_view, known, group)
        if judged is None:
            continue
        check, start = judged
        if check.fault:
            yield wrong_new_view_proof(new_view, known, group)
        elif start is not None:
            for vote in votes:
                if is_stray_vote(vote, new_view, start, known):
                    yield stray_vote_proof(vote, new_view, basis_of(new_view, known), known)


def wrong_new_view_proof(new_view: LogEvent, known: Lookup, group: Group) -> Proof:
    """E3 with as few events as show the fault: a fault of one view change needs no other."""
    changes = _found(new_view.content.view_change_ids, known)
    everything = basis_of(new_view, known)
    smaller = [[], changes, *([each, *_found(_references(each), known)] for each in changes)]
    for basis in (*smaller, everything):
        proof = Proof("E3", new_view.author, _distinct((new_view, *basis)))
        if is_proof(proof, group):
            break
    return proof


def basis_of(new_view: LogEvent, known: Lookup) -> tuple[LogEvent, ...]:
    """The view changes of a NEW-VIEW and what they refer to, as far as known."""
    changes = _found(new_view.content.view_change_ids, known)
    return _distinct((*changes, *_found(_all_references(changes), known)))


def stray_vote_proof(
    vote: LogEvent, new_view: LogEvent, basis: Iterable[LogEvent], known: Lookup
) -> Proof:
    """E5: the vote, the NEW-VIEW, all that proves it right, and what the vote refers to."""
    cited = _found(vote.event.header.refs, known)
    return Proof("E5", vote.author, _distinct((vote, new_view, *basis, *cited)))


def _all_references(changes: Iterable[LogEvent]) -> Iterator[bytes]:
    for each in changes:
        yield from _references(each)


def _found(ids: Iterable[bytes], known: Lookup) -> list[LogEvent]:
    return [event for each in ids if (event := known(each)) is not None]


def _distinct(events: Iterable[LogEvent]) -> tuple[LogEvent, ...]:
    return tuple({event.id: event for event in events}.values())


def _wrong_states(events: list[LogEvent], group: Group) -> Iterator[Proof]:
    """E6."""
    known = {event.id: event for event in events}.get
    batches = batches_of(events, group)
    for author in group.replicas:
        own = checkpoints_of(events, author)
        for count in range(1, len(own) + 1):
            wrong = wrong_checkpoint(own[:count], known, batches, group)
            if wrong is not None:
                yield Proof("E6", author, wrong)
                break
