"""What a group of replicas did, in words: who led, why that changed, who was caught, what is sure.

A view is left for a reason the log shows. The first that fits, from certain to vague: the primary
said two things or something wrong (proven); it was to be replaced by plan; it never started its
view; agents refused the proposal, its own or so many that the others are no quorum; it proposed
nothing; it proposed, and not everything was executed in time. What is silent or slow was seen so,
and may be nobody's fault: a slow network looks the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ..core.machine import LogEvent
from ..protocols.byzantine.config import Group
from ..protocols.byzantine.digests import batch_digest
from ..protocols.byzantine.events import COMMIT, NEW_VIEW, PRE_PREPARE, VIEW_CHANGE
from ..protocols.byzantine.fold import ByzantineFold
from ..protocols.byzantine.forensics import proofs_in
from ..protocols.byzantine.outcome import label
from ..protocols.byzantine.proofs import contradict, is_wrong_new_view
from ..protocols.tolerance import Tolerance
from .evidence_words import proof_in_words

MAX_VIEWS_TOLD = 100
"""Views told one by one; of more, the last ones."""


class ViewStory(msgspec.Struct, frozen=True):
    """One view.

    Attributes:
        view, primary: which, and who led it or should have.
        started: view 0, or its NEW-VIEW is there.
        slots: slots proposed in it.
        left_by: replicas that signed a view change away from it.
        why: why they left it, empty if nobody did.
    """

    view: int
    primary: str
    started: bool
    slots: int
    left_by: tuple[str, ...]
    why: str


class Caught(msgspec.Struct, frozen=True):
    """A replica with a proof against it."""

    replica: str
    rule: str
    words: str


class Certificate(msgspec.Struct, frozen=True):
    """What makes the decision sure: these replicas' commits for one slot in one view."""

    sequence: int
    view: int
    primary: str
    digest: str
    signers: tuple[str, ...]


class ReplicaStory(msgspec.Struct, frozen=True):
    """What ``mabeam coord show`` says about replicas.

    Attributes:
        views: by number.
        silent: replicas from which the log holds nothing.
        caught: by replica and rule.
        refused: replicas whose own agent would not vote for a proposal, with its reason.
        timed_out: replicas that signed the overall deadline.
        decision: the certificate of the first executed operation, if there is one.
        slots, requests: executed.
        forked_slot: slot with two certificates, 0 for none.
        tolerance: the honest label: what the group withstands, and what that assumes.
    """

    views: tuple[ViewStory, ...]
    silent: tuple[str, ...]
    caught: tuple[Caught, ...]
    refused: dict[str, str]
    timed_out: tuple[str, ...]
    decision: Certificate | None
    slots: int
    requests: int
    forked_slot: int
    tolerance: Tolerance


def tell(machine: ByzantineFold, events: Sequence[LogEvent]) -> ReplicaStory:
    """Tell what happened.

    Args:
        machine: the fold after the last event.
        events: every authentic event of the coordination under its configuration.
    """
    group = machine.group
    heard = {event.author for event in events}
    fork = machine.executor.fork
    return ReplicaStory(
        tuple(_views(machine, events)),
        tuple(each for each in group.replicas if each not in heard),
        tuple(_caught(events, group)),
        dict(sorted(machine.refusals.items())),
        tuple(sorted(machine.deadlines)),
        _certificate(machine, events),
        machine.executor.executed,
        sum(len(slot.requests) for slot in machine.executor.log),
        fork[0].sequence if fork else 0,
        label(group, machine.context.opened),
    )


def _views(machine: ByzantineFold, events: Sequence[LogEvent]) -> Iterator[ViewStory]:
    group = machine.group
    moves = [event for event in events if event.type == VIEW_CHANGE]
    last = max((machine.views.view, *(event.content.new_view for event in moves)))
    for view in range(max(0, last - MAX_VIEWS_TOLD + 1), last + 1):
        primary = group.primary(view)
        led = [e for e in events if e.author == primary and _view_of(e) == view]
        starts = [event for event in led if event.type == NEW_VIEW]
        proposals = [event for event in led if event.type == PRE_PREPARE]
        left_by = {e.author for e in moves if e.content.new_view == view + 1}
        slots = {event.content.sequence for event in proposals}
        slots |= {slot.sequence for event in starts for slot in event.content.slots}
        why = _why(machine, events, starts, proposals, len(slots), view) if left_by else ""
        yield ViewStory(
            view, primary, view == 0 or bool(starts), len(slots), tuple(sorted(left_by)), why
        )


