"""Proofs of misbehaviour E1-E6 and E8 as pure yes/no functions (specification 13, EVI-1).

A proof is a rule, an accused and signed events; whoever has the configuration can check it. Each
rule describes something a correct replica never signs, whatever the network does, so a proof that
holds never names an honest one. Where an event is not at hand, the answer is no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from ...core.errors import PeerProtocolError
from ...core.evidence import evidence_in_order, evidence_of
from ...core.kernel_events import EvidenceSubmitted
from ...core.machine import Context, LogEvent, ProofRule
from .certificates import Check, Lookup
from .config import Group, group_in
from .events import (
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PREPARE,
    UNIQUENESS,
    VIEW_CHANGE,
    VOTES,
    ViewChangeSent,
)
from .recomputation import batches_of, checkpoints_of, wrong_checkpoint
from .view_change import Plan, check_new_view


class Proof(msgspec.Struct, frozen=True):
    """What ``evidence.submitted`` carries: the events, the accused's offending one first."""

    rule: str
    accused: str
    events: tuple[LogEvent, ...]


def is_proof(proof: Proof, group: Group) -> bool:
    """Whether the events prove that the accused broke the rule."""
    check = _RULES.get(proof.rule)
    return check is not None and len(proof.events) >= 1 and check(proof, group)


def uniqueness_key(event: LogEvent) -> tuple[object, ...] | None:
    """Author, type and the fields under which one event may be signed; ``None`` if any number."""
    fields = UNIQUENESS.get(event.type)
    if fields is None:
        return None
    return (event.author, event.type, *(getattr(event.content, name) for name in fields))


def _two(proof: Proof) -> tuple[LogEvent, LogEvent] | None:
    """The two events of the accused, if that is what the proof consists of."""
    if len(proof.events) != 2 or any(event.author != proof.accused for event in proof.events):
        return None
    return proof.events[0], proof.events[1]


def contradict(first: LogEvent, second: LogEvent) -> bool:
    """One uniqueness key, two contents."""
    key = uniqueness_key(first)
    return (
        key is not None
        and key == uniqueness_key(second)
        and first.event.header.body_sha256 != second.event.header.body_sha256
    )


def _e1(proof: Proof, group: Group) -> bool:
    pair = _two(proof)
    return pair is not None and pair[0].type != VIEW_CHANGE and contradict(*pair)


def _e4(proof: Proof, group: Group) -> bool:
    pair = _two(proof)
    return pair is not None and pair[0].type == VIEW_CHANGE and contradict(*pair)


def is_amnesia(commit: LogEvent, view_change: LogEvent) -> bool:
    """E2: the certificate behind the commit is missing in a later view change."""
    vote, body = commit.content, view_change.content
    assert isinstance(body, ViewChangeSent)
    return bool(
        body.new_view > vote.view
        and body.stable_sequence < vote.sequence
        and not any(
            entry.sequence == vote.sequence and entry.view >= vote.view for entry in body.prepared
        )
    )


def _e2(proof: Proof, group: Group) -> bool:
    pair = _two(proof)
    if pair is None or (pair[0].type, pair[1].type) != (COMMIT, VIEW_CHANGE):
        return False
    return is_amnesia(*pair)


def judged_new_view(
    new_view: LogEvent, lookup: Lookup, group: Group
) -> tuple[Check, Plan | None] | None:
    """The check of a NEW-VIEW by the right primary, and its plan if it is proven right."""
    if new_view.type != NEW_VIEW or new_view.author != group.primary(new_view.content.new_view):
        return None
    return check_new_view(lookup, group, new_view.content)


def is_wrong_new_view(new_view: LogEvent, lookup: Lookup, group: Group) -> bool:
    """E3: whatever else may come, this NEW-VIEW does not follow from what it names."""
    judged = judged_new_view(new_view, lookup, group)
    return judged is not None and bool(judged[0].fault)


def _lookup(events: Iterable[LogEvent]) -> Lookup:
    return {event.id: event for event in events}.get


def _e3(proof: Proof, group: Group) -> bool:
    new_view = proof.events[0]
    return new_view.author == proof.accused and is_wrong_new_view(
        new_view, _lookup(proof.events), group
    )


