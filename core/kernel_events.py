"""Bodies of the kernel's own events and the catalog that maps type names to bodies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from .envelope import Bytes32, KeyId, Natural
from .names import AgentId, CoordinationId, EventClass

Text = Annotated[str, msgspec.Meta(max_length=4096)]
ShortText = Annotated[str, msgspec.Meta(max_length=64)]
Ppm = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Weight = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
DurationMs = Annotated[int, msgspec.Meta(ge=1, le=30 * 86_400_000)]
OverallTimeoutMs = Annotated[int, msgspec.Meta(ge=100, le=30 * 86_400_000)]
Ordering = Literal["log", "bft"]
FaultTolerance = Literal["low_fault", "medium_fault", "high_fault", "any_fault"]
Health = Literal["healthy", "overloaded", "unreachable", "unknown"]
MAX_PARTICIPANTS = 1000
MAX_REPLICAS = 100


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all event bodies: immutable, and unknown fields are refused.

    Class attributes:
        free_form: fields that hold values of any shape; admission bounds their nesting.
    """

    free_form: ClassVar[tuple[str, ...]] = ()

    def fault(self) -> str:
        """What the values break beyond their types, or nothing; no client signs such a body, and
        the fold rejects it."""
        return ""


# Registry -----------------------------------------------------------------------------------------


class AgentAdmitted(Body, frozen=True):
    """An id becomes known. Signed by the operator; counts only with the root's signature inside."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=4096)]


class AgentKeyRotated(Body, frozen=True):
    """A newer certificate (higher serial) replaces the id's key from here on."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=4096)]


class AgentRevoked(Body, frozen=True):
    """All keys of the id are void from here on."""

    agent_id: AgentId
    reason: Text = ""


class AgentRegistered(Body, frozen=True):
    """An agent announces itself (COM-20).

    Attributes:
        node: node token of its subjects.
        capabilities: what it can be asked for.
        model_type: kind of model behind it.
        cost_per_request_micros: price of one request, micro-credits.
        max_concurrent: requests it works on at a time.
    """

    node: AgentId
    capabilities: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=64)] = ()
    model_type: ShortText = "unknown"
    cost_per_request_micros: Natural = 10_000
    max_concurrent: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10


class HealthChanged(Body, frozen=True):
    """A coordinator observed a change of an agent's health (COM-20).

    Attributes:
        after_sequence: sequence of the change it supersedes, 0 for the first. One that names
            another than the last has come too late and has no effect.
    """

    agent_id: AgentId
    health: Health
    cpu_ppm: Natural = 0
    memory_bytes: Natural = 0
    tasks: Natural = 0
    after_sequence: Natural = 0


# Life of a coordination ---------------------------------------------------------------------------


class Invitee(Body, frozen=True):
    """A participant as the requester names it; weight in micro-units."""

    agent_id: AgentId
    weight: Weight = 1_000_000


class CapabilityQuery(Body, frozen=True):
    """Choose the participants among healthy agents that have all these capabilities.

    Chosen in agent-id order, at most ``at_most``; fewer than ``at_least`` is an error.
    """

    capabilities: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=64)]
    at_least: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTICIPANTS)] = 1
    at_most: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTICIPANTS)] = MAX_PARTICIPANTS


class Parent(Body, frozen=True):
    """The coordination that opened this one, and under which key."""

    coordination: CoordinationId
    key: ShortText


