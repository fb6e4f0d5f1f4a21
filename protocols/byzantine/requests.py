"""Requests known to a replica, and which of them still wait for execution (BYZ-1, BYZ-12).

A client numbers its requests; one whose number is not above the client's last executed one is over,
executed or not. So a client waits for one request before it sends the next, or accepts that a later
one overtakes. Two requests under one number are the client's equivocation: whichever is ordered
first executes, the other never. Whatever is over can be forgotten: seen again it is over still, as
executed numbers only grow.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Iterable, Iterator
from typing import Any

import msgspec

from ...core.kernel_events import CancelRequested
from ...core.machine import LogEvent
from .events import REQUEST, HandoverRequested

_ENDINGS = CancelRequested | HandoverRequested

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
        position: in the log, as far as it is known from there.
    """

    id: bytes
    client: str
    client_seq: int
    operation: Any
    size: int
    seen: int
    position: int = 0


def numbered(event: LogEvent) -> tuple[str, int]:
    """Client and number of an event as a request.

    Where replicas order the events of another protocol, one author's are numbered per event type by
    its chain: a primary that holds back one event cannot make another one of its author void.
    """
    if event.type == REQUEST:
        return event.author, event.content.client_seq
    return f"{event.author}/{event.type}", event.event.header.author_seq


class RequestPool:
    """Requests seen, the unexecuted ones, and per client the last executed number.

    Attributes:
        ending: the first cancel or handover that executed; a service has one end.
    """

    def __init__(self) -> None:
        self.ending: Request | None = None
        self._known: dict[bytes, Request] = {}
        self._pending: dict[bytes, Request] = {}
        self._queues: dict[str, list[Request]] = {}  # pending ones per client, by number
        self._executed: dict[str, int] = {}
        self._over: list[bytes] = []  # since the last executed slot
        self._over_at: dict[int, list[bytes]] = {}

    def executed(self) -> tuple[tuple[str, int], ...]:
        """Last executed number by client, sorted."""
        return tuple(sorted(self._executed.items()))

    def resume(self, executed: Iterable[tuple[str, int]]) -> None:
        """Begin with what has executed before."""
        self._executed = dict(executed)

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self._known

    def get(self, request_id: bytes) -> Request | None:
        """The request, if seen and not forgotten."""
        return self._known.get(request_id)

    def known(self) -> tuple[bytes, ...]:
        """Ids of all requests seen and not forgotten, sorted."""
        return tuple(sorted(self._known))

    def add(self, request: Request) -> None:
        """Note a request; one known already stays as it is."""
        if request.id in self._known:
            return
        self._known[request.id] = request
        if self.is_executable(request):
            self._pending[request.id] = request
            insort(self._queues.setdefault(request.client, []), request, key=_turn)
        else:
            self._over.append(request.id)

    def is_executable(self, request: Request) -> bool:
        """Whether no request of its client with this or a higher number has executed."""
        return request.client_seq > self._executed.get(request.client, -1)

    def execute(self, request: Request) -> bool:
        """Execute once per (client, client_seq); whether it counted (BYZ-6)."""
        if not self.is_executable(request):
            return False
        self._executed[request.client] = request.client_seq
        queue = self._queues.get(request.client, [])
        over = 0
        while over < len(queue) and queue[over].client_seq <= request.client_seq:
            del self._pending[queue[over].id]
            self._over.append(queue[over].id)
            over += 1
        del queue[:over]
        return True

    def execute_batch(self, batch: Iterable[Request]) -> tuple[bytes, ...]:
        """Execute a batch in its order, up to a handover that ends it; what counted (BYZ-24)."""
        counted: list[bytes] = []
        for request in batch:
            if not self.execute(request):
                continue
            counted.append(request.id)
            if self.ending is None and isinstance(request.operation, _ENDINGS):
                self.ending = request
                if isinstance(request.operation, HandoverRequested):
                    break
        return tuple(counted)

    def close(self, slot: int) -> None:
        """A slot has executed: what is over by now may be forgotten together with it."""
        if self._over:
            self._over_at[slot] = self._over
            self._over = []

    def forget_upto(self, slot: int) -> None:
        """Forget what was over when ``slot`` had executed."""
        for each in [each for each in self._over_at if each <= slot]:
            for request_id in self._over_at.pop(each):
                self._known.pop(request_id, None)

    def oldest(self) -> Request | None:
        """The unexecuted request seen first; what a replica's timer watches."""
        return next(iter(self._pending.values()), None)

    def pending(self, taken: Container[bytes] = ()) -> Iterator[Request]:
        """Unexecuted requests by arrival, but each client's by number; not those in ``taken``, and
        none that will be over by what is taken: a higher number of its client."""
        turns: dict[str, Iterator[Request]] = {}
        spent: dict[str, int] = {}
        for request in tuple(self._pending.values()):
            client = request.client
            if client not in turns:
                queue = tuple(self._queues[client])
                turns[client] = iter(queue)
                last = (each.client_seq for each in reversed(queue) if each.id in taken)
                spent[client] = next(last, -1)
            following = next(turns[client])
            if following.client_seq > spent[client] and following.id not in taken:
                yield following


def _turn(request: Request) -> tuple[int, int]:
    return request.client_seq, -request.seen
