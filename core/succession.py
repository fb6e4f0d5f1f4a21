"""Coordinations that go on where others ended (BYZ-24).

A coordination keeps one configuration for life. One that is to go on with another is *handed over*:
its outcome names a ``successor`` and the state it ends in, and the successor's configuration names
it as ``predecessor``. Both claims are signed, neither is believed alone: :func:`contradiction` says
whether they fit. A successor's requester must be its predecessor's, or anybody could take the name.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .coordination import Coordination
from .envelope import Bytes32
from .kernel_events import CoordinationOpened
from .machine import LogEvent
from .names import CoordinationId

DECIDED = "coordination.decided"


class Predecessor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The coordination a configuration goes on from, as its requester claims.

    Attributes:
        coordination: its id.
        terminal_id: the event that ended it.
        sequence: last slot it executed.
        state_root: its state after that slot.
    """

    coordination: CoordinationId
    terminal_id: Bytes32
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    state_root: Bytes32


class Handover(msgspec.Struct, frozen=True):
    """What the outcome of a coordination says that was handed over."""

    successor: CoordinationId
    sequence: int
    state_root: Bytes32


class Link(msgspec.Struct, frozen=True):
    """What a coordination has to do with others.

    Attributes:
        coordination: its id.
        request: its request, ``None`` if unknown.
        terminal_id: the terminal event in force, empty while it runs.
        handover: how it was handed over, if it was.
        predecessor: what it goes on from, by its own account.
    """

    coordination: str
    request: LogEvent | None
    terminal_id: bytes
    handover: Handover | None
    predecessor: Predecessor | None

    @property
    def is_alone(self) -> bool:
        """It names no other coordination."""
        return self.handover is None and self.predecessor is None


def handover_of(terminal: LogEvent | None) -> Handover | None:
    """What a terminal event says about a successor; ``None`` if it names none."""
    if terminal is None or terminal.type != DECIDED or "successor" not in terminal.content.outcome:
        return None
    try:
        return msgspec.convert(terminal.content.outcome, Handover)
    except msgspec.ValidationError:
        return None


def predecessor_of(opened: CoordinationOpened | None) -> Predecessor | None:
    """The predecessor a frozen configuration claims, if it claims one."""
    claim = opened.config.get("predecessor") if opened is not None else None
    if claim is None:
        return None
    try:
        return msgspec.convert(claim, Predecessor)
    except msgspec.ValidationError:
        return None


def link_of(fold: Coordination) -> Link:
    """What a fold says about predecessor and successor."""
    terminal = fold.terminal
    return Link(
        fold.id,
        fold.request,
        terminal.id if terminal is not None else b"",
        handover_of(terminal),
        predecessor_of(fold.config),
    )


def contradiction(successor: Link, predecessor: Link) -> str:
    """What is wrong with a successor's claim, in words; empty if it is true.

    Args:
        successor: claims to go on from ``predecessor``.
        predecessor: the coordination as it is.
    """
    claim, handover = successor.predecessor, predecessor.handover
    before = predecessor.coordination
    if claim is None or claim.coordination != before:
        return f"it does not claim to go on from {before!r}"
    if handover is None:
        return f"{before!r} was not handed over"
    if handover.successor != successor.coordination:
        return f"{before!r} was handed over to {handover.successor!r}"
    if successor.request is None or predecessor.request is None:
        return f"who asked for it or for {before!r} is not known"
    asked, by = predecessor.request.author, successor.request.author
    if asked != by:
        return f"{asked!r} asked for {before!r}, {by!r} for its successor"
    if claim.terminal_id != predecessor.terminal_id:
        return (
            f"it names {claim.terminal_id.hex()[:12]} as the end of {before!r}, which ended by "
            f"{predecessor.terminal_id.hex()[:12]}"
        )
    if claim.sequence != handover.sequence:
        return f"it goes on from slot {claim.sequence} of {before!r}, not {handover.sequence}"
    if claim.state_root != handover.state_root:
        return (
            f"it goes on from state {claim.state_root.hex()[:12]}, {before!r} ended in "
            f"{handover.state_root.hex()[:12]}"
        )
    return ""
