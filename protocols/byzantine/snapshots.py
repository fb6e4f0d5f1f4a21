"""Snapshots of a replica: what it needs to go on behind a stable checkpoint (BYZ-10).

The checkpoint at h must be stable and executed here with the very same root; then nothing at or
below h will ever be voted on again. A snapshot says what has executed, what proves the checkpoint,
the view and the prepare certificates above h. It does not say what this replica signed above h:
that is folded again from its journal, so there is one truth about its own word. Proposals, votes
and requests above h are read again from the log.

Only services take snapshots, and only until a cancel or a handover has executed: a single decision,
like what is left to do then, is over before one would be worth it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from ...core.envelope import decode_event
from ...core.errors import PeerProtocolError
from ...core.machine import Key, LogEvent, Snapshot
from .certificates import Check, check_checkpoint
from .events import CHECKPOINT, NEW_VIEW, CheckpointTaken, NewViewSent, PreparedEntry
from .execution import Decision
from .slots import Proposal

if TYPE_CHECKING:
    from .replica import ByzantineReplica

T = TypeVar("T")

VERSION = 1

MAX_POSTPONED = 1_000
"""Ids of events too far ahead that a snapshot remembers, the nearest slots first."""

_BODIES = {CHECKPOINT: CheckpointTaken, NEW_VIEW: NewViewSent}


class StoredEvent(msgspec.Struct, frozen=True, array_like=True):
    """A signed event and where the log had it."""

    sequence: int
    stored_ns: int
    wire: bytes


class View(msgspec.Struct, frozen=True, array_like=True):
    """The view worked in or moved to; see :class:`.views.ViewBook`.

    Attributes:
        new_view: the NEW-VIEW in force, while anything refers to it.
        carried: what is behind the digests of its slots above h, as far as it is known.
        productive: highest view in which something executed here.
        suspected: view to move to because a primary is provably bad.
    """

    number: int
    is_active: bool
    standing: bytes
    floor: int
    top: int
    new_view: StoredEvent | None
    carried: tuple[tuple[int, Proposal], ...]
    productive: int
    suspected: int


class State(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot says.

    Attributes:
        roots: state after the last executed slot, which is at or above h, and after those from h on
            that may become checkpoints.
        clients: last executed number by client.
        stable, stable_root, proof: h, its root, and q matching checkpoints.
        view: the view.
        prepared: prepare certificates above h.
        decisions: commit certificates above h; the next checkpoint cites them.
        taken: slot of the highest checkpoint signed here.
        due: checkpoints to sign, and their roots.
        postponed: ids, views and slots of events to be read when they fit.
    """

    version: int
    roots: tuple[tuple[int, bytes], ...]
    clients: tuple[tuple[str, int], ...]
    stable: int
    stable_root: bytes
    proof: tuple[StoredEvent, ...]
    view: View
    prepared: tuple[PreparedEntry, ...]
    decisions: tuple[Decision, ...]
    taken: int
    due: tuple[tuple[int, bytes], ...]
    postponed: tuple[tuple[bytes, int, int], ...]


_decoder = msgspec.msgpack.Decoder(State)


def milestone(replica: ByzantineReplica) -> int:
    """h, if a snapshot makes sense here."""
    is_service = replica.config.mode == "service" and replica.requests.ending is None
    stable = replica.checkpoints.stable
    return stable if is_service and replica.executor.executed >= stable else 0


def take(replica: ByzantineReplica) -> Snapshot | None:
    """See :meth:`mabeam.core.machine.Machine.snapshot`."""
    executor, book = replica.executor, replica.checkpoints
    if not milestone(replica) or executor.fork is not None:
        return None
    if executor.root_after(book.stable) != book.root:
        return None  # what q replicas have is not what is here
    proof = [replica.store.get(each) for each in book.proof]
    if None in proof:
        return None
    state = State(
        VERSION,
        _roots(replica),
        replica.requests.executed(),
        book.stable,
        book.root,
        tuple(_stored(event) for event in proof if event is not None),
        _view(replica),
        tuple(_above(replica.prepared, book.stable)),
        tuple(_above(executor.decisions, book.stable)),
        replica.taken,
        tuple(sorted(replica.due_checkpoints.items())),
        replica.postponed(MAX_POSTPONED),
    )
    settled = book.stable - replica.group.window  # slower replicas' certificates name what is above
    needed = [event.sequence for event in replica.store.above(settled)]
    needed += [request.position for request in replica.requests.pending()]
    again = {event.sequence for event in replica.views.held() if event.sequence}
    return Snapshot(
        msgspec.msgpack.encode(state),
        min((each for each in needed if each), default=None),
        tuple(sorted(again)),
    )


