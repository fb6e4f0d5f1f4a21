"""A replica on strings: correct code inside, and a hand that decides what really leaves.

The machine is the production one and is told that it signed what it wanted to sign. What is signed
and stored instead, next to it, later, or not at all is a subclass's affair. There is no journal and
no scruple: this is how a liar who knows the protocol would be built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from ....core.coordination import Coordination
from ....core.envelope import VERSION, Event, Header
from ....core.errors import PeerProtocolError
from ....core.hashing import ZERO32, sha256
from ....core.kernel_events import Body
from ....core.machine import TERMINAL_KEY, After, Append, Ask, Intent, Key, LogEvent
from ....core.sim.adversary import DishonestAgent
from ....protocols.byzantine import Verdict
from ....protocols.byzantine.replica import ByzantineReplica

PROTOCOL = "byzantine_consensus"
REREAD_S = 0.2
LINGER_S = 2.0

MAX_STRIKES = 8
"""Times one adversary holds up others; the network is only partially synchronous."""

STRIKES_UNTIL_S = 20.0

_WORDS = {
    "new_view": "to view",
    "sequence": "slot",
    "stable_sequence": "stable",
    "client_seq": "number",
}

Statement = tuple[str, Body, tuple[bytes, ...]]
"""Type, body and refs of an event to sign."""


class Strings:
    """One coordination a dishonest replica takes part in.

    Attributes:
        replica: the node.
        coordination: its fold.
        machine: the machine of the fold.
    """

    def __init__(self, replica: DishonestReplica, coordination: Coordination) -> None:
        self.replica = replica
        self.coordination = coordination
        assert isinstance(coordination.machine, ByzantineReplica)
        self.machine = coordination.machine
        self.loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self._seen: dict[bytes, float] = {}
        self._spent: set[Key] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rereading = False
        self._outgoing: asyncio.Queue[tuple[Event, float]] = asyncio.Queue()

    async def run(self) -> None:
        """Take part until the end."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow()), group.create_task(self._publish())]
            self.react()
            await self.over.wait()
            for task in tasks:
                task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def _follow(self) -> None:
        name, world = self.coordination.id, self.replica.world
        async for record in self.replica.transport().log.follow(name):
            event = world.admitted(record)
            if event is None or event.event.header.epoch != self.coordination.epoch:
                continue
            if event.author != self.replica.id:
                self.take(event)
            if (fold := world.observer().coordination(name)) and fold.terminal is not None:
                self.loop.call_later(LINGER_S, self.over.set)

    async def _publish(self) -> None:
        """Store what was signed, in that order, some of it late."""
        while True:
            event, delay_s = await self._outgoing.get()
            if delay_s:
                self.replica.world.network.spawn(self._later(event, delay_s))
            else:
                await self.replica.publish(event)

    async def _later(self, event: Event, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.replica.publish(event)

    def take(self, event: LogEvent) -> None:
        """Fold an event and do what follows."""
        self._seen.setdefault(event.id, self.loop.time())
        self.fold(event)
        self.replica.noticed(self, event)
        self.react()

    def fold(self, event: LogEvent) -> None:
        """Fold an event, whatever it is worth."""
        try:
            self.coordination.apply(event)
        except PeerProtocolError:
            return  # somebody else's fault

    def react(self) -> None:
        """Carry out what the machine intends, in one's own way."""
        while not self.over.is_set() and (append := self._due()) is not None:
            self._spent.add(append.key)
            self.replica.say(self, append)
        if self.machine.wanted() and not self._rereading:
            self._rereading = True
            self.loop.call_later(REREAD_S, self._reread)

    def _reread(self) -> None:
        self._rereading = False
        wanted = self.machine.wanted()
        for verdict in self.replica.world.verdicts(self.coordination.id):
            if verdict.event is not None and verdict.event.id in wanted:
                self._show_again(verdict.event)
        self.react()

    def _show_again(self, event: LogEvent) -> None:
        try:
            self.coordination.fold_again(event)
        except PeerProtocolError:
            return  # it did not fit after all

    def _due(self) -> Append | None:
        wake: float | None = None
        for intent in tuple(self.coordination.intents()):
            append, at = self._now_or_at(intent)
            if append is not None and append.key not in self._spent:
                return append
            if append is None and at > self.loop.time():
                wake = at if wake is None else min(wake, at)
        if wake is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(wake, self.react)
        return None

    def _now_or_at(self, intent: Intent) -> tuple[Append | None, float]:
        if isinstance(intent, Append):
            return (intent if intent.key != TERMINAL_KEY else None), 0.0
        if isinstance(intent, Ask):
            return intent.reply(Verdict.accept()), 0.0
        if isinstance(intent, After):
            due = self._seen.setdefault(intent.since, self.loop.time()) + intent.delay_ms / 1000
            return (intent.then, 0.0) if due <= self.loop.time() else (None, due)
        return None, 0.0

    # Speaking ---------------------------------------------------------------------------------

    def sign(
        self,
        statement: Statement,
        delay_s: float = 0.0,
        epoch: bytes | None = None,
        lie: str = "of its own",
    ) -> LogEvent:
        """Sign anything and send it off; the machine is not told, but the world's notes are, with
        what kind of ``lie`` it is."""
        self.replica.note(f"signs {described(statement)}: {lie}")
        event = self._sign(statement, delay_s, epoch)
        self.replica.world.lies[event.id] = lie
        return event

    def _sign(
        self, statement: Statement, delay_s: float = 0.0, epoch: bytes | None = None
    ) -> LogEvent:
        kind, body, refs = statement
        name = self.coordination.id
        epoch = self.coordination.epoch if epoch is None else epoch
        event = self.replica.forger.sign(name, epoch, kind, body, refs)
        self._outgoing.put_nowait((event, delay_s))
        self._seen[event.id] = self.loop.time()
        return LogEvent(0, self.replica.clock_ns(), event, body)

    def speak(self, append: Append, delay_s: float = 0.0) -> None:
        """Sign what the machine intends, and let it know."""
        statement = append.type, append.body, append.refs
        if delay_s:
            self.replica.note(f"sends {described(statement)} {delay_s:.1f} s late")
        self.fold(self._sign(statement, delay_s))

    def pretend(self, append: Append, *, replaced: bool = False) -> None:
        """Let the machine believe that it was signed; a lie that ``replaced`` it is noted."""
        if not replaced:
            statement = append.type, append.body, append.refs
            self.replica.note(f"keeps back {described(statement)}")
        encoded = msgspec.msgpack.encode(append.body)
        header = Header(
            VERSION, self.coordination.id, self.coordination.epoch, append.type, self.replica.id,
            self.replica.key.key_id, 0, ZERO32, append.refs, 0, sha256(encoded),
        )  # fmt: skip
        id = sha256(f"never signed {append.key}".encode())
        event = LogEvent(0, 0, Event(id, header, b"", b"", encoded, b""), append.body)
        self._seen[id] = self.loop.time()
        try:
            self.machine.apply(event)
        except PeerProtocolError:
            return  # it contradicts what was signed before, as intended


class DishonestReplica(DishonestAgent):
    """A replica whose statements go through :meth:`say`."""

    protocols = (PROTOCOL,)

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._joined: set[str] = set()
        self._strikes = 0

    async def invited(self, coordination: str) -> None:
        """Take part, once."""
        if coordination in self._joined:
            return
        self._joined.add(coordination)
        fold = self._fold(coordination)
        if isinstance(fold.machine, ByzantineReplica):
            strings = Strings(self, fold)
            self.joined(strings)
            await strings.run()

    def _fold(self, coordination: str) -> Coordination:
        fold = Coordination(
            coordination,
            self.world.protocols,
            self.world.observer().keyring.public_key,
            role="participant",
            author=self.id,
            invited=True,
        )
        for verdict in self.world.verdicts(coordination):
            kinds = ("coordination.requested", "coordination.opened")
            if verdict.event and verdict.rejection is None and verdict.event.type in kinds:
                fold.apply(verdict.event)
        return fold

    def joined(self, strings: Strings) -> None:
        """It takes part from now on."""

    def noticed(self, strings: Strings, event: LogEvent) -> None:
        """Somebody else's event was folded."""

    def say(self, strings: Strings, append: Append) -> None:
        """The machine wants to sign this; by default it may."""
        strings.speak(append)

    def lie(self, strings: Strings, statements: Iterable[Statement], kind: str) -> None:
        """Sign statements the machine does not stand behind, as long as there are not too many."""
        for statement in statements:
            if self.may_misbehave():
                strings.sign(statement, lie=kind)

    def hold_up(self, victim: str, within_s: tuple[float, float], how: tuple[str, ...]) -> None:
        """Hold up the link of an honest node for a while, as a network adversary may before the
        network stabilises; not too often, and not late in a run.

        Args:
            victim: whose link.
            within_s: bounds of the time it takes.
            how: faults of a link to draw from.
        """
        world = self.world
        if victim in world.dishonest or victim not in world.nodes:
            return
        if self._strikes >= MAX_STRIKES or world.loop.time() > STRIKES_UNTIL_S:
            return
        self._strikes += 1
        span_s = self.rng.uniform(*within_s)
        world.stable_at = max(world.stable_at, world.loop.time() + span_s)
        world.network.spawn(self._stall(victim, span_s, how))

    async def _stall(self, victim: str, span_s: float, how: tuple[str, ...]) -> None:
        link = self.world.network.link(victim)
        kind = self.rng.choice(how)
        if kind in link.active:
            return
        self.note(f"holds up {victim} ({kind}) for {span_s:.1f} s")
        link.set(kind, 800)
        await asyncio.sleep(span_s)
        link.set(kind, 0)


def described(statement: Statement) -> str:
    """A statement in a few words: its type, views and slots, digests by their first digits."""
    kind, body, _ = statement
    words = [kind.partition(".")[2]]
    for name in ("new_view", "view", "sequence", "stable_sequence", "client_seq"):
        if (value := getattr(body, name, None)) is not None:
            words.append(f"{_WORDS.get(name, name)} {value}")
    for name in ("batch_digest", "state_root"):
        if (value := getattr(body, name, None)) is not None:
            words.append(value.hex()[:6])
    for entry in getattr(body, "prepared", ()):
        words.append(f"[slot {entry.sequence} view {entry.view} {entry.batch_digest.hex()[:6]}]")
    for slot in getattr(body, "slots", ()):
        words.append(f"[slot {slot.sequence} {slot.batch_digest.hex()[:6]}]")
    return " ".join(words)