class CoordinationRequested(Body, frozen=True):
    """A client asks for a coordination (specification 1.11).

    Attributes:
        protocol: protocol name.
        config: the protocol's parameters; omitted ones take their defaults.
        participants: who takes part; empty when ``query`` chooses.
        query: capability query, instead of ``participants``.
        ordering: who orders events; the protocol's default if unset, ``bft`` for ``high_fault``.
        f: Byzantine replicas tolerated; floor((replicas - 1) / 3) if unset, 0 only if stated.
        replicas: which participants order events with ``bft``; all of them if empty.
    """

    free_form: ClassVar[tuple[str, ...]] = ("config",)

    protocol: ShortText
    config: dict[str, Any] = {}
    participants: Annotated[tuple[Invitee, ...], msgspec.Meta(max_length=MAX_PARTICIPANTS)] = ()
    query: CapabilityQuery | None = None
    protocol_version: Natural = 1
    ordering: Ordering | None = None
    f: Natural | None = None
    fault_tolerance: FaultTolerance = "low_fault"
    overall_timeout_ms: OverallTimeoutMs | None = None
    controller_cap_ppm: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1_000_000
    topic: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.-]{1,64}\Z")] = "general"
    parent: Parent | None = None
    replicas: Annotated[tuple[AgentId, ...], msgspec.Meta(max_length=MAX_REPLICAS)] = ()


class CoordinationClaimed(Body, frozen=True):
    """A coordinator takes the coordination over.

    Attributes:
        term: 1 for the first claim, then one more than the claim it supersedes (a fencing token).
        previous: id of the claim it supersedes, zeros for the first.
    """

    term: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    previous: Bytes32


class Participant(Body, frozen=True):
    """A frozen participant; ``weight`` in micro-units, after caps."""

    agent_id: AgentId
    key_id: KeyId
    node: AgentId
    controller: AgentId
    weight: Weight


class RegistrySnapshot(Body, frozen=True):
    """The registry as frozen at opening: last registry event folded, and digest of the fold."""

    sequence: Natural
    digest: Bytes32


class CoordinationOpened(Body, frozen=True):
    """The frozen configuration; SHA-256 of this body is the epoch of everything that follows.

    Attributes:
        request_id: the ``coordination.requested`` event answered.
        participants: sorted by agent id, distinct.
        certificates: root-signed certificates of the coordinator and every participant.
        config: the protocol's complete parameters.
    """

    free_form: ClassVar[tuple[str, ...]] = ("config",)

    request_id: Bytes32
    protocol: ShortText
    protocol_version: Natural
    ordering: Ordering
    fault_tolerance: FaultTolerance
    f: Natural
    replicas: tuple[AgentId, ...]
    participants: Annotated[
        tuple[Participant, ...], msgspec.Meta(min_length=1, max_length=MAX_PARTICIPANTS)
    ]
    certificates: tuple[bytes, ...]
    config: dict[str, Any]
    overall_timeout_ms: OverallTimeoutMs
    topic: ShortText
    beacon: Bytes32
    registry_snapshot: RegistrySnapshot
    parent: Parent | None = None


class Cut(Body, frozen=True):
    """The set of events a result was computed from (COM-8): count and Merkle root of sorted ids."""

    count: Natural
    root: Bytes32


class CoordinationDecided(Body, frozen=True):
    """Terminal: the outcome, recomputable from the events up to ``inputs_upto``."""

    free_form: ClassVar[tuple[str, ...]] = ("outcome",)

    outcome: dict[str, Any]
    inputs_upto: Natural
    cut: Cut


class CoordinationFailed(Body, frozen=True):
    """Terminal: the procedure could not be carried out (COM-25)."""

    free_form: ClassVar[tuple[str, ...]] = ("details",)

    code: ShortText
    message: Text
    hint: Text = ""
    details: dict[str, Any] = {}
    final: bool = True


class CoordinationCancelled(Body, frozen=True):
    """Terminal: stopped on request before the result became irreversible (COM-26)."""

    reason: Text = ""


class CancelRequested(Body, frozen=True):
    """The requester asks the coordinator to cancel."""

    reason: Text = ""


class InputRejected(Body, frozen=True):
    """Tells a sender why its event has no effect; a copy of the fold's verdict."""

    event_id: Bytes32
    reason: ShortText


