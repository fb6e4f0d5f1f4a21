"""Production replicas in lock-step: whatever is signed in one step is heard in the next, or is not.

The machines of :mod:`mabeam.protocols.byzantine` are driven as their hosts drive them: an event is
folded, everything that is then to be signed is signed and folded at once, what is wanted is read
again. There is no host, no clock and no signature, only the choice of who hears whom. Timers run
out when nothing is under way any more, those of all replicas at once.

A traitor has two bodies with one name. Both are production machines; what the second one signs may
be a lie. Requests reach every body one a step, each in an order of its own.

A body's state is what it has folded, in order: a *place* in the tree of all such histories. Places
are shared by all states of an exploration, so each machine does each thing only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ....core.envelope import VERSION, Event, Header
from ....core.errors import PeerProtocolError
from ....core.hashing import ZERO32, sha256
from ....core.kernel_events import Body, CoordinationOpened, Participant, RegistrySnapshot
from ....core.machine import After, Append, Context, LogEvent
from ....protocols.byzantine import SPEC, ByzantineConfig
from ....protocols.byzantine.digests import batch_digest
from ....protocols.byzantine.events import (
    COMMIT,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CommitSent,
    NewViewSent,
    PreparedEntry,
    PrepareSent,
    RequestSubmitted,
    SlotProposal,
    ViewChangeSent,
)
from ....protocols.byzantine.replica import ByzantineReplica
from .replica_copy import copy_of
from .splits import Split

COORDINATION = "scope"
replace = msgspec.structs.replace
_encode = msgspec.msgpack.Encoder(order="deterministic").encode

Lies = Literal["nothing", "votes", "view_changes", "new_views"]
Numbers = tuple[int, ...]
"""Events, by the order in which anybody first signed them."""


class Scope(msgspec.Struct, frozen=True):
    """The bounds of what is looked at.

    Attributes:
        replicas: n.
        traitors: numbers of the replicas with two bodies; replica v leads view v.
        lies: what their second bodies lie about; twins if nothing.
        slots: how many may be decided, at most; there are as many requests, at least two.
        views: how many there are.
        late: what was not heard arrives when the timers have run out, rather than never.
    """

    replicas: int = 4
    traitors: tuple[int, ...] = (0,)
    lies: Lies = "nothing"
    slots: int = 2
    views: int = 3
    late: bool = False


class Place:
    """A body after everything it has folded.

    Attributes:
        body: whose.
        history: events, in the order folded.
        heard: how many of them are requests.
        sent: those it signed.
        slots: slot and digest of what it holds commit certificates for.
        done: slots it has executed.
        waits: whether a timer of its runs that moves it within the scope.
        moves: whether it has a timer at all, or would leave the last view at once.
        view: the highest it was in.
        fault: what must not be, if this is.
        replica: the machine, while it is at hand.
    """

    __slots__ = (
        "body",
        "done",
        "fault",
        "heard",
        "history",
        "moves",
        "replica",
        "sent",
        "slots",
        "view",
        "waits",
    )

    def __init__(self, body: int, history: Numbers, sent: Numbers) -> None:
        self.body = body
        self.history = history
        self.heard = 0
        self.sent = sent
        self.slots: tuple[tuple[int, bytes], ...] = ()
        self.done = 0
        self.view = 0
        self.waits = False
        self.moves = False
        self.fault = ""
        self.replica: ByzantineReplica | None = None


class State(NamedTuple):
    """All bodies between two steps.

    Attributes:
        places: per body.
        flight: per body what it signed in the last step.
        late: per body what it has not heard and will.
    """

    places: tuple[int, ...]
    flight: tuple[Numbers, ...]
    late: tuple[Numbers, ...]


class Ensemble:
    """The bodies of a scope, and all their places so far.

    Attributes:
        scope: the bounds.
        names: of the bodies, the traitors' second ones last.
        honest: bodies that are no traitor's.
        events: everything ever signed, by number.
        places: everything a body ever was.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._authors = [f"r{number}" for number in range(scope.replicas)]
        self.names = [*self._authors, *(f"r{number}'" for number in scope.traitors)]
        self._authors += [f"r{number}" for number in scope.traitors]
        self.honest = [each for each in range(scope.replicas) if each not in scope.traitors]
        self.events: list[LogEvent] = []
        self.places: list[Place] = []
        self._number: dict[bytes, int] = {}
        self._place: dict[tuple[int, Numbers], int] = {}
        self._moves: dict[tuple[int, Numbers], tuple[int, Numbers]] = {}
        self._kept: set[int] = set()
        self._live: set[int] = set()
        self._expiries: dict[int, tuple[int, Numbers]] = {}
        self._contexts = [context_of(scope, author) for author in self._authors]
        clients = range(max(2, scope.slots))
        self.requests = [
            self._sign(f"client-{each}", f"client-{each}", REQUEST, RequestSubmitted(1, each))
            for each in clients
        ]

    # States -------------------------------------------------------------------------------------

    def start(self) -> State:
        """Nobody has heard anything."""
        bodies = range(len(self.names))
        places = tuple(self._intern(ByzantineReplica(self._contexts[b]), b, (), ()) for b in bodies)
        nothing: tuple[Numbers, ...] = ((),) * len(bodies)
        return State(places, nothing, nothing if self.scope.late else ())

    def is_quiet(self, state: State) -> bool:
        """Whether nothing is under way."""
        requests = len(self.requests)
        return not any(state.flight) and all(
            self.places[each].heard == requests for each in state.places
        )

    def step(self, state: State, split: Split) -> State:
        """What is under way is heard by those who can."""
        places, flight, late = list(state.places), [], list(state.late)
        for body, heard in enumerate(split.hears):
            numbers = tuple(each for other in heard for each in state.flight[other])
            places[body], signed = self._move(state.places[body], numbers)
            flight.append(signed)
            if late:
                missed = (o for o in range(len(places)) if o not in heard and o != body)
                late[body] += tuple(each for other in missed for each in state.flight[other])
        return State(tuple(places), tuple(flight), tuple(late))

    def waits(self, state: State) -> bool:
        """Whether any timer runs that moves a body within the scope."""
        return any(self.places[each].waits for each in state.places)

    def expire(self, state: State) -> State:
        """All timers run out; then everything late arrives."""
        places, flight = list(state.places), []
        for body, place in enumerate(state.places):
            places[body], signed = self._expire(place)
            if state.late:
                places[body], more = self._move(places[body], state.late[body])
                signed += more
            flight.append(signed)
        return State(tuple(places), tuple(flight), ((),) * len(state.late))

    def restart(self, state: State, body: int, heard: Numbers) -> State:
        """A body forgets all but its own word, then hears some of what it knew, in this order.

        The rest is late, or lost. What is heard must include all requests it knew.
        """
        before = self.places[state.places[body]]
        replica = ByzantineReplica(self._contexts[body])
        for number in before.sent:
            fold(replica, self.events[number])
        fresh = self._intern(replica, body, before.sent, before.sent)
        actor = Actor(self, fresh)
        for number in heard:
            actor.hear(number)
        place, signed = self._arrive(actor, fresh)
        places, flight, late = list(state.places), list(state.flight), list(state.late)
        places[body] = place
        flight[body] += signed
        if late:
            missed = set(self.others(before)) - set(heard)
            late[body] += tuple(each for each in before.history if each in missed)
        return State(tuple(places), tuple(flight), tuple(late))

    def others(self, place: Place) -> Numbers:
        """What a body has heard of others, in order."""
        own = set(place.sent)
        return tuple(each for each in place.history if each not in own)

    def kinds(self, state: State) -> set[str]:
        """Types of what is under way."""
        return {self.events[each].type for numbers in state.flight for each in numbers}

    def signed(self, state: State) -> list[LogEvent]:
        """Everything signed so far, by anybody."""
        sent = {each for place in state.places for each in self.places[place].sent}
        return [self.events[each] for each in (*self.requests, *sorted(sent))]

    def keep_machines(self, needed: set[int]) -> None:
        """Keep the machines of these places; others are used up and folded again when needed."""
        for number in self._live - needed:
            self.places[number].replica = None
        self._live = needed.copy()
        self._kept = needed

    # Bodies -------------------------------------------------------------------------------------

    def _move(self, place: int, numbers: Numbers) -> tuple[int, Numbers]:
        """Where a body gets by hearing its next request and these events, and what it signs."""
        heard = self.places[place].heard
        if heard < len(self.requests):
            numbers = (self._request(self.places[place].body, heard), *numbers)
        if not numbers:
            return place, ()
        moved = self._moves.get((place, numbers))
        if moved is None:
            actor = Actor(self, place)
            for number in numbers:
                actor.hear(number)
            moved = self._moves[place, numbers] = self._arrive(actor, place)
        return moved

    def _expire(self, place: int) -> tuple[int, Numbers]:
        if not self.places[place].waits:
            return place, ()
        moved = self._expiries.get(place)
        if moved is None:
            actor = Actor(self, place)
            actor.run_out()
            moved = self._expiries[place] = self._arrive(actor, place)
        return moved

    def _arrive(self, actor: Actor, origin: int) -> tuple[int, Numbers]:
        before = len(self.places[origin].sent)
        sent = tuple(actor.sent)
        return self._intern(actor.replica, actor.body, tuple(actor.history), sent), sent[before:]

    def _intern(self, replica: ByzantineReplica, body: int, history: Numbers, sent: Numbers) -> int:
        number = self._place.get((body, history))
        if number is None:
            number = self._place[body, history] = len(self.places)
            place = Place(body, history, sent)
            self.places.append(place)
            self._describe(place, replica)
        self.places[number].replica = replica
        self._live.add(number)
        return number

    def _describe(self, place: Place, replica: ByzantineReplica) -> None:
        executor = replica.executor
        place.heard = sum(each in place.history for each in self.requests)
        place.slots = tuple((s, d.digest) for s, d in sorted(executor.decisions.items()))
        place.done = executor.executed
        place.view = replica.views.view
        wishes = replica.intents()
        timers = [i for i in wishes if isinstance(i, After) and i.key[0] == "timer"]
        place.waits = any(self.is_within(each.then) for each in timers)
        place.moves = bool(timers) or any(
            isinstance(i, Append) and i.type == VIEW_CHANGE for i in wishes
        )
        if place.body in self.honest:
            place.fault = next(self._faults(replica), "")

    def _faults(self, replica: ByzantineReplica) -> Iterator[str]:
        """What no honest replica does, whatever it was told."""
        if replica.executor.fork is not None:
            yield "holds two commit certificates for one slot"
        done = [each for slot in replica.executor.log for each in slot.requests]
        if len(done) > len(set(done)):
            yield "executes a request twice"
        if not {self._number.get(each, -1) for each in done} <= set(self.requests):
            yield "executes what no client signed"

    def machine(self, number: int) -> ByzantineReplica:
        """A machine in a place, to be moved on: the one at hand, or folded again."""
        place = self.places[number]
        replica = place.replica
        if replica is not None and number in self._kept:
            return copy_of(replica)
        place.replica = None
        if replica is None:
            replica = ByzantineReplica(self._contexts[place.body])
            for each in place.history:
                fold(replica, self.events[each])
        return replica

    def _request(self, body: int, turn: int) -> int:
        """Bodies hear the requests in different orders, a traitor's two in opposite ones."""
        twin = body >= self.scope.replicas
        number = self.scope.traitors[body - self.scope.replicas] if twin else body
        turned = (number % 2 == 1) != twin
        return self.requests[-1 - turn if turned else turn]

    # Events -------------------------------------------------------------------------------------

    def _sign(
        self, signer: str, author: str, kind: str, body: Body, refs: tuple[bytes, ...] = ()
    ) -> int:
        data = _encode(body)
        event_id = sha256(b"\0".join((signer.encode(), kind.encode(), data, *refs)))
        number = self._number.get(event_id)
        if number is None:
            number = self._number[event_id] = len(self.events)
            header = Header(
                VERSION, COORDINATION, ZERO32, kind, author, bytes(8), 0, ZERO32, refs, 0,
                sha256(data),
            )  # fmt: skip
            self.events.append(LogEvent(0, 0, Event(event_id, header, b"", b"", data, b""), body))
        return number

    def sign(self, body: int, append: Append, replica: ByzantineReplica) -> int:
        """The number of the event by which a body says this."""
        content: Any = append.body
        if body >= self.scope.replicas:
            content = self._second_thoughts(content, replica)
        author = self._authors[body]
        return self._sign(self.names[body], author, append.type, content, append.refs)

    def number(self, event_id: bytes) -> int | None:
        """The number of an event, if anybody ever signed it."""
        return self._number.get(event_id)

    def is_within(self, append: Append) -> bool:
        """Whether signing this stays within the scope: no later views, no checkpoints."""
        if append.type == VIEW_CHANGE:
            assert isinstance(append.body, ViewChangeSent)
            return append.body.new_view < self.scope.views
        return append.type in (PRE_PREPARE, PREPARE, COMMIT, NEW_VIEW)

    def _second_thoughts(self, body: Any, replica: ByzantineReplica) -> Any:
        """Votes for another batch, certificates nobody signed, slots that follow from nothing."""
        lies = self.scope.lies
        slots = range(1, self.scope.slots + 1)
        if lies == "votes" and isinstance(body, PrepareSent | CommitSent):
            return replace(body, batch_digest=self._lie(body.sequence, replica))
        if lies == "view_changes" and isinstance(body, ViewChangeSent):
            last, some = body.new_view - 1, self.events[self.requests[0]].id
            prepared = tuple(
                PreparedEntry(slot, last, self._lie(slot, replica), some, (some,)) for slot in slots
            )
            return replace(body, prepared=prepared)
        if lies == "new_views" and isinstance(body, NewViewSent):
            lied = tuple(SlotProposal(slot, self._lie(slot, replica)) for slot in slots)
            return replace(body, slots=lied)
        return body

    def _lie(self, slot: int, replica: ByzantineReplica) -> bytes:
        """A batch that is not what the slot holds, as far as this body knows."""
        truth = replica.executor.decisions.get(slot) or replica.accepted.get(slot)
        ids = [self.events[each].id for each in self.requests]
        digests = (batch_digest(COORDINATION, (each,)) for each in (*ids[slot % 2 :], *ids))
        return next(each for each in digests if truth is None or each != truth.digest)


