"""A replica that begins with a snapshot does what one that never stopped does, and never less.

Replicas of random worlds restart at every stable checkpoint: with the log as it was, or with
nothing of it but their own journal, and what the log lost coming back much later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import pytest

from mabeam.core.errors import PeerProtocolError
from mabeam.core.kernel_events import Body
from mabeam.core.machine import After, Append, Intent, Key, LogEvent, Snapshot
from mabeam.protocols.byzantine import ByzantineConfig, snapshots
from mabeam.protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    PreparedEntry,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.replica import ByzantineReplica
from tests.protocols.byzantine.adversaries import ADVERSARIES
from tests.protocols.byzantine.network import Network, Node, Schedule, names
from tests.protocols.byzantine.signed import Signatures
from tests.protocols.simple.test_mutants import Mutant, applied

SIZES = (4, 7)
SEEDS = range(4)
WAVES = 6
LOST_FOR_MS = 3_000

_KEYS: dict[str, Callable[[Any], Key]] = {
    PRE_PREPARE: lambda body: ("pre_prepare", body.view, body.sequence),
    PREPARE: lambda body: ("prepare", body.view, body.sequence),
    COMMIT: lambda body: ("commit", body.view, body.sequence),
    CHECKPOINT: lambda body: ("checkpoint", body.sequence),
    VIEW_CHANGE: lambda body: ("view_change", body.new_view),
    NEW_VIEW: lambda body: ("new_view", body.new_view),
    DEADLINE_PASSED: lambda body: ("deadline", body.name),
}


class Restarting(Node):
    """Restarts whenever a snapshot can be taken; what was signed is folded without a position."""

    loses_the_log = False

    def __init__(self, network: Network, author: str) -> None:
        super().__init__(network, author)
        self.own: dict[Key, LogEvent] = {}
        self.heard: dict[bytes, LogEvent] = {}  # and folded by the present machine
        self.ever: dict[bytes, LogEvent] = {}
        self.taken = 0
        self.compared = 0
        self.dropped = 0

    def receive(self, event: LogEvent) -> None:
        """Fold an event, and begin anew if that made a checkpoint stable."""
        self.ever[event.id] = self.heard[event.id] = event
        super().receive(event)
        if self.machine.milestone() > self.taken:
            self.restart()

    def sign(self, kind: str, body: Body, refs: tuple[bytes, ...] = ()) -> LogEvent:
        """Publish an event, and keep it."""
        event = self.network.append(self, kind, body, refs)
        self.ever[event.id] = event
        self.seen[event.id] = self.network.now
        if kind == REQUEST:
            self.heard[event.id] = event
        else:
            event = self.own[_KEYS[kind](body)] = msgspec.structs.replace(event, sequence=0)
        self.fold(event)
        return event

    def restart(self) -> None:
        """Go on with a machine that has nothing but a snapshot and what that leaves."""
        if not self.loses_the_log:
            self.read_wanted(self.machine)
            self.network.check(self)
        snapshot = self.machine.snapshot()
        assert snapshot is not None
        before, self.taken = self.machine, self.machine.milestone()
        kept = {key: event for key, event in self.own.items() if not before.is_settled(key)}
        self.dropped += len(self.own) - len(kept)
        self.own = kept
        wanted = [event for event in self.heard.values() if _is_needed(event, snapshot)]
        other = self.restored(snapshot, kept.values(), wanted)
        if not self.loses_the_log:  # else this machine may know more than came back
            assert state_of(other) == state_of(before)
        self.compared += 1
        if self.loses_the_log:
            other, self.heard = self.restored(snapshot, kept.values(), ()), {}
            for what in ("executed", "checkpoint", "view", "prepared"):
                assert state_of(other)[what] == state_of(before)[what]
            later = partial(self.deliver, wanted)
            self.network.at(self.network.now + LOST_FOR_MS, later)
        self.machine = other
        self.react()

    def deliver(self, events: Iterable[LogEvent]) -> None:
        """What the log had lost is there again."""
        for event in events:
            self.receive(event)

    def restored(
        self, snapshot: Snapshot, own: Iterable[LogEvent], others: Iterable[LogEvent]
    ) -> ByzantineReplica:
        """A machine after a restart."""
        machine = ByzantineReplica(self.network.context(self.author))
        machine.restore(snapshot.state)
        _fold(machine, (*own, *others))
        if others:
            self.read_wanted(machine)
        return machine

    def read_wanted(self, machine: ByzantineReplica) -> None:
        """Fold what the machine wants, as far as it has been heard."""
        _fold(machine, [self.ever[each] for each in sorted(machine.wanted() & self.ever.keys())])


class Bereft(Restarting):
    """Restarts with its journal only; the log comes later."""

    loses_the_log = True


def _fold(machine: ByzantineReplica, events: Iterable[LogEvent]) -> None:
    for event in events:
        try:
            machine.apply(event)
        except PeerProtocolError:
            continue


def _is_needed(event: LogEvent, snapshot: Snapshot) -> bool:
    newer = snapshot.needs is not None and event.sequence >= snapshot.needs
    return newer or event.sequence in snapshot.again


def state_of(machine: ByzantineReplica) -> dict[str, Any]:
    """What must be the same after a restart."""
    stable, executed = machine.checkpoints.stable, machine.executor.executed
    views = machine.views
    return {
        "executed": (executed, machine.executor.root, machine.requests.executed()),
        "checkpoint": (stable, machine.checkpoints.root, machine.checkpoints.proof),
        "view": (views.view, views.is_active, views.standing, views.floor, views.top),
        "timeout": (machine.productive_view, machine.suspected),
        "prepared": [_entry(machine.prepared[slot]) for slot in sorted(machine.prepared)],
        "pending": [request.id for request in machine.requests.pending()],
        "intents": sorted(
            str(_said(each)) for each in machine.intents() if _counts(each, executed)
        ),
    }


def _entry(entry: PreparedEntry) -> tuple[int, int, bytes]:
    return entry.sequence, entry.view, entry.batch_digest


def _counts(intent: Intent, executed: int) -> bool:
    """Votes in slots that have executed already may be left out: their certificate exists."""
    is_vote = intent.key[0] in ("prepare", "commit")
    return not (is_vote and int(intent.key[2]) <= executed)


def _said(intent: Intent) -> tuple[Any, ...]:
    """An intent but for which of several prepares it names, and since when it waits."""
    append = intent.then if isinstance(intent, After) else intent
    assert isinstance(append, Append)
    body: Any = append.body
    if isinstance(body, ViewChangeSent):
        entries = [_entry(entry) for entry in body.prepared]
        body = body.new_view, body.stable_sequence, body.checkpoint_ids, entries
    return type(intent).__name__, intent.key, append.type, body


def service(count: int, adversary: str, seed: int, honest: type[Restarting]) -> Network:
    """A service whose honest replicas restart all the time."""
    draw = random.Random(f"{count}:{adversary}:{seed}")
    config = ByzantineConfig(
        mode="service",
        view_timeout_ms=1_000,
        checkpoint_interval=1 + draw.randrange(2),
        window=4,
        batch_max_requests=1 + draw.randrange(2),
        batch_delay_ms=20,
    )
    number = (count - 1) // 3
    faulty = ["r0", *draw.sample(names(count)[1:], number - 1)]
    makers: dict[str, Any] = dict.fromkeys(names(count), lambda *given: (honest(*given),))
    if adversary != "none":
        makers |= dict.fromkeys(faulty, ADVERSARIES[adversary])
    schedule = Schedule(delay_ms=20 + draw.randrange(60), late_percent=draw.randrange(15))
    network = Network(count, seed, config, makers, schedule=schedule, signed_by=Signatures())
    for wave in range(1, WAVES + 1):
        for node in network.honest[:3]:
            at = (wave - 1) * 1_500 + draw.randrange(200)
            network.submit(node.author, f"{node.author}-{wave}", wave, at)
    return network


def play(network: Network) -> list[Restarting]:
    """Run to the end; the honest replicas."""
    last = {node.author: WAVES for node in network.honest[:3]}  # it may overtake earlier ones

    def done() -> bool:
        return all(dict(node.machine.requests.executed()) == last for node in network.honest)

    assert network.run(done), f"no progress until {network.now} ms"
    network.finish()
    return [node for node in network.honest if isinstance(node, Restarting)]


@pytest.mark.parametrize("honest", [Restarting, Bereft])
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("adversary", ["none", *ADVERSARIES])
def test_restarts_at_every_checkpoint_change_nothing(
    adversary: str, count: int, honest: type[Restarting]
) -> None:
    compared = dropped = 0
    for seed in SEEDS:
        for node in play(service(count, adversary, seed, honest)):
            compared += node.compared
            dropped += node.dropped
    assert compared > 5 * len(SEEDS)
    assert dropped > len(SEEDS)


MUTANTS = (
    Mutant(
        "entries settled too early",
        snapshots.is_settled,
        "- replica.group.window",
        "+ replica.group.window",
    ),
    Mutant(
        "snapshot without its checkpoint proof",
        snapshots.take,
        "tuple(_stored(event) for event in proof if event is not None)",
        "()",
    ),
    Mutant(
        "snapshot without prepare certificates",
        snapshots.take,
        "tuple(_above(replica.prepared, book.stable))",
        "()",
    ),
    Mutant("snapshot without its view", snapshots._view, "views.view,", "0,"),
    Mutant(
        "snapshot without executed numbers", snapshots.take, "replica.requests.executed(),", "(),"
    ),
    Mutant(
        "snapshot of a state that is not the checkpoint's",
        snapshots.take,
        "executor.root_after(book.stable) != book.root",
        "False",
    ),
)


def check_restarts() -> None:
    """Some worlds that notice every wrong version."""
    for seed in range(3):
        for honest in (Restarting, Bereft):
            play(service(4, "silent", seed, honest))
    wrong_root()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_mutant_is_noticed(mutant: Mutant) -> None:
    with applied(mutant), pytest.raises((AssertionError, ValueError)):
        check_restarts()


def test_right_version_is_not() -> None:
    check_restarts()


def wrong_root() -> None:
    """A replica whose state is not what the others have keeps it to itself."""
    network = service(4, "none", 1, Restarting)
    node = play(network)[0]
    machine = ByzantineReplica(network.context(node.author))
    for event in network.log:
        _fold(machine, [event])
    assert machine.snapshot() is not None
    machine.checkpoints.root = bytes(32)
    assert machine.snapshot() is None


def test_nothing_is_offered_before_it_is_stable_and_executed() -> None:
    network = service(4, "none", 1, Restarting)
    machine = ByzantineReplica(network.context("r1"))
    assert machine.milestone() == 0
    assert machine.snapshot() is None
    assert not machine.is_settled(("commit", 0, 1))
