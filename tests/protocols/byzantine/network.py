"""A deterministic network in memory: replicas, an observer, a shared list of events, virtual time.

One seed fixes everything. Every reader gets every event of the list, each at a time of its own:
late, out of order, twice, or first dropped and read again much later. Events carry no signatures
and made-up ids, unless somebody signs them. A node folds what it signs at once, as hosts must.
Faulty nodes are classes of their own, in ``adversaries``. After every delivery the invariants are
checked.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from mabeam.core.envelope import VERSION, Event, Header
from mabeam.core.errors import PeerProtocolError
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.kernel_events import (
    Body,
    CoordinationOpened,
    EvidenceSubmitted,
    Participant,
    RegistrySnapshot,
)
from mabeam.core.machine import TERMINAL_KEY, After, Append, Ask, Context, Intent, Key, LogEvent
from mabeam.protocols.byzantine import SPEC, ByzantineConfig, Group, Proof, Verdict, is_proof
from mabeam.protocols.byzantine.config import group_in
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted
from mabeam.protocols.byzantine.forensics import proofs_in
from mabeam.protocols.byzantine.replica import ByzantineReplica

REREAD_MS = 50
COORDINATION = "c-1"
OPENED = sha256(b"opened")
REQUESTED = sha256(b"requested")
REQUESTER = "r1"
"""Who asked for the coordination; a replica, as those are the clients here."""
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def names(count: int) -> tuple[str, ...]:
    """``r0``, ``r1`` …"""
    return tuple(f"r{number}" for number in range(count))


def no_secret(label: str) -> bytes:
    """Replicas have no secrets."""
    raise AssertionError(label)


def context_for(
    count: int, config: ByzantineConfig, author: str = "", overall_timeout_ms: int = 60_000
) -> Context:
    """The frozen configuration as a coordinator would open with it."""
    members = tuple(Participant(each, bytes(8), each, each, 1_000_000) for each in names(count))
    frozen, participants = SPEC.freeze(config, members)
    opened = CoordinationOpened(
        request_id=REQUESTED,
        protocol=SPEC.name,
        protocol_version=SPEC.version,
        ordering="bft",
        fault_tolerance="low_fault",
        f=frozen.f or 0,
        replicas=(),
        participants=participants,
        certificates=(),
        config={},
        overall_timeout_ms=overall_timeout_ms,
        topic="general",
        beacon=ZERO32,
        registry_snapshot=RegistrySnapshot(0, ZERO32),
    )
    return Context(
        COORDINATION, ZERO32, OPENED, opened, frozen, author, no_secret, requester=REQUESTER
    )


def group_for(count: int, config: ByzantineConfig | None = None) -> Group:
    """The group of ``count`` replicas."""
    context = context_for(count, config or ByzantineConfig(proposal="A"))
    return group_in(context)


def log_event(
    sequence: int,
    author: str,
    type_name: str,
    body: Body,
    refs: tuple[bytes, ...] = (),
    author_seq: int = 0,
) -> LogEvent:
    """An unsigned event at its place in the log."""
    data = _encode(body)
    event_id = sha256(f"{sequence}:{author}:{type_name}".encode())
    header = Header(
        VERSION, COORDINATION, ZERO32, type_name, author, bytes(8), author_seq, ZERO32, refs,
        sequence, sha256(data),
    )  # fmt: skip
    return LogEvent(sequence, sequence, Event(event_id, header, b"", b"", data, b""), body)


class Signing(Protocol):
    """Gives events real keys and an opening that names them."""

    def context(self, context: Context) -> Context:
        """The same configuration as really opened."""

    def event(self, draft: LogEvent) -> LogEvent:
        """The same event, signed by its author."""


class Node:
    """An honest replica and the part of a host that matters: it publishes and keeps time."""

    honest = True
    correct = True

    def __init__(self, network: Network, author: str) -> None:
        self.network = network
        self.author = author
        self.machine = ByzantineReplica(network.context(author))
        self.seen: dict[bytes, int] = {network.opened_id: 0, REQUESTED: 0}
        self.signed = 0
        self.checked = 0
        self.executed: list[bytes] = []
        self.wake_at = -1
        self.reading: set[bytes] = set()

    def receive(self, event: LogEvent) -> None:
        """Fold an event and do what follows."""
        self.seen.setdefault(event.id, self.network.now)
        self.fold(event)
        self.react()

    def fold(self, event: LogEvent) -> None:
        """Fold an event; a rejection is the peer's fault and has no effect."""
        try:
            self.machine.apply(event)
        except PeerProtocolError as error:
            self.network.rejections.append((self.author, event.author, error.reason))
        self.network.check(self)

    def react(self) -> None:
        """Carry out every intent; what was signed is folded before the next one is asked for."""
        while (append := self.due()) is not None:
            self.publish(append)
        for event_id in sorted(self.machine.wanted() - self.reading):
            self.reading.add(event_id)
            self.network.at(self.network.now + REREAD_MS, partial(self.reread, event_id))

    def reread(self, event_id: bytes) -> None:
        """Look an event up in the log, now or later when it is not there yet."""
        self.reading.discard(event_id)
        event = self.network.find(event_id)
        if event is not None and event_id in self.machine.wanted():
            self.receive(event)

    def due(self) -> Append | None:
        """The next thing to sign now, and a wake-up for the next timer."""
        next_wake = -1
        for intent in self.machine.intents():
            append, at = self.now_or_at(intent)
            if append is not None:
                return append
            if at >= 0 and (next_wake < 0 or at < next_wake):
                next_wake = at
        if next_wake >= 0 and next_wake != self.wake_at:
            self.wake_at = next_wake
            self.network.at(next_wake, self.react)
        return None

    def now_or_at(self, intent: Intent) -> tuple[Append | None, int]:
        """What to append now, or when to look again."""
        if isinstance(intent, Append):
            return intent, -1
        if isinstance(intent, Ask):
            return intent.reply(self.network.verdict(self.author)), -1
        assert isinstance(intent, After)
        due = self.seen[intent.since] + intent.delay_ms
        return (intent.then, -1) if due <= self.network.now else (None, due)

    def publish(self, append: Append) -> None:
        """Sign, publish, fold."""
        self.sign(append.type, append.body, append.refs)

    def sign(self, kind: str, body: Body, refs: tuple[bytes, ...] = ()) -> LogEvent:
        """Publish an event of this author."""
        event = self.network.append(self, kind, body, refs)
        self.seen[event.id] = self.network.now
        self.fold(event)
        return event