class Actor:
    """A body while it moves."""

    def __init__(self, ensemble: Ensemble, number: int) -> None:
        place = ensemble.places[number]
        self.replica = ensemble.machine(number)
        self.body = place.body
        self.history = list(place.history)
        self.sent = list(place.sent)
        self._ensemble = ensemble
        self._known = set(place.history)

    def hear(self, number: int) -> None:
        """Fold an event, unless it is known, and react."""
        if number not in self._known:
            self._take(number)
            self._react()

    def run_out(self) -> None:
        """The timer runs out."""
        for intent in self.replica.intents():
            if isinstance(intent, After) and intent.key[0] == "timer":
                self._say(intent.then)
                self._react()
                return

    def _react(self) -> None:
        while (append := self._due()) is not None:
            self._say(append)

    def _due(self) -> Append | None:
        """The next thing to sign, after everything wanted has been read again."""
        while read := self._read_again():
            for number in read:
                self._take(number)
        for intent in self.replica.intents():
            if isinstance(intent, Append) and self._ensemble.is_within(intent):
                return intent
        return None

    def _read_again(self) -> list[int]:
        found = (self._ensemble.number(each) for each in sorted(self.replica.wanted()))
        return [each for each in found if each is not None]

    def _say(self, append: Append) -> None:
        number = self._ensemble.sign(self.body, append, self.replica)
        self.sent.append(number)
        self._take(number)

    def _take(self, number: int) -> None:
        self.history.append(number)
        self._known.add(number)
        fold(self.replica, self._ensemble.events[number])


