"""Two requests under one number of their author: every reader takes the one that was ordered."""

from __future__ import annotations

import contextlib

import pytest
from replica_log import KNOWN, ReplicaLog, no_secret

from mabeam.core.coordination import Coordination
from mabeam.core.errors import PeerProtocolError
from mabeam.core.kernel_events import Body, CancelRequested
from mabeam.core.machine import LogEvent
from mabeam.protocols.byzantine.events import CANCEL, HANDOVER, HandoverRequested
from mabeam.protocols.byzantine.fold import ByzantineFold

CANCELS = (CANCEL, CancelRequested("one"), CancelRequested("two"))
HANDOVERS = (HANDOVER, HandoverRequested("c-2"), HandoverRequested("c-3"))


def read(log: ReplicaLog, events: list[LogEvent]) -> ByzantineFold:
    """A replica that is shown these events in this order, then what it wants."""
    fold = Coordination(
        "c1",
        KNOWN,
        log.replay.keyring.public_key,
        role="participant",
        author="r3",
        secret=no_secret,
        invited=True,
    )
    for event in events:
        with contextlib.suppress(PeerProtocolError):
            fold.apply(event)
    machine = fold.machine
    assert isinstance(machine, ByzantineFold)
    for event in events:
        if event.id in machine.wanted():
            with contextlib.suppress(PeerProtocolError):
                fold.fold_again(event)
    return machine


@pytest.mark.parametrize("at", ["once", "the end"])
@pytest.mark.parametrize(("kind", "one", "two"), [CANCELS, HANDOVERS])
def test_whichever_comes_first(kind: str, one: Body, two: Body, at: str) -> None:
    log = ReplicaLog(mode="service", batch_max_requests=1)
    log.act()
    log.append("client", kind, one, "pub")
    log.fork("client", kind, two)
    log.act()
    events = log.events()
    ordered = log.machine.executor.executed
    assert ordered == 2
    first, second = (event for event in events if event.type == kind)
    others = [event for event in events if event not in (first, second)]
    place = events.index(first)
    where = place if at == "once" else len(others)
    other_order = [*others[:place], second, *others[place:where], first, *others[where:]]
    machine = read(log, other_order)
    assert machine.executor.executed == ordered
    assert machine.executor.root == log.machine.executor.root
    assert first.id not in machine.wanted()
