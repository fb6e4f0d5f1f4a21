"""Parameters of Byzantine consensus and their bounds (specification 5.2).

n is the number of replicas and f the number of Byzantine ones tolerated, n >= 3f + 1. The quorum is
``floor((n + f) / 2) + 1``, not ``2f + 1``: the two agree only at n = 3f + 1, and at n = 6, f = 1
two sets of 2f + 1 = 3 replicas can be disjoint. A quorum never needs a Byzantine replica
(q <= n - f) and two quorums share at least f + 1 replicas, hence an honest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ...core.author import encode_body
from ...core.envelope import MAX_EVENT_BYTES
from ...core.errors import ConfigError, InvalidFieldError, PeerProtocolError
from ...core.kernel_events import MAX_REPLICAS, CoordinationOpened, FaultTolerance, Participant
from ...core.machine import Context
from ...core.ordering import resolve_faults
from ...core.succession import Predecessor
from ..tolerance import replica_quorum
from .digests import GENESIS_ROOT, MAX_OPERATION_BYTES, operation_fault
from .events import PreparedEntry, ViewChangeSent

MODES = ("single", "service")
PROPOSERS = ("requester", "participants")
MAX_INTERVAL = 10_000
MAX_WINDOW = 20_000
MAX_VIEW_CHANGE_BYTES = MAX_EVENT_BYTES - 1024
"""Body of a view change, so that the event still fits."""


class ByzantineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``byzantine_consensus``.

    Attributes:
        proposal: the requester's own operation, at most 64 KiB encoded; required when only the
            requester proposes.
        mode: ``single`` decides one operation, ``service`` orders any number.
        proposers: who submits requests in ``single``: ``requester``, or with ``participants`` any
            admitted client as well (an agent's key belongs to its daemon, which proposes nothing).
        f: Byzantine replicas tolerated; floor((n - 1) / 3) if unset; 0 only if stated.
        view_timeout_ms: how long a request may stay unexecuted; doubles with every failed view.
        checkpoint_interval: K, slots between two checkpoints.
        window: L, slots above the stable checkpoint that may be in use; 2K if unset. Their prepare
            certificates must fit into one view change: at most 1,260 slots with 4 replicas, 108
            with 100.
        max_inflight: slots proposed and not executed; L if unset.
        batch_max_requests, batch_max_bytes, batch_delay_ms: the first reached closes a batch.
        rotation_slots: slots after which the primary is changed; 0 is never.
        predecessor: the service whose state this one starts from, if any; ``service`` only.
    """

    proposal: Any = None
    mode: str = "single"
    proposers: str = "requester"
    f: int | None = None
    view_timeout_ms: int = 15_000
    checkpoint_interval: int = 64
    window: int | None = None
    max_inflight: int | None = None
    batch_max_requests: int = 100
    batch_max_bytes: int = 1 << 20
    batch_delay_ms: int = 50
    rotation_slots: int = 0
    predecessor: Predecessor | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidFieldError("mode", f"one of {', '.join(MODES)}", self.mode)
        if self.proposers not in PROPOSERS:
            raise InvalidFieldError("proposers", f"one of {', '.join(PROPOSERS)}", self.proposers)
        _check_proposal(self)
        if self.predecessor and self.mode == "single":
            raise InvalidFieldError("predecessor", "left out in single mode", "given")
        check_bounds("f", self.f, 0, (MAX_REPLICAS - 1) // 3)
        check_bounds("view_timeout_ms", self.view_timeout_ms, 100, 600_000)
        check_bounds("checkpoint_interval", self.checkpoint_interval, 1, MAX_INTERVAL)
        window = 2 * self.checkpoint_interval if self.window is None else self.window
        check_bounds("window", window, self.checkpoint_interval, MAX_WINDOW)
        check_bounds("max_inflight", self.max_inflight, 1, window)
        check_bounds("batch_max_requests", self.batch_max_requests, 1, 1000)
        check_bounds("batch_max_bytes", self.batch_max_bytes, 1, 1 << 20)
        check_bounds("batch_delay_ms", self.batch_delay_ms, 0, 60_000)
        check_bounds("rotation_slots", self.rotation_slots, 0, 10**9)


def check_bounds(field: str, value: int | None, low: int, high: int) -> None:
    """Refuse an integer outside ``low`` .. ``high``; ``None`` is unset."""
    if value is not None and not (type(value) is int and low <= value <= high):
        raise InvalidFieldError(field, f"an integer from {low} to {high}", value)


def _check_proposal(config: ByzantineConfig) -> None:
    if config.proposal is None:
        if config.mode == "single" and config.proposers == "requester":
            raise InvalidFieldError("proposal", "given, because nobody else proposes", None)
        return
    if fault := operation_fault(config.proposal):
        bound = f"plain data encodable in at most {MAX_OPERATION_BYTES} bytes"
        raise InvalidFieldError("proposal", bound, fault)


@lru_cache(maxsize=128)
def largest_window(quorum: int) -> int:
    """Most slots whose prepare certificates fit into one view change."""
    entry = PreparedEntry(2**40, 2**40, bytes(32), bytes(32), (bytes(32),) * (quorum - 1))
    empty = ViewChangeSent(2**40, 2**40, (bytes(32),) * quorum, ())
    return (MAX_VIEW_CHANGE_BYTES - len(encode_body(empty))) // len(encode_body(entry))


def complete(
    config: ByzantineConfig, count: int, fault_tolerance: FaultTolerance = "low_fault"
) -> ByzantineConfig:
    """Fill the defaults that depend on the ``count`` of replicas; idempotent.

    Raises:
        ConfigError: ``insufficient_nodes`` or ``invalid_config``.
    """
    faulty = resolve_faults(count, config.f, fault_tolerance)
    most = largest_window(replica_quorum(count, faulty))
    if config.checkpoint_interval > most:
        raise InvalidFieldError(
            "checkpoint_interval",
            f"at most {most} with {count} replicas, or a view change fits into no event",
            config.checkpoint_interval,
        )
    window = min(2 * config.checkpoint_interval, most) if config.window is None else config.window
    if window > most:
        bound = f"at most {most} with {count} replicas, or a view change fits into no event"
        raise InvalidFieldError("window", bound, window)
    inflight = window if config.max_inflight is None else config.max_inflight
    return msgspec.structs.replace(config, f=faulty, window=window, max_inflight=inflight)


def freeze(
    config: ByzantineConfig, participants: tuple[Participant, ...]
) -> tuple[ByzantineConfig, tuple[Participant, ...]]:
    """Complete parameters, as they go into ``coordination.opened``; every participant is a replica.

    Raises:
        ConfigError: ``insufficient_nodes`` or ``invalid_config``.
    """
    return complete(config, len(participants)), participants


def default_timeout_ms(config: ByzantineConfig) -> int:
    """One minute for a single decision; a service runs as long as anything may."""
    return 60_000 if config.mode == "single" else 30 * 86_400_000


class Group(msgspec.Struct, frozen=True):
    """The replicas and the numbers every rule is written in.

    Attributes:
        coordination: its id.
        replicas: agent ids, sorted.
        f: Byzantine replicas tolerated.
        q: quorum.
        window: L.
        interval: K.
        proposal_id: id under which the requester's own operation counts as a request; empty if the
            configuration holds none.
        genesis: state root before the first slot.
    """

    coordination: str
    replicas: tuple[str, ...]
    f: int
    q: int
    window: int
    interval: int
    proposal_id: bytes = b""
    genesis: bytes = GENESIS_ROOT

    @property
    def n(self) -> int:
        """Number of replicas."""
        return len(self.replicas)

    def primary(self, view: int) -> str:
        """Who proposes in ``view``: ``replicas[view mod n]``."""
        return self.replicas[view % len(self.replicas)]


def group_of(
    coordination: str, replicas: Sequence[str], config: ByzantineConfig, request_id: bytes = b""
) -> Group:
    """The group under a completed configuration; ``request_id`` is that of the coordination."""
    assert config.f is not None
    assert config.window is not None
    quorum = replica_quorum(len(replicas), config.f)
    members = tuple(sorted(replicas))
    own = request_id if config.proposal is not None else b""
    return Group(
        coordination,
        members,
        config.f,
        quorum,
        config.window,
        config.checkpoint_interval,
        own,
        config.predecessor.state_root if config.predecessor else GENESIS_ROOT,
    )


def group_in(context: Context) -> Group:
    """The group of an opened coordination.

    Raises:
        PeerProtocolError: ``invalid_config``.
    """
    replicas = replicas_of(context.opened)
    config = frozen_config(context)
    return group_of(context.coordination, replicas, config, context.opened.request_id)


def frozen_config(context: Context) -> ByzantineConfig:
    """The parameters in force.

    Raises:
        PeerProtocolError: ``invalid_config``: no honest coordinator opens with these.
    """
    try:
        count = len(replicas_of(context.opened))
        return complete(context.config, count, context.opened.fault_tolerance)
    except ConfigError as error:
        raise PeerProtocolError("invalid_config", error.message) from None


def replicas_of(opened: CoordinationOpened) -> tuple[str, ...]:
    """The replicas named at opening; if none are, every participant is one."""
    return opened.replicas or tuple(each.agent_id for each in opened.participants)
