"""Requests known to a replica, and which of them still wait for execution (BYZ-1, BYZ-12).

A client numbers its requests; one whose number is not above the client's last executed one is over,
executed or not. So a client waits for one request before it sends the next, or accepts that a later
one overtakes. Two requests under one number are the client's equivocation: whichever is ordered
first executes, the other never.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ...core.machine import LogEvent
from .events import REQUEST

REQUESTER = ""
"""Client name of the requester of the coordination, whose proposal stands in the configuration."""


class Request(msgspec.Struct, frozen=True):
    """One signed request.

    Attributes:
        id: event id.
        client: its author.
        client_seq: number given by the client.
        operation: what to do.
        size: bytes of its body.
        seen: local order of arrival, 0, 1, 2 …
    """

    id: bytes
    client: str
    client_seq: int
    operation: Any
    size: int
    seen: int


def numbered(event: LogEvent) -> tuple[str, int]:
    """Client and number of an event as a request.

    Where replicas order the events of another protocol, one author's are numbered per event type by
    its chain: a primary that holds back one event cannot make another one of its author void.
    """
    if event.type == REQUEST:
        return event.author, event.content.client_seq
    return f"{event.author}/{event.type}", event.event.header.author_seq


class RequestPool:
    """All requests seen, the unexecuted ones, and per client the last executed number."""

    def __init__(self) -> None:
        self._known: dict[bytes, Request] = {}
        self._pending: dict[bytes, Request] = {}
        self._executed: dict[str, int] = {}

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self._known

    def get(self, request_id: bytes) -> Request | None:
        """The request, if seen."""
        return self._known.get(request_id)

    def known(self) -> tuple[bytes, ...]:
        """Ids of all requests seen, sorted."""
        return tuple(sorted(self._known))

    def add(self, request: Request) -> None:
        """Note a request."""
        self._known[request.id] = request
        if self.is_executable(request):
            self._pending[request.id] = request

    def is_executable(self, request: Request) -> bool:
        """Whether no request of its client with this or a higher number has executed."""
        return request.client_seq > self._executed.get(request.client, -1)

    def execute(self, request: Request) -> bool:
        """Execute once per (client, client_seq); whether it counted (BYZ-6)."""
        if not self.is_executable(request):
            return False
        self._executed[request.client] = request.client_seq
        over = [each.id for each in self._pending.values() if not self.is_executable(each)]
        for request_id in over:
            del self._pending[request_id]
        return True

    def oldest(self) -> Request | None:
        """The unexecuted request seen first; what a replica's timer watches."""
        return next(iter(self._pending.values()), None)

    def pending(self) -> Iterator[Request]:
        """Unexecuted requests: by arrival, but each client's by number."""
        lowest: dict[str, list[Request]] = {}
        for request in self._pending.values():
            lowest.setdefault(request.client, []).append(request)
        for queue in lowest.values():
            queue.sort(key=lambda each: (-each.client_seq, each.seen))
        for request in tuple(self._pending.values()):
            yield lowest[request.client].pop()