def is_stray_vote(vote: LogEvent, new_view: LogEvent, start: Plan, known: Lookup) -> bool:
    """E5: a vote against the slot of the NEW-VIEW it stands on.

    A correct replica's vote refers to the NEW-VIEW it follows. If that is another one of the same
    view, or not at hand, nothing is proven.
    """
    content = vote.content
    if content.view != new_view.content.new_view:
        return False
    slots = {slot.sequence: slot.batch_digest for slot in start.slots}
    if slots.get(content.sequence, content.batch_digest) == content.batch_digest:
        return False
    refs = vote.event.header.refs
    if new_view.id in refs:
        return True
    found = [known(each) for each in refs]
    return all(
        event is not None
        and not (event.type == NEW_VIEW and event.content.new_view == content.view)
        for event in found
    )


def _e5(proof: Proof, group: Group) -> bool:
    vote, *others = proof.events
    if vote.author != proof.accused or vote.type not in (PREPARE, COMMIT) or not others:
        return False
    known = _lookup(others)
    judged = judged_new_view(others[0], known, group)
    if judged is None or judged[1] is None:
        return False
    return is_stray_vote(vote, others[0], judged[1], known)


def _e6(proof: Proof, group: Group) -> bool:
    checkpoints = checkpoints_of(proof.events, proof.accused)
    return (
        bool(checkpoints)
        and checkpoints[-1].id == proof.events[0].id
        and wrong_checkpoint(
            checkpoints, _lookup(proof.events), batches_of(proof.events, group), group
        )
        is not None
    )


def is_vote_after_deadline(deadline: LogEvent, vote: LogEvent) -> bool:
    """E8: the author's chain holds a vote behind its own overall deadline."""
    return (
        deadline.type == DEADLINE_PASSED
        and deadline.content.name == OVERALL
        and vote.type in VOTES
        and deadline.author == vote.author
        and vote.event.header.author_seq > deadline.event.header.author_seq
    )


def _e8(proof: Proof, group: Group) -> bool:
    pair = _two(proof)
    return pair is not None and is_vote_after_deadline(*pair)


_RULES: dict[str, Callable[[Proof, Group], bool]] = {
    "E1": _e1,
    "E2": _e2,
    "E3": _e3,
    "E4": _e4,
    "E5": _e5,
    "E6": _e6,
    "E8": _e8,
}


# Submission ---------------------------------------------------------------------------------------


def offence(proof: Proof, group: Group) -> str:
    """The uniqueness key of what is proven, for deduplication with (rule, accused) (EVI-5).

    Two proofs of one act have one key: hiding several slots in a view change is one offence, and so
    is everything voted for after the own deadline.
    """
    first, last = proof.events[0], proof.events[-1]
    if proof.rule == "E8":
        key: tuple[object, ...] = (DEADLINE_PASSED, OVERALL)
    else:
        subject = last if proof.rule == "E2" else first
        key = (subject.type, *(getattr(subject.content, f) for f in UNIQUENESS[subject.type]))
    return ":".join((group.coordination, *map(str, key)))


def submission(proof: Proof) -> EvidenceSubmitted:
    """The proof as it is submitted; the order of two contradicting events makes no difference."""
    pack = evidence_of if proof.rule in _CONTRADICTIONS else evidence_in_order
    return pack(proof.rule, proof.accused, (event.event for event in proof.events))


def _proof_rule(name: str) -> ProofRule:
    def judge(accused: str, events: tuple[LogEvent, ...], context: Context) -> str:
        group = group_in(context)
        proof = Proof(name, accused, events)
        if accused not in group.replicas or not is_proof(proof, group):
            raise PeerProtocolError("invalid_proof", f"the events do not prove {name}")
        return offence(proof, group)

    return judge


_CONTRADICTIONS = frozenset({"E1", "E4"})
"""Judged by the kernel for every protocol alike."""

PROOF_RULES: dict[str, ProofRule] = {
    name: _proof_rule(name) for name in sorted(_RULES.keys() - _CONTRADICTIONS)
}
"""What the kernel needs to judge this protocol's evidence."""