def _roots(replica: ByzantineReplica) -> tuple[tuple[int, bytes], ...]:
    executor = replica.executor
    first = replica.checkpoints.stable
    slots = range(first, executor.executed + 1, replica.group.interval)
    known = {slot: executor.root_after(slot) for slot in slots}
    known[executor.executed] = executor.root
    return tuple((slot, root) for slot, root in sorted(known.items()) if root is not None)


def _stored(event: LogEvent) -> StoredEvent:
    return StoredEvent(event.sequence, event.stored_ns, event.event.wire)


def _above(slots: dict[int, T], stable: int) -> list[T]:
    return [slots[slot] for slot in sorted(slots) if slot > stable]


def _view(replica: ByzantineReplica) -> View:
    views = replica.views
    new_view = replica.store.get(views.standing)
    carried = [
        (slot, proposal)
        for slot, proposal in sorted(replica.accepted.items())
        if proposal.id == views.standing and slot > replica.checkpoints.stable
    ]
    return View(
        views.view,
        views.is_active,
        views.standing,
        views.floor,
        views.top,
        _stored(new_view) if new_view is not None else None,
        tuple(carried),
        replica.productive_view,
        replica.suspected,
    )


def restore(replica: ByzantineReplica, encoded: bytes) -> None:
    """See :meth:`mabeam.core.machine.Machine.restore`."""
    try:
        state = _decoder.decode(encoded)
        proof = [_event(stored) for stored in state.proof]
        new_view = _event(state.view.new_view) if state.view.new_view is not None else None
    except (msgspec.MsgspecError, PeerProtocolError, KeyError) as error:
        raise ValueError(f"no state of a replica: {error}") from None
    if state.version != VERSION:
        raise ValueError(f"state of version {state.version}")
    for event in proof:
        replica.store.add(event, state.stable)
    ids = tuple(event.id for event in proof)
    check = Check()
    check_checkpoint(check, replica.store.get, replica.group, state.stable, ids)
    if not check.is_proven:
        raise ValueError(f"the checkpoint at {state.stable} is not proven: {check.fault}")
    replica.checkpoints.resume(state.stable, state.stable_root, ids)
    replica.executor.resume(dict(state.roots), state.decisions, state.stable)
    replica.requests.resume(state.clients)
    view = state.view
    replica.views.resume(view.number, view.standing, view.floor, view.top, is_active=view.is_active)
    if new_view is not None:
        slots = [slot.sequence for slot in new_view.content.slots]
        replica.store.add(new_view, max(slots, default=state.stable))
    replica.resume(state)


def _event(stored: StoredEvent) -> LogEvent:
    event = decode_event(stored.wire)
    body = msgspec.msgpack.decode(event.body, type=_BODIES[event.header.type])
    return LogEvent(stored.sequence, stored.stored_ns, event, body)


def is_settled(replica: ByzantineReplica, key: Key) -> bool:
    """See :meth:`mabeam.core.machine.Machine.is_settled`.

    Slower replicas' certificates name votes of one window below h; view changes and NEW-VIEWs stay
    as long as a certificate above h stems from their view.
    """
    over = min(replica.checkpoints.stable, replica.executor.executed) - replica.group.window
    match key:
        case ("pre_prepare" | "prepare" | "commit", _, int(slot)):
            return slot <= over
        case ("checkpoint", int(slot)):
            return slot <= over
        case ("view_change" | "new_view", int(view)):
            views = (entry.view for entry in replica.prepared.values())
            return view < min((replica.views.view, *views))
    return False