def _view_of(event: LogEvent) -> int:
    if event.type == NEW_VIEW:
        return int(event.content.new_view)
    return int(event.content.view) if event.type == PRE_PREPARE else -1


def _why(
    machine: ByzantineFold,
    events: Sequence[LogEvent],
    starts: Sequence[LogEvent],
    proposals: Sequence[LogEvent],
    slots: int,
    view: int,
) -> str:
    group, every = machine.group, machine.config.rotation_slots
    primary = group.primary(view)
    twice = [e for e in proposals if any(contradict(e, other) for other in proposals)]
    if twice:
        return f"it proposed two different batches for slot {twice[0].content.sequence}"
    known = {event.id: event for event in events}.get
    if any(is_wrong_new_view(event, known, group) for event in starts):
        return "its NEW-VIEW does not follow from the view changes it names"
    for event in proposals:
        content = event.content
        if content.batch_digest != batch_digest(group.coordination, content.request_ids):
            return f"its proposal for slot {content.sequence} does not have the batch's digest"
    if every and slots >= every:
        return f"planned, after {every} slots"
    if view > 0 and not starts:
        return "silent: it sent no NEW-VIEW in time"
    refused = machine.refusals
    if not slots and primary in refused:
        return f"refused: its agent would not vote for the proposal ({refused[primary]})"
    if not slots:
        return "silent: it proposed nothing in time"
    if _is_refused(machine):
        return f"refused: the agents of {', '.join(sorted(refused))} would not vote for it"
    if proposals and all(_is_executed(machine, event, view) for event in proposals):
        return "silent: what it proposed was executed, but a request waited in vain to be proposed"
    return "slow: it proposed, but not everything was executed in time"


def _is_executed(machine: ByzantineFold, proposal: LogEvent, view: int) -> bool:
    """Whether a proposal was committed in the view in which it was made."""
    decision = machine.executor.decisions.get(proposal.content.sequence)
    return decision is not None and decision.view == view


def _is_refused(machine: ByzantineFold) -> bool:
    """Whether so many replicas refused that the others are no quorum."""
    return machine.group.n - len(machine.refusals) < machine.group.q


def _caught(events: Sequence[LogEvent], group: Group) -> list[Caught]:
    found: dict[tuple[str, str], Caught] = {}
    for proof in proofs_in(events, group):
        words = proof_in_words(proof.rule, proof.accused, proof.events)
        key = (proof.accused, proof.rule)
        found.setdefault(key, Caught(proof.accused, proof.rule, words))
    return [found[key] for key in sorted(found)]


def _certificate(machine: ByzantineFold, events: Sequence[LogEvent]) -> Certificate | None:
    slot = machine.deciding
    if slot is None:
        return None
    decision = machine.executor.decisions[slot.sequence]
    ids = set(decision.commit_ids)
    signers = {event.author for event in events if event.type == COMMIT and event.id in ids}
    return Certificate(
        decision.sequence,
        decision.view,
        machine.group.primary(decision.view),
        decision.digest.hex(),
        tuple(sorted(signers)),
    )


def story_in_words(story: ReplicaStory) -> Iterator[str]:
    """The lines for people."""
    for view in story.views:
        verb = "led" if view.started else "should have led"
        yield f"view {view.view}: {view.primary} {verb}, {view.slots} slots proposed"
        if view.why:
            yield f"  left by {', '.join(view.left_by)}: {view.why}"
    if story.silent:
        yield f"silent replicas: {', '.join(story.silent)}"
    for caught in story.caught:
        yield f"caught: {caught.words} ({caught.rule})"
    for replica, reason in story.refused.items():
        yield f"{replica}'s agent refused the proposal: {reason}"
    if story.timed_out:
        yield f"their overall time passed: {', '.join(story.timed_out)}"
    if story.forked_slot:
        yield (f"FORK: slot {story.forked_slot} has two certificates; see 'mabeam audit evidence'")
    if story.decision is not None:
        it = story.decision
        yield (
            f"certificate: slot {it.sequence} in view {it.view} under {it.primary}, committed by "
            f"{', '.join(it.signers)}"
        )
    yield f"executed: {story.slots} slots with {story.requests} requests"
