"""The tolerance label (COM-27): what a run could really withstand, and what it had to assume.

A label may claim less than the truth, never more. It is computed from the frozen configuration
alone, so an auditor recomputes it from ``coordination.opened``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..core.kernel_events import CoordinationOpened, Ordering

Assumption = Literal[
    "operator_order",
    "crash_only",
    "at_most_f_byzantine",
    "partial_synchrony",
    "opener_beacon",
    "last_revealer_bias",
    "stated_confidence",
    "unverified_weights",
    "outcome_sources_trusted",
    "independent_errors",
    "static_adversary",
    "sampled_committee",
    "unsecured_bids",
    "not_incentive_compatible",
    "unverified_objective",
    "single_controller",
    "degraded_fallback",
]


class Tolerance(msgspec.Struct, frozen=True):
    """The label.

    Attributes:
        ordering: who fixed the order of events: the log's operator or the replicas.
        n: participants; with ``bft`` replicas.
        f: Byzantine members tolerated; 0 where only crashes and silence are.
        q: quorum: the weight an option needs; with ``bft`` the number of replicas that agree.
        assumes: what the result rests on, sorted.
    """

    ordering: Ordering
    n: int
    f: int
    q: int
    assumes: tuple[Assumption, ...]


def replica_quorum(replicas: int, faulty: int) -> int:
    """``q = floor((n + f) / 2) + 1``: two quorums share an honest replica."""
    return (replicas + faulty) // 2 + 1


def tolerance(opened: CoordinationOpened, log_quorum: int, *assumes: Assumption) -> Tolerance:
    """The label of a protocol that tolerates crashes by itself and leans on the ordering for more.

    Args:
        opened: the frozen configuration.
        log_quorum: ``q`` under ``ordering: log``.
        assumes: what the protocol assumes besides its ordering.
    """
    stated = set(assumes)
    if len({participant.controller for participant in opened.participants}) == 1:
        stated.add("single_controller")  # COM-19
    if opened.ordering == "log":
        stated |= {"operator_order", "crash_only"}
        n, f, q = len(opened.participants), 0, log_quorum
    else:
        stated |= {"at_most_f_byzantine", "partial_synchrony"}
        n, f = len(opened.replicas), opened.f
        q = replica_quorum(n, f)
    return Tolerance(opened.ordering, n, f, q, tuple(sorted(stated)))
