"""What hosts need beside the log: invitations, the shared request queue, presence.

Everything here is derived from or leads back to the log; losing or repeating any of it is harmless.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from .envelope import Natural
from .log import EventLog, Record
from .names import AgentId, CoordinationId


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks one agent to take part: the coordination's ``ctl`` records so far, to be verified.

    Attributes:
        coordination: the coordination.
        records: ``ctl`` records in log order, from ``coordination.opened`` on.
    """

    coordination: CoordinationId
    records: tuple[Record, ...]


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
        """Send an invitation; repeating it is harmless."""
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
