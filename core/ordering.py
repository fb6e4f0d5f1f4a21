"""Who orders the events of a coordination: the log's operator, or a group of replicas (COM-5).

With ``log`` the order of the log counts and its operator is trusted for it. With ``bft`` replicas
agree on the order, n of them withstanding f Byzantine ones if n >= 3f + 1 (specification 1.11).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from .errors import ConfigError, InvalidFieldError
from .kernel_events import MAX_REPLICAS, FaultTolerance, Ordering

MIN_REPLICAS = 4
"""Fewest replicas that withstand a Byzantine one; fewer only if f = 0 is stated."""


class InsufficientNodesError(ConfigError):
    """Too few replicas for the faults to be tolerated."""

    code = "insufficient_nodes"

    def __init__(self, need: int, have: int) -> None:
        super().__init__(
            f"{have} replicas take part, {need} are needed",
            hint="Name more agents, or state a smaller f.",
        )
        self.details: dict[str, Any] = {"need": need, "have": have}


class Order(msgspec.Struct, frozen=True):
    """The frozen answer.

    Attributes:
        ordering: ``log`` or ``bft``.
        f: Byzantine replicas tolerated, 0 with ``log``.
        replicas: agent ids, sorted; empty with ``log``.
    """

    ordering: Ordering
    f: int
    replicas: tuple[str, ...]


def resolve_faults(
    count: int, stated: int | None, fault_tolerance: FaultTolerance = "low_fault"
) -> int:
    """f for ``count`` replicas: as stated, else floor((count - 1) / 3).

    Raises:
        ConfigError: ``insufficient_nodes``, or ``invalid_config`` for f = 0 with ``high_fault``.
    """
    if count > MAX_REPLICAS:
        raise InvalidFieldError("replicas", f"at most {MAX_REPLICAS}", count)
    if stated is None:
        if count < MIN_REPLICAS:
            raise InsufficientNodesError(MIN_REPLICAS, count)
        stated = (count - 1) // 3
    if count < 3 * stated + 1:
        raise InsufficientNodesError(3 * stated + 1, count)
    if stated < 1 and fault_tolerance == "high_fault":
        raise InvalidFieldError("f", "at least 1 with high_fault", stated)
    return stated


def resolve_order(
    possible: Sequence[Ordering],
    wanted: Ordering | None,
    stated_f: int | None,
    fault_tolerance: FaultTolerance,
    named: Collection[str],
    participants: Sequence[str],
) -> Order:
    """Freeze who orders.

    Args:
        possible: orderings of the protocol, the default first.
        wanted: as requested.
        stated_f: as requested.
        fault_tolerance: ``high_fault`` needs ``bft``.
        named: replicas as requested; empty for all participants.
        participants: agent ids, sorted.

    Raises:
        ConfigError: ``invalid_config`` or ``insufficient_nodes``, with details.
    """
    high = fault_tolerance == "high_fault"
    ordering = wanted or ("bft" if high and "bft" in possible else possible[0])
    if ordering not in possible:
        raise InvalidFieldError("ordering", f"one of {', '.join(possible)}", ordering)
    if ordering == "log":
        if high:
            raise InvalidFieldError("ordering", "bft with high_fault", ordering)
        if named:
            raise InvalidFieldError("replicas", "left out with ordering log", sorted(named))
        return Order("log", 0, ())
    strangers = sorted(set(named) - set(participants))
    if strangers:
        raise InvalidFieldError("replicas", "among the participants", strangers)
    replicas = tuple(sorted(set(named))) or tuple(participants)
    return Order("bft", resolve_faults(len(replicas), stated_f, fault_tolerance), replicas)