def fold(replica: ByzantineReplica, event: LogEvent) -> None:
    """Fold an event; a rejection is its author's fault."""
    try:
        replica.apply(event)
    except PeerProtocolError:
        return


def context_of(scope: Scope, author: str) -> Context:
    """What a replica of a scope knows from the start: a service of one request a slot."""
    names = (f"r{number}" for number in range(scope.replicas))
    members = tuple(Participant(each, bytes(8), each, each, 1_000_000) for each in names)
    config = ByzantineConfig(
        mode="service",
        checkpoint_interval=scope.slots,
        window=scope.slots,
        batch_max_requests=1,
        batch_delay_ms=0,
    )
    frozen, participants = SPEC.freeze(config, members)
    opened = CoordinationOpened(
        request_id=sha256(b"requested"),
        protocol=SPEC.name,
        protocol_version=SPEC.version,
        ordering="bft",
        fault_tolerance="low_fault",
        f=frozen.f or 0,
        replicas=(),
        participants=participants,
        certificates=(),
        config={},
        overall_timeout_ms=60_000,
        topic="general",
        beacon=ZERO32,
        registry_snapshot=RegistrySnapshot(0, ZERO32),
    )
    return Context(COORDINATION, ZERO32, sha256(b"opened"), opened, frozen, author, _no_secret)


def _no_secret(label: str) -> bytes:
    raise NotImplementedError(label)