class Schedule(msgspec.Struct, frozen=True):
    """How the log reaches its readers: delays in ms, chances in percent."""

    delay_ms: int = 40
    late_percent: int = 8
    late_ms: int = 1_500
    duplicate_percent: int = 5


class Network:
    """The world of one coordination.

    Args:
        count: n.
        seed: fixes every delay.
        config: parameters.
        faulty: class of the node per faulty replica.
        cut: events that never reach a reader, ``(reader, event)``.
        signed_by: who signs the events; nobody by default.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        config: ByzantineConfig | None = None,
        faulty: Mapping[str, Callable[[Network, str], Iterable[Node]]] | None = None,
        *,
        schedule: Schedule | None = None,
        overall_timeout_ms: int = 10_000_000,
        cut: Callable[[Node, LogEvent], bool] | None = None,
        signed_by: Signing | None = None,
    ) -> None:
        self.signed_by = signed_by
        self.count = count
        self.random = random.Random(seed)
        self.config = config or ByzantineConfig(proposal="A", view_timeout_ms=1_000)
        self.schedule = schedule or Schedule()
        self.overall_timeout_ms = overall_timeout_ms
        self.cut = cut
        self.group = group_for(count, self.config)
        self.now = 0
        self.log: list[LogEvent] = []
        self._by_id: dict[bytes, LogEvent] = {}
        self.rejections: list[tuple[str, str, str]] = []
        self.digests: dict[int, bytes] = {}
        self.roots: dict[int, bytes] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.forks_expected = False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.opened_id = self.context("").opened_id
        self.observer = ByzantineCoordinator(self.context(""))
        self.evidence: dict[tuple[str, str], EvidenceSubmitted] = {}
        self.observed: dict[bytes, int] = {OPENED: 0}
        self._timed: set[Key] = set()
        self.terminals: list[Append] = []
        self.nodes: list[Node] = []
        for name in names(count):
            make = (faulty or {}).get(name)
            self.nodes.extend(make(self, name) if make else (Node(self, name),))
        self.honest = [node for node in self.nodes if node.honest]

    def context(self, author: str) -> Context:
        """What a machine of this network knows from the start."""
        context = context_for(self.count, self.config, author, self.overall_timeout_ms)
        return self.signed_by.context(context) if self.signed_by else context

    def verdict(self, author: str) -> Verdict:
        """What an agent says about a proposal."""
        return self.verdicts.get(author, Verdict.accept())

    def at(self, time: int, action: Callable[[], None]) -> None:
        """Do something later."""
        self._order += 1
        heapq.heappush(self._queue, (time, self._order, action))

    def append(self, sender: Node, kind: str, body: Body, refs: tuple[bytes, ...] = ()) -> LogEvent:
        """Append an event and send it to all other readers."""
        event = log_event(len(self.log) + 1, sender.author, kind, body, refs, sender.signed)
        if self.signed_by is not None:
            event = self.signed_by.event(event)
        sender.signed += 1
        self.log.append(event)
        self._by_id[event.id] = event
        self._observe(event)
        for node in self.nodes:
            if node is not sender and not (self.cut and self.cut(node, event)):
                self._send(node, event)
        return event

    def find(self, event_id: bytes) -> LogEvent | None:
        """An event of the log by id."""
        return self._by_id.get(event_id)

    def _send(self, node: Node, event: LogEvent) -> None:
        chance, schedule = self.random.random, self.schedule
        delay = 1 + int(chance() * schedule.delay_ms)
        if chance() * 100 < schedule.late_percent:
            delay += int(chance() * schedule.late_ms)
        self.at(self.now + delay, lambda: node.receive(event))
        if chance() * 100 < schedule.duplicate_percent:
            again = self.now + delay + 1 + int(chance() * schedule.late_ms)
            self.at(again, lambda: node.receive(event))

    def _observe(self, event: LogEvent) -> None:
        """The observer reads the log as it is."""
        self.observed[event.id] = self.now
        try:
            self.observer.apply(event)
        except PeerProtocolError as error:
            self.rejections.append(("", event.author, error.reason))
        for intent in self.observer.intents():
            if isinstance(intent, Append) and intent.key == TERMINAL_KEY:
                if intent not in self.terminals:
                    self.terminals.append(intent)
            elif isinstance(intent, Append):
                assert isinstance(intent.body, EvidenceSubmitted)
                self.evidence[intent.body.rule, intent.body.accused] = intent.body
            elif isinstance(intent, After) and intent.key not in self._timed:
                self._timed.add(intent.key)
                due = self.observed.get(intent.since, 0) + intent.delay_ms
                self.at(due, partial(self._settle, intent))

    def _settle(self, after: After) -> None:
        if after in self.observer.intents():
            body = after.then.body
            event = log_event(len(self.log) + 1, "coordinator", after.then.type, body)
            self.log.append(event)
            self._observe(event)

    def submit(self, client: str, operation: Any, client_seq: int = 1, at: int = 0) -> None:
        """A client's request at some time; its author is the replica of that name."""
        node = next(node for node in self.nodes if node.author == client)

        def request() -> None:
            node.sign(REQUEST, RequestSubmitted(client_seq, operation))
            node.react()

        self.at(at, request)

    def run(self, until: Callable[[], bool], limit_ms: int = 600_000) -> bool:
        """Deliver until a condition holds; whether it did within the limit of virtual time."""
        for node in self.nodes:
            node.react()
        while self._queue and not until():
            time, _, action = heapq.heappop(self._queue)
            if time > limit_ms:
                return False
            self.now = time
            action()
        return until()

    def decided(self) -> bool:
        """Whether every honest replica has decided."""
        return all(node.machine.is_decided for node in self.honest)

    def executed(self, requests: int) -> Callable[[], bool]:
        """Whether every honest replica has executed that many requests."""
        return lambda: all(len(node.executed) >= requests for node in self.honest)

    def check(self, node: Node) -> None:
        """Agreement, integrity and validity, after every delivery."""
        executor = node.machine.executor
        if not node.honest or self.forks_expected:
            return
        assert executor.fork is None, f"{node.author} sees a fork"
        for slot in executor.log:  # its beginning is dropped in time, never before it was seen here
            if slot.sequence <= node.checked:
                continue
            agreed = self.digests.setdefault(slot.sequence, slot.digest)
            assert agreed == slot.digest, f"slot {slot.sequence} has two digests"
            assert slot.sequence == node.checked + 1
            node.checked += 1
            assert self.roots.setdefault(slot.sequence, slot.root) == slot.root
            assert all(each in node.machine.requests for each in slot.requests)
            node.executed.extend(slot.requests)
            assert len(node.executed) == len(set(node.executed)), "executed twice"
        assert executor.executed == node.checked

    def finish(self) -> None:
        """What holds at the end: one state per prefix, and nobody who is correct is accused."""
        roots: dict[int, bytes] = {}
        for node in self.honest:
            for slot in node.machine.executor.log:
                assert roots.setdefault(slot.sequence, slot.root) == slot.root
        self.check_evidence()

    def check_evidence(self) -> None:
        """Every accusation is proven by its events, and true; the coordinator's are of the log."""
        correct = {node.author for node in self.nodes if node.correct}
        found = list(proofs_in(self.log, self.group))
        assert not correct & {proof.accused for proof in found}
        known = {(proof.rule, proof.accused) for proof in found}
        for (rule, accused), evidence in self.evidence.items():
            assert (rule, accused) in known
            events = tuple(self._by_id[each] for each in evidence.proof_ids)
            assert is_proof(Proof(rule, accused, events), self.group), (rule, accused)