class DeadlinePassed(Body, frozen=True):
    """A phase ended (COM-7)."""

    name: ShortText
    round: Natural = 0
    subject: ShortText = ""


class EvidenceSubmitted(Body, frozen=True):
    """A self-contained proof of misbehaviour (EVI-1).

    Attributes:
        rule: ``E1`` … ``E9``.
        accused: id whose key signed the first of the proof's events; for E1, E4 and E7 all.
        proof_ids: ids of the events that make the proof.
        proof: the events as transported, in the order of ``proof_ids``.
    """

    rule: Annotated[str, msgspec.Meta(pattern=r"^E[1-9]\Z")]
    accused: AgentId
    proof_ids: Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=1024)]
    proof: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=1024)]


class OutcomeReported(Body, frozen=True):
    """Ground truth about an earlier event, from a source named in the deployment (EVI-6)."""

    free_form: ClassVar[tuple[str, ...]] = ("value",)

    subject_event: Bytes32
    topic: ShortText
    kind: Literal["truth", "score", "delivery"]
    value: Any
    source: AgentId
    proof_digest: Bytes32 | None = None
    supersedes: Bytes32 | None = None


class EventType(msgspec.Struct, frozen=True):
    """One entry of the catalog.

    Attributes:
        name: ``family.event_name``.
        body: type of the body.
        classes: subject classes it may be published under.
        uniqueness: body fields that, with author and type, form the key under which only one event
            may ever be signed (COM-17); ``None`` if several are fine.
        open_to_clients: whether admitted authors outside the participants may sign it too.
        contradiction: evidence rule that two different events under one such key break.
    """

    name: str
    body: type[Body]
    classes: frozenset[EventClass]
    uniqueness: tuple[str, ...] | None = None
    open_to_clients: bool = False
    contradiction: str = "E1"


Catalog = Mapping[str, EventType]


def event_type(
    name: str,
    body: type[Body],
    *classes: EventClass,
    uniqueness: tuple[str, ...] | None = None,
    contradiction: str = "E1",
) -> EventType:
    """Shorthand for a catalog entry."""
    return EventType(name, body, frozenset(classes), uniqueness, contradiction=contradiction)


KERNEL_EVENT_TYPES: tuple[EventType, ...] = (
    event_type("agent.admitted", AgentAdmitted, "ctl"),
    event_type("agent.key_rotated", AgentKeyRotated, "ctl"),
    event_type("agent.revoked", AgentRevoked, "ctl"),
    event_type("agent.registered", AgentRegistered, "pub"),
    event_type("agent.health_changed", HealthChanged, "ctl"),
    event_type("coordination.requested", CoordinationRequested, "req"),
    event_type("coordination.claimed", CoordinationClaimed, "ctl"),
    event_type("coordination.opened", CoordinationOpened, "ctl"),
    event_type("coordination.decided", CoordinationDecided, "ctl"),
    event_type("coordination.failed", CoordinationFailed, "ctl"),
    event_type("coordination.cancelled", CoordinationCancelled, "ctl"),
    event_type("coordination.cancel_requested", CancelRequested, "pub"),
    event_type("coordination.input_rejected", InputRejected, "ctl"),
    event_type("deadline.passed", DeadlinePassed, "ctl", "pub"),
    event_type("evidence.submitted", EvidenceSubmitted, "ctl", "pub"),
    event_type("outcome.reported", OutcomeReported, "pub"),
)

TERMINAL_TYPES = frozenset(
    {"coordination.decided", "coordination.failed", "coordination.cancelled"}
)


def build_catalog(protocol_types: Iterable[EventType]) -> dict[str, EventType]:
    """The kernel's event types plus those of the protocols; a name occurs once."""
    catalog: dict[str, EventType] = {}
    for entry in (*KERNEL_EVENT_TYPES, *protocol_types):
        if entry.name in catalog:
            raise ValueError(f"event type {entry.name} is defined twice")
        catalog[entry.name] = entry
    return catalog
