"""Event bodies of Byzantine consensus (specification 5.3) and the types an agent's code works with.

A replica signs at most one event per uniqueness key; two with different content are evidence E1 (E4
for view changes). Certificates are lists of event ids. ``refs`` name what a message answers: a
prepare and a commit name the proposal they are for.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from ...core.envelope import Bytes32, Natural
from ...core.kernel_events import Body, EventType, ShortText, event_type
from ...core.names import AgentId, CoordinationId
from .digests import operation_fault

REQUEST = "byzantine.request_submitted"
PRE_PREPARE = "byzantine.pre_prepare_sent"
PREPARE = "byzantine.prepare_sent"
COMMIT = "byzantine.commit_sent"
CHECKPOINT = "byzantine.checkpoint_taken"
VIEW_CHANGE = "byzantine.view_change_sent"
NEW_VIEW = "byzantine.new_view_sent"
REPLY = "byzantine.reply_sent"
REFUSED = "byzantine.proposal_refused"
DEADLINE_PASSED = "deadline.passed"
CANCEL = "coordination.cancel_requested"
HANDOVER = "byzantine.handover_requested"

OVERALL = "overall"
"""Name of the deadline that replicas sign (BYZ-22)."""
SETTLE = "settle"
"""Name of the coordinator's deadline that ends the wait for further deadline signers."""
ABANDONED = "abandoned"
"""Name of the coordinator's deadline where too few replicas are there even to see the time pass."""

MAX_BATCH = 1000
MAX_SLOTS = 20_000
MAX_CERTIFICATE = 100

View = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Slot = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Certificate = Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=MAX_CERTIFICATE)]


class RequestSubmitted(Body, frozen=True):
    """A client wants an operation executed (BYZ-1).

    Attributes:
        client_seq: larger than in any request of this client that executed.
        operation: what to do, plain data of at most 64 KiB; a digest if it is stored elsewhere.
    """

    free_form: ClassVar[tuple[str, ...]] = ("operation",)

    client_seq: Natural
    operation: Any

    def fault(self) -> str:
        """See :func:`.digests.operation_fault`."""
        fault = operation_fault(self.operation)
        return f"operation: {fault}" if fault else ""


class HandoverRequested(Body, frozen=True):
    """The requester of a service asks that ``successor`` goes on in its place (BYZ-24)."""

    successor: CoordinationId


class PrePrepareSent(Body, frozen=True):
    """The primary proposes a batch for a slot."""

    view: View
    sequence: Slot
    batch_digest: Bytes32
    request_ids: Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class PrepareSent(Body, frozen=True):
    """A backup accepted the proposal for a slot."""

    view: View
    sequence: Slot
    batch_digest: Bytes32


class CommitSent(Body, frozen=True):
    """A replica holds a prepare certificate for a slot."""

    view: View
    sequence: Slot
    batch_digest: Bytes32


class CheckpointTaken(Body, frozen=True):
    """A replica executed everything up to ``sequence`` and has this state.

    Its refs name one commit of each slot since the checkpoint before, by slot: what it executed.
    """

    sequence: Slot
    state_root: Bytes32


class PreparedEntry(Body, frozen=True):
    """A prepare certificate: proposal and prepares of one (view, sequence, batch_digest)."""

    sequence: Slot
    view: View
    batch_digest: Bytes32
    proposal_id: Bytes32
    prepare_ids: Certificate


class ViewChangeSent(Body, frozen=True):
    """A replica leaves all views below ``new_view`` and says what it has prepared (BYZ-13).

    Attributes:
        new_view: the view it moves to.
        stable_sequence: h, its last stable checkpoint, 0 for none.
        checkpoint_ids: the q events that prove it.
        prepared: its prepare certificates above h, highest view per slot, by slot.
    """

    new_view: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    stable_sequence: Natural
    checkpoint_ids: Certificate
    prepared: Annotated[tuple[PreparedEntry, ...], msgspec.Meta(max_length=MAX_SLOTS)]


class SlotProposal(Body, frozen=True):
    """What a NEW-VIEW proposes for one slot."""

    sequence: Slot
    batch_digest: Bytes32


class NewViewSent(Body, frozen=True):
    """The primary of ``new_view`` starts it (BYZ-17)."""

    new_view: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    view_change_ids: Certificate
    slots: Annotated[tuple[SlotProposal, ...], msgspec.Meta(max_length=MAX_SLOTS)]


class ReplySent(Body, frozen=True):
    """A replica tells a client what its request gave; f + 1 equal ones convince (BYZ-6)."""

    client: AgentId
    client_seq: Natural
    sequence: Slot
    result_digest: Bytes32


class ProposalRefused(Body, frozen=True):
    """A replica's own agent will not vote for a proposal; it then stays silent about that slot."""

    view: View
    sequence: Slot
    batch_digest: Bytes32
    reason: ShortText


_VOTE_KEY = ("view", "sequence")

BYZANTINE_EVENT_TYPES: tuple[EventType, ...] = (
    EventType(REQUEST, RequestSubmitted, frozenset({"pub"}), ("client_seq",), open_to_clients=True),
    EventType(HANDOVER, HandoverRequested, frozenset({"pub"}), open_to_clients=True),
    event_type(PRE_PREPARE, PrePrepareSent, "pub", uniqueness=_VOTE_KEY),
    event_type(PREPARE, PrepareSent, "pub", uniqueness=_VOTE_KEY),
    event_type(COMMIT, CommitSent, "pub", uniqueness=_VOTE_KEY),
    event_type(CHECKPOINT, CheckpointTaken, "pub", uniqueness=("sequence",)),
    event_type(VIEW_CHANGE, ViewChangeSent, "pub", uniqueness=("new_view",), contradiction="E4"),
    event_type(NEW_VIEW, NewViewSent, "pub", uniqueness=("new_view",)),
    event_type(REPLY, ReplySent, "pub", uniqueness=("client", "client_seq")),
    event_type(REFUSED, ProposalRefused, "pub"),
)

UNIQUENESS = {kind.name: kind.uniqueness for kind in BYZANTINE_EVENT_TYPES if kind.uniqueness}
"""Body fields under which one event may be signed, by event type (COM-17)."""

VOTES = frozenset({PRE_PREPARE, PREPARE, COMMIT, VIEW_CHANGE, NEW_VIEW})
"""What a replica never signs after its overall deadline (BYZ-22)."""


class Verdict(msgspec.Struct, frozen=True):
    """An agent's answer to a :class:`ProposalRequest`."""

    accepted: bool
    reason: ShortText = ""

    @classmethod
    def accept(cls) -> Verdict:
        """The proposal is fine."""
        return cls(True)

    @classmethod
    def refuse(cls, reason: str) -> Verdict:
        """The replica will not vote for the proposal; ``reason`` has at most 64 characters."""
        return cls(False, reason)


class ProposalRequest(msgspec.Struct, frozen=True):
    """What an agent is asked before its replica votes for an operation (``single`` mode).

    Attributes:
        proposal: the operation.
        proposal_digest: its SHA-256.
        proposer: id of its client, empty for the requester of the coordination.
        topic: topic of the coordination.
        coordination: its id.
    """

    __mabeam_answer__: ClassVar[type] = Verdict

    proposal: Any
    proposal_digest: bytes
    proposer: str
    topic: str
    coordination: str
