"""A replica of a service holds what its window needs, however much it has ordered."""

from __future__ import annotations

import gc
import types
from collections import deque
from typing import Any

import pytest

from mabeam.core.machine import After, Append, LogEvent
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted
from mabeam.protocols.byzantine.replica import ByzantineReplica
from tests.protocols.byzantine.network import context_for, log_event, names

CLIENTS = ("ann", "bob")
OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


class Service:
    """Four replicas that hear everything at once, and an observer."""

    def __init__(self) -> None:
        config = ByzantineConfig(
            mode="service", checkpoint_interval=4, window=8, batch_max_requests=10
        )
        self.replicas = {
            name: ByzantineReplica(context_for(4, config, name, 10**9)) for name in names(4)
        }
        self.observer = ByzantineCoordinator(context_for(4, config, "", 10**9))
        self.ordered = 0
        self._log = 0
        self._signed: dict[str, int] = {}
        self._queue: deque[LogEvent] = deque()

    def order(self, requests: int) -> None:
        """Have that many more requests executed by all."""
        goal = self.ordered + requests
        while self.ordered < goal:
            for number in range(20):
                client = CLIENTS[number % len(CLIENTS)]
                self._sign(client, REQUEST, RequestSubmitted(self._signed.get(client, 0), number))
            self.ordered += 20
            self._settle()

    def _sign(self, author: str, kind: str, body: Any, refs: tuple[bytes, ...] = ()) -> None:
        self._log += 1
        number = self._signed.get(author, 0)
        self._signed[author] = number + 1
        self._queue.append(log_event(self._log, author, kind, body, refs, number))

    def _settle(self) -> None:
        """Deliver and answer until nobody has anything to say; only full batches are waited for."""
        while self._queue:
            while self._queue:
                event = self._queue.popleft()
                for machine in (*self.replicas.values(), self.observer):
                    machine.apply(event)
            for name, replica in self.replicas.items():
                for intent in tuple(replica.intents()):
                    if isinstance(intent, After) and intent.key[0] == "pre_prepare":
                        intent = intent.then
                    if isinstance(intent, Append):
                        self._sign(name, intent.type, intent.body, intent.refs)


def held(root: object) -> int:
    """Objects reachable from a machine, bytes and numbers included."""
    seen: set[int] = set()
    count = 0
    stack = [root]
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, OPAQUE):
            continue
        seen.add(id(each))
        count += 1
        stack.extend(gc.get_referents(each))
    return count


def check_growth(early: int, late: int) -> None:
    service = Service()
    service.order(early)
    before = {name: held(replica) for name, replica in service.replicas.items()}
    observed = held(service.observer)
    service.order(late - early)
    roots = {replica.executor.root for replica in service.replicas.values()}
    assert roots == {service.observer.executor.root}
    assert service.observer.executor.executed >= late // 10
    for name, replica in service.replicas.items():
        assert replica.executor.executed == service.observer.executor.executed
        assert held(replica) <= before[name] * 1.2, name
    assert held(service.observer) > observed * 2, "an observer keeps what evidence needs"


def test_memory_does_not_grow_with_what_was_ordered() -> None:
    check_growth(1_000, 4_000)


@pytest.mark.slow
def test_memory_after_many_operations() -> None:
    check_growth(5_000, 100_000)
