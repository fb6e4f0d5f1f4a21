"""What hosts need beside the log: invitations, the shared request queue, presence.

Everything here is derived from or leads back to the log; losing or repeating any of it is harmless.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from .envelope import Natural
from .log import EventLog, Record
from .names import AgentId, CoordinationId

MAX_INVITATION_BYTES = 1000 * 1024
"""Largest invitation; a server ends the connection of whoever sends it more than 1 MiB."""

_RECORD_BYTES = 64
"""At most what the encoding of a record adds to its subject and its wire."""


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks one agent to take part: what it needs of the coordination, to be verified.

    Attributes:
        coordination: the coordination.
        records: ``ctl`` records in log order: ``coordination.opened``, and unless the agent is to
            follow the coordination those after it that concern participants, or the newest of them.
    """

    coordination: CoordinationId
    records: tuple[Record, ...]


def encode_invitation(coordination: str, records: Sequence[Record]) -> bytes:
    """An invitation within :data:`MAX_INVITATION_BYTES`: the first of the records, which is
    ``coordination.opened``, and as many of the newest as there is room for."""
    opened, *later = records
    room = MAX_INVITATION_BYTES - _RECORD_BYTES - len(coordination) - _size(opened)
    first = len(later)
    while first and (room := room - _size(later[first - 1])) >= 0:
        first -= 1
    return msgspec.msgpack.encode(Invitation(coordination, (opened, *later[first:])))


def _size(record: Record) -> int:
    return _RECORD_BYTES + len(record.subject.encode()) + len(record.wire)


class Heartbeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signed sign of life of an agent.

    Attributes:
        agent: agent id.
        node: node the agent runs on.
        at_ns: the agent's wall clock.
        cpu_ppm: CPU use of the process, parts per million of one core.
        memory_bytes: resident memory of the process.
        tasks: requests being worked on.
    """

    agent: AgentId
    node: AgentId
    at_ns: Natural
    cpu_ppm: Natural
    memory_bytes: Natural
    tasks: Natural


class Delivery(Protocol):
    """One message of a queue that must be answered exactly one way."""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        ...

    async def ack(self) -> None:
        """Done; never deliver again."""
        ...

    async def progress(self) -> None:
        """Still working: restart the redelivery clock."""
        ...

    async def release(self, delay_ms: int = 0) -> None:
        """Give it back for redelivery after ``delay_ms``."""
        ...


class RequestDelivery(Delivery, Protocol):
    """A ``coordination.requested`` record for one of the coordinators."""

    @property
    def record(self) -> Record:
        """The stored request."""
        ...


class InvitationDelivery(Delivery, Protocol):
    """An invitation for one agent."""

    @property
    def payload(self) -> bytes:
        """The encoded :class:`Invitation`."""
        ...


class Transport(Protocol):
    """One authenticated connection: the log and its side channels."""

    @property
    def log(self) -> EventLog:
        """The event log."""
        ...

    def requests(self, capacity: int) -> AsyncIterator[RequestDelivery]:
        """Requests shared among all coordinators, at most ``capacity`` unanswered at a time."""
        ...

    async def invite(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        """Send an invitation; repeating it is harmless.

        Raises :class:`AppendRefusedError` if it is larger than :data:`MAX_INVITATION_BYTES`.
        """
        ...

    def invitations(
        self, node: str, agent: str, capacity: int
    ) -> AsyncIterator[InvitationDelivery]:
        """Invitations for one agent, at most ``capacity`` unanswered at a time."""
        ...

    async def beat(self, node: str, agent: str, payload: bytes) -> None:
        """Publish a signed heartbeat."""
        ...

    def heartbeats(self) -> AsyncIterator[tuple[str, str, bytes]]:
        """Heartbeats of all agents: (node, agent, payload), the last known ones first."""
        ...

    async def close(self) -> None:
        """Close the connection after what is in flight has been answered."""
        ...
