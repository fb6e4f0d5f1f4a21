"""The stage of a Byzantine scenario: real replica machines, one log, a director who decides what
reaches whom.

It is the deterministic network of the protocol's tests without its chance: every event reaches
every replica ``LATENCY_MS`` after it was appended unless a rule says otherwise, and the coordinator
at once. The coordinator appends evidence, its deadline and terminal events like a host does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from mabeam.core.errors import PeerProtocolError
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.kernel_events import Body
from mabeam.core.machine import TERMINAL_KEY, After, Append, Intent, LogEvent
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.digests import null_digest
from tests.protocols.byzantine.network import (
    COORDINATION,
    OPENED,
    REQUESTED,
    Network,
    Node,
    log_event,
    names,
)

LATENCY_MS = 10
COORDINATOR = "coordinator"


def short(type_name: str) -> str:
    """``byzantine.prepare_sent`` as ``prepare``."""
    name = type_name.removeprefix("byzantine.").removeprefix("coordination.")
    return name.removesuffix("_sent").removesuffix("_submitted").removesuffix("_taken")


class Pattern(msgspec.Struct, frozen=True):
    """Which deliveries a rule is about; empty fields match all.

    Attributes:
        kinds: short event types.
        authors, readers: ids; the reader ``*`` is everybody, none are the replicas.
        view, slot: of votes and proposals; ``view`` is the new one of view changes.
        digest: how the batch digest of a vote or proposal begins, in hexadecimal.
    """

    kinds: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    view: int | None = None
    slot: int | None = None
    digest: str = ""

    def matches(self, reader: str, event: LogEvent) -> bool:
        """Whether the delivery of an event to a reader is meant."""
        content = event.content
        view = getattr(content, "new_view", getattr(content, "view", None))
        return (
            (not self.kinds or short(event.type) in self.kinds)
            and (not self.authors or event.author in self.authors)
            and (not {reader, "*"}.isdisjoint(self.readers or _replicas_only(reader)))
            and self.view in (None, view)
            and self.slot in (None, getattr(content, "sequence", None))
            and getattr(content, "batch_digest", b"").hex().startswith(self.digest)
        )


def _replicas_only(reader: str) -> tuple[str, ...]:
    return () if reader == COORDINATOR else (reader,)


class Rule(msgspec.Struct, frozen=True):
    """What happens to deliveries.

    Attributes:
        pattern: to which.
        fate: ``delay``, ``withhold`` until delivered, or ``lose``: found only by reading again.
        delay_ms: how long, for ``delay``.
    """

    pattern: Pattern
    fate: str
    delay_ms: int = 0


class Player(Node):
    """A replica on the stage; what it does and refuses goes into the trace."""

    network: Stage

    def __init__(self, network: Stage, author: str) -> None:
        super().__init__(network, author)
        self.seen_view = (0, True)
        self.seen_decisions = 0
        self.seen_executed = 0
        self.seen_stable = 0
        self.seen_fork = False

    def fold(self, event: LogEvent) -> None:
        """Fold an event, and tell what it changed."""
        try:
            self.machine.apply(event)
        except PeerProtocolError as error:
            evidence = " ".join(sorted(self.network.name(each) for each in error.evidence))
            told = f"! {self.network.name(event.id)} {error.reason} {evidence}".rstrip()
            self.tell(told)
        self.network.check(self)
        self.report()

    def tell(self, text: str) -> None:
        """A note of this replica."""
        self.network.note(self.author, text)

    def report(self) -> None:
        """What the last event changed."""
        machine, name = self.machine, self.network.name
        view = (machine.views.view, machine.views.is_active)
        if view != self.seen_view:
            self.tell(f"enters view {view[0]}" if view[1] else f"leaves for view {view[0]}")
            self.seen_view = view
        for decision in [*machine.executor.decisions.values()][self.seen_decisions :]:
            slot, digest = decision.sequence, name(decision.digest)
            self.tell(f"commits s{slot} {digest} by a certificate of view {decision.view}")
        self.seen_decisions = len(machine.executor.decisions)
        for done in machine.executor.log[self.seen_executed :]:
            requests = " ".join(map(name, done.requests)) or "nothing"
            self.tell(f"executes s{done.sequence}: {requests}, state {name(done.root)}")
        self.seen_executed = machine.executor.executed
        if machine.checkpoints.stable != self.seen_stable:
            self.seen_stable = machine.checkpoints.stable
            self.tell(f"has a stable checkpoint at s{self.seen_stable}")
        if machine.executor.fork is not None and not self.seen_fork:
            self.seen_fork = True
            self.tell("sees a fork and halts")

    def react(self) -> None:
        """Carry out the intents; a view may be entered by what was signed."""
        super().react()
        self.report()

    def reread(self, event_id: bytes) -> None:
        """Read an event again, unless the director withholds it."""
        event = self.network.find(event_id)
        if event is None or not self.network.is_held(self.author, event):
            super().reread(event_id)
        else:
            self.reading.discard(event_id)


class Puppet(Player):
    """A faulty replica: it folds, and signs nothing of its own of the muted kinds.

    Attributes:
        muted: short event types; empty for all.
    """

    honest = False
    muted: frozenset[str] = frozenset()

    def tell(self, text: str) -> None:
        """What a liar concludes is nobody's business."""

    def now_or_at(self, intent: Intent) -> tuple[Append | None, int]:
        """Nothing that is muted, now or later."""
        then = intent.then if isinstance(intent, After) else intent
        if not self.muted or (isinstance(then, Append) and short(then.type) in self.muted):
            return None, -1
        return super().now_or_at(intent)


