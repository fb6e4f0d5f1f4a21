"""The outcomes (specification 5.8, BYZ-24) and the finality of a failure (BYZ-22b)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Literal

import msgspec

from ...core.kernel_events import CoordinationOpened, Ppm
from ..tolerance import Assumption, Tolerance
from .config import Group
from .digests import operation_digest
from .events import HandoverRequested
from .execution import Decision, Executed, Executor

MAX_NOT_CHOSEN = 1000
"""Other requests an outcome names, so that it always fits into an event."""


class ByzantineOutcome(msgspec.Struct, frozen=True):
    """What ``coordination.decided`` carries for a single decision.

    Attributes:
        protocol: ``byzantine_consensus``.
        result: ``committed``.
        proposal_digest, proposal: the operation decided and its SHA-256.
        request_id: the signed request that proposed it.
        view, sequence, primary: where its certificate was formed, and who led that view.
        commit_ids: the certificate: commits of q replicas, by replica.
        not_chosen: other requests known when the certificate was complete, sorted; of more than
            1,000 the lowest ids.
        views_used: views up to the deciding one.
        tolerance: the label (COM-27).
        quality_ppm: 1,000,000.
    """

    protocol: str
    result: Literal["committed"]
    proposal_digest: bytes
    proposal: Any
    request_id: bytes
    view: int
    sequence: int
    primary: str
    commit_ids: tuple[bytes, ...]
    not_chosen: tuple[bytes, ...]
    views_used: int
    tolerance: Tolerance
    quality_ppm: Ppm


class HandoverOutcome(msgspec.Struct, frozen=True):
    """What ``coordination.decided`` carries for a service that was handed over.

    Attributes:
        protocol: ``byzantine_consensus``.
        result: ``handed_over``.
        successor: the coordination that goes on.
        request_id: the requester's signed handover.
        sequence: the slot it executed in, the last one of all.
        state_root: the state after it.
        view, primary: where the slot's certificate was formed, and who led that view.
        commit_ids: the certificate: commits of q replicas, by replica.
        checkpoint_ids: checkpoints of q replicas with this state, by replica.
        tolerance: the label (COM-27).
        quality_ppm: 1,000,000.
    """

    protocol: str
    result: Literal["handed_over"]
    successor: str
    request_id: bytes
    sequence: int
    state_root: bytes
    view: int
    primary: str
    commit_ids: tuple[bytes, ...]
    checkpoint_ids: tuple[bytes, ...]
    tolerance: Tolerance
    quality_ppm: Ppm


def label(group: Group, opened: CoordinationOpened) -> Tolerance:
    """What the group withstands; with f = 0 only crashes, and the label says so."""
    assumes: set[Assumption] = {"partial_synchrony"}
    assumes.add("at_most_f_byzantine" if group.f else "crash_only")
    if len({participant.controller for participant in opened.participants}) == 1:
        assumes.add("single_controller")
    return Tolerance("bft", group.n, group.f, group.q, tuple(sorted(assumes)))


def outcome(
    group: Group,
    opened: CoordinationOpened,
    executor: Executor,
    slot: Executed,
    decision: Decision,
    known: Iterable[bytes],
) -> ByzantineOutcome:
    """The outcome decided by ``slot``, the first one in which a request took effect (BYZ-20).

    Args:
        decision: the certificate of that slot to rest it on.
        known: requests known when it was complete.
    """
    chosen = slot.requests[0]
    operation = executor.operation(chosen)
    return ByzantineOutcome(
        protocol=opened.protocol,
        result="committed",
        proposal_digest=operation_digest(operation),
        proposal=operation,
        request_id=chosen,
        view=decision.view,
        sequence=slot.sequence,
        primary=group.primary(decision.view),
        commit_ids=decision.commit_ids,
        not_chosen=tuple(sorted(set(known) - {chosen}))[:MAX_NOT_CHOSEN],
        views_used=decision.view + 1,
        tolerance=label(group, opened),
        quality_ppm=1_000_000,
    )


def handover_outcome(
    group: Group,
    opened: CoordinationOpened,
    asked: HandoverRequested,
    slot: Executed,
    decision: Decision,
    checkpoint_ids: tuple[bytes, ...],
) -> HandoverOutcome:
    """The outcome of a service whose last slot is stable, resting on these certificates."""
    return HandoverOutcome(
        protocol=opened.protocol,
        result="handed_over",
        successor=asked.successor,
        request_id=slot.requests[-1],
        sequence=slot.sequence,
        state_root=slot.root,
        view=decision.view,
        primary=group.primary(decision.view),
        commit_ids=decision.commit_ids,
        checkpoint_ids=checkpoint_ids,
        tolerance=label(group, opened),
        quality_ppm=1_000_000,
    )


def certificates(decisions: Iterable[Decision]) -> tuple[bytes, ...]:
    """The commit certificates of these slots as one list of event ids (BYZ-21)."""
    return tuple(each for decision in decisions for each in decision.commit_ids)


def is_final(
    group: Group, signed_deadline: Collection[str], committers: Iterable[Collection[str]]
) -> bool:
    """Whether no commit certificate can exist any more (BYZ-22b).

    Args:
        group: the replicas.
        signed_deadline: D, replicas bound by their deadline whose chains are complete up to it.
        committers: per (view, slot, digest) the signers of commits seen.
    """
    bound = frozenset(signed_deadline)
    free = frozenset(group.replicas) - bound
    for signers in (frozenset[str](), *map(frozenset, committers)):
        possible = (signers | free) & frozenset(group.replicas)
        if len(possible) + min(group.f, group.n - len(possible)) >= group.q:
            return False
    return True
