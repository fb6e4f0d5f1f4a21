"""Any protocol with its events ordered by replicas (``ordering: bft``, COM-5).

Every domain event of the protocol (vote, ballot, deadline …) is a request to the Byzantine service
of section 5: its author is the client, its place in that author's chain the number. What the
replicas have decided is folded by the protocol's own machines, in decided order. So the order in
which the log shows events influences nothing, and neither does a coordinator: it only announces.
"""

from __future__ import annotations

from msgspec.structs import replace

from ...core.machine import Context, Machine, ProtocolSpec
from ..byzantine.events import BYZANTINE_EVENT_TYPES, HANDOVER, REQUEST
from ..byzantine.fold import ByzantineFold
from ..byzantine.proofs import PROOF_RULES
from .coordinator import OrderedCoordinator
from .participant import OrderedParticipant
from .service import under_service


def ordered(spec: ProtocolSpec) -> ProtocolSpec:
    """The protocol, whose requests may now also ask for ``ordering: bft``."""

    def coordinator(context: Context) -> Machine:
        plain = context.opened.ordering == "log"
        return spec.coordinator(context) if plain else OrderedCoordinator(context, spec)

    def participant(context: Context) -> Machine:
        plain = context.opened.ordering == "log"
        return spec.participant(context) if plain else OrderedParticipant(context, spec)

    return replace(
        spec,
        coordinator=coordinator,
        participant=participant,
        orderings=(*spec.orderings, "bft"),
        proofs={
            **spec.proofs,
            **{name: under_service(rule) for name, rule in PROOF_RULES.items()},
        },
        ordering_types=tuple(
            kind for kind in BYZANTINE_EVENT_TYPES if kind.name not in (HANDOVER, REQUEST)
        ),
    )


def replicas_in(machine: Machine | None) -> ByzantineFold | None:
    """The fold of the replicas behind a coordinator's machine, if replicas order or decide."""
    if isinstance(machine, OrderedCoordinator):
        return machine.announcer
    return machine if isinstance(machine, ByzantineFold) else None


__all__ = ["OrderedCoordinator", "OrderedParticipant", "ordered", "replicas_in"]