class Stage(Network):
    """The network whose schedule is a script.

    Args:
        count: n.
        config: parameters.
        faulty: muted kinds by faulty replica.
        rules: what happens to deliveries, the first that matches.
        overall_timeout_ms: overall time-out.
    """

    def __init__(
        self,
        count: int,
        config: ByzantineConfig,
        faulty: dict[str, frozenset[str]],
        rules: list[Rule],
        overall_timeout_ms: int,
    ) -> None:
        def cast(network: Network, author: str) -> Iterable[Node]:
            assert isinstance(network, Stage)
            if author not in faulty:
                return (Player(network, author),)
            puppet = Puppet(network, author)
            puppet.muted = faulty[author]
            return (puppet,)

        self.rules = rules
        self.held: list[tuple[str, LogEvent]] = []
        self.trace: list[tuple[int, str, list[str]]] = []
        self.ended: Append | None = None
        self.signed: dict[str, int] = {}
        self._waits: set[tuple[Any, ...]] = set()
        makers = dict.fromkeys(names(count), cast)
        super().__init__(count, 0, config, makers, overall_timeout_ms=overall_timeout_ms)
        self.forks_expected = len(faulty) > self.group.f
        for node in self.nodes:
            self.at(0, node.react)

    # The log ------------------------------------------------------------------------------------

    def append(self, sender: Node, kind: str, body: Body, refs: tuple[bytes, ...] = ()) -> LogEvent:
        """Append an event of a replica."""
        return self.put(sender.author, kind, body, refs)

    def put(self, author: str, kind: str, body: Body, refs: tuple[bytes, ...] = ()) -> LogEvent:
        """Append an event of anybody and send it to all readers."""
        number = self.signed.get(author, 0)
        self.signed[author] = number + 1
        event = log_event(len(self.log) + 1, author, kind, body, refs, number)
        self.log.append(event)
        self._by_id[event.id] = event
        self.trace.append((self.now, event.id.hex(), []))
        if author == COORDINATOR:
            self.observe(event)
            return event
        for reader in (COORDINATOR, *names(self.count)):
            if reader != author:
                self.direct(reader, event)
        return event

    def direct(self, reader: str, event: LogEvent) -> None:
        """Send an event to a reader as the rules say."""
        rule = next((each for each in self.rules if each.pattern.matches(reader, event)), None)
        if rule is not None and rule.fate != "delay":
            if rule.fate == "withhold":
                self.held.append((reader, event))
            return
        delay = 0 if reader == COORDINATOR else LATENCY_MS
        delay = delay if rule is None else rule.delay_ms
        if delay:
            self.at(self.now + delay, partial(self.give, reader, event))
        else:
            self.give(reader, event)

    def give(self, reader: str, event: LogEvent) -> None:
        """A reader gets an event."""
        if reader == COORDINATOR:
            self.observe(event)
        else:
            self.node(reader).receive(event)

    def node(self, author: str) -> Node:
        """The replica of that name."""
        return next(node for node in self.nodes if node.author == author)

    def is_held(self, reader: str, event: LogEvent) -> bool:
        """Whether the director withholds the event from the reader."""
        return any(reader == who and event is what for who, what in self.held)

    def release(self, pattern: Pattern | None) -> None:
        """End the rules with that pattern, all without one, and deliver what they held."""
        self.rules[:] = [rule for rule in self.rules if pattern not in (None, rule.pattern)]
        held, self.held = self.held, []
        for reader, event in held:
            if pattern is None or pattern.matches(reader, event):
                self.give(reader, event)
            else:
                self.held.append((reader, event))

    # The coordinator ----------------------------------------------------------------------------

    def observe(self, event: LogEvent) -> None:
        """The coordinator folds an event and does what it intends."""
        self.observed[event.id] = self.now
        try:
            self.observer.apply(event)
        except PeerProtocolError as error:
            evidence = " ".join(sorted(self.name(each) for each in error.evidence))
            self.note(COORDINATOR, f"! {self.name(event.id)} {error.reason} {evidence}".rstrip())
        self.coordinate()

    def coordinate(self) -> None:
        """Append what is due; after a terminal event only a certificate that replaces it."""
        while (due := self.due()) is not None:
            if due.key == TERMINAL_KEY:
                self.ended = due
            self.put(COORDINATOR, due.type, due.body, due.refs)

    def due(self) -> Append | None:
        """What the coordinator would append now."""
        for intent in self.observer.intents():
            if isinstance(intent, Append) and self.may_append(intent):
                return intent
            if isinstance(intent, After) and self.ended is None and intent.key not in self._waits:
                self._waits.add(intent.key)
                at = self.observed[intent.since] + intent.delay_ms
                self.at(at, partial(self.settle, intent))
        return None

    def may_append(self, append: Append) -> bool:
        """Whether it may still follow."""
        if self.ended is None:
            return True
        final = getattr(self.ended.body, "final", True)
        return append.type == "coordination.decided" and not final

    def settle(self, after: After) -> None:
        """The coordinator's own deadline."""
        if self.ended is None and after in self.observer.intents():
            self.put(COORDINATOR, after.then.type, after.then.body, after.then.refs)
            self.coordinate()

    # Time and trace -----------------------------------------------------------------------------

    def pass_time(self, milliseconds: int) -> None:
        """Let everything happen that falls due within that time."""
        end = self.now + milliseconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def note(self, who: str, text: str) -> None:
        """Something a reader concluded; equal notes of one instant are one line."""
        for at, said, readers in reversed(self.trace):
            if at != self.now:
                break
            if said == text and readers:
                if who not in readers:
                    readers.append(who)
                return
        self.trace.append((self.now, text, [who]))

    def name(self, value: bytes) -> str:
        """An event as ``@sequence``; the null batch, the proposal, a lie; else eight digits."""
        event = self._by_id.get(value)
        if event is not None:
            return f"@{event.sequence}"
        known = _KNOWN.get(value)
        if known is not None:
            return known
        return value.hex()[:8]


_KNOWN = {
    ZERO32: "0",
    OPENED: "@opened",
    REQUESTED: "@proposal",
    **{sha256(word.encode()): word for word in ("lie", "unknown")},
    **{null_digest(COORDINATION, slot): f"null{slot}" for slot in range(1, 33)},
}
