"""The machine contract: level-triggered folds over verified events.

A machine plays one role of one author in one coordination. ``apply`` folds an event; ``intents``
says what the role would do now. Nothing else goes in or out, which is why recovery, takeover,
replay, simulation and audit are the same few lines: fold again, ask again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .author import encode_body
from .envelope import MAX_REFS, Event
from .hashing import merkle_root
from .kernel_events import (
    Body,
    CoordinationDecided,
    CoordinationOpened,
    CoordinationRequested,
    Cut,
    EventType,
    Ordering,
    Participant,
)

Key = tuple[str | int, ...]
"""Names an intent within its machine, e.g. ``("vote", 1)``."""


class LogEvent(msgspec.Struct, frozen=True, gc=False):
    """An admitted event at its position in the log.

    Attributes:
        sequence: position in the log; in a decided order other than the log's, position there.
        stored_ns: the log's storage time.
        event: the signed event.
        content: its typed body.
    """

    sequence: int
    stored_ns: int
    event: Event
    content: Any

    @property
    def id(self) -> bytes:
        """Event id."""
        return self.event.id

    @property
    def type(self) -> str:
        """``family.event_name``."""
        return self.event.header.type

    @property
    def author(self) -> str:
        """Verified author."""
        return self.event.header.author

    @property
    def coordination(self) -> str:
        """Coordination the event belongs to."""
        return self.event.header.coordination


class Append(msgspec.Struct, frozen=True):
    """Sign and append this event; satisfied when it comes back from the log."""

    key: Key
    type: str
    body: Body
    refs: tuple[bytes, ...] = ()
    sign_once: bool = False

    def matches(self, event: LogEvent) -> bool:
        """Whether a signed event says exactly this."""
        header = event.event.header
        return (
            self.type == header.type
            and self.refs == header.refs
            and encode_body(self.body) == event.event.body
        )


class AskFailed(msgspec.Struct, frozen=True):
    """What a host passes to ``Ask.reply`` when the agent's code raised, timed out or is missing."""

    code: str
    message: str


class Ask(msgspec.Struct, frozen=True):
    """Run the agent's own code; ``reply`` turns its answer into the event that reports it.

    ``reply`` must be pure: the host journals the answer before anything derived from it is signed
    and calls ``reply`` again after a restart. It raises :class:`~mabeam.core.errors.UsageError` for
    an answer the agent must not give.
    """

    key: Key
    request: Any
    answer_type: Any
    reply: Callable[[Any], Append]
    timeout_ms: int


class After(msgspec.Struct, frozen=True):
    """If still pending ``delay_ms`` after event ``since`` was seen, append ``then``."""

    key: Key
    since: bytes
    delay_ms: int
    then: Append


class Spawn(msgspec.Struct, frozen=True):
    """Open a child coordination; satisfied when its ``coordination.requested`` comes back."""

    key: Key
    request: CoordinationRequested


Intent = Append | Ask | After | Spawn


TERMINAL_KEY: Key = ("terminal",)
"""Key of the append that ends a coordination; a machine that offers it has irrevocably decided."""


def decide(outcome: msgspec.Struct, inputs_upto: int, cut: Sequence[bytes]) -> Append:
    """The terminal append for an outcome.

    Args:
        outcome: the protocol's outcome.
        inputs_upto: sequence of the event that fixed the result.
        cut: ids of the events counted, in decided order; they become the refs if they fit, so that
            the coordinator's signature covers the order it counted in.
    """
    body = CoordinationDecided(
        outcome=msgspec.to_builtins(outcome, builtin_types=(bytes,)),
        inputs_upto=inputs_upto,
        cut=Cut(len(cut), merkle_root(list(cut))),
    )
    refs = tuple(cut) if len(cut) <= MAX_REFS else ()
    return Append(TERMINAL_KEY, "coordination.decided", body, refs)


class Snapshot(msgspec.Struct, frozen=True):
    """What a machine needs to go on without the events that led there.

    Attributes:
        state: opaque to everybody else; the same state has the same bytes.
        needs: log position of the first event that must be folded again, ``None`` if none need be.
        again: positions of single older ones that must be folded again, too.
    """

    state: bytes
    needs: int | None
    again: tuple[int, ...]


class Context(msgspec.Struct, frozen=True):
    """What a machine knows from the start: the frozen configuration.

    Attributes:
        coordination: its id.
        epoch: SHA-256 of the ``coordination.opened`` body.
        opened_id: id of the ``coordination.opened`` event.
        opened: its body.
        config: the protocol's typed parameters.
        author: whose role this machine plays; empty for an observer.
        secret: 32 bytes for a label, unguessable outside and the same after a restart.
        opened_at_ns: the opener's clock at the opening; informative, as all clocks are.
        requester: who asked for the coordination; empty where the request is not in view.
    """

    coordination: str
    epoch: bytes
    opened_id: bytes
    opened: CoordinationOpened
    config: Any
    author: str
    secret: Callable[[str], bytes]
    opened_at_ns: int = 0
    requester: str = ""

    @property
    def participants(self) -> tuple[Participant, ...]:
        """Frozen participants, sorted by agent id."""
        return self.opened.participants


class Machine(ABC):
    """One role (coordinator or participant) of one author in one coordination."""

    @abstractmethod
    def apply(self, event: LogEvent) -> None:
        """Fold one verified event of this coordination.

        Raises:
            PeerProtocolError: a peer's fault; the event has no effect. The state is unchanged but
                for what the rejection itself establishes (an equivocation voids the earlier vote).
        """

    @abstractmethod
    def intents(self) -> Iterable[Intent]:
        """What this role would do now. Pure; asking twice changes nothing.

        Everything to append that is listed together may be signed together, in this order; each
        is folded before the next is signed.
        """

    def phase(self) -> str:
        """Name of the present phase, for status displays."""
        return "opened"

    def waiting_for(self) -> tuple[str, ...]:
        """Authors whose events would move the coordination on."""
        return ()

    def wanted(self) -> frozenset[bytes]:
        """Ids of events to read again from the log: referred to and not seen, or seen too early."""
        return frozenset()

    def supports(self, ending: LogEvent) -> bool:
        """Whether a terminal event is right although this machine would word it differently.

        Asked with ``ordering: bft`` only, where every reader may see another order of events: an
        ending is judged by the certificates it names. ``False`` if that cannot be told (yet).
        """
        return False

    def is_done(self) -> bool:
        """Whether a participant that follows its coordination has nothing left to contribute."""
        return False

    # A machine that may live long lets its host keep what it has come to, so that what led there
    # can be dropped. Whoever does not is folded from the beginning again, which is always right.

    def milestone(self) -> int:
        """How far the machine has come for good; a snapshot is worth taking when it has grown."""
        return 0

    def snapshot(self) -> Snapshot | None:
        """What to begin with after a restart instead of with nothing; ``None`` if it cannot tell.

        ``restore`` in a new machine, then the events from ``needs`` on and those at ``again``, in
        any order, and this author's own events that are not settled, give the state that all events
        give, as far as it matters for what is intended.
        """
        return None

    def restore(self, state: bytes) -> None:
        """Begin with what a snapshot of this machine's coordination says; before any event.

        Raises:
            ValueError: it is not the state of a snapshot.
        """
        raise ValueError("this machine takes no snapshots")

    def is_settled(self, key: Key) -> bool:
        """Whether nothing signed under this key will be intended again, nor needed by others, by a
        machine that begins with what a snapshot taken now says."""
        return False


ProofRule = Callable[[str, tuple[LogEvent, ...], Context], str]
"""Judges a proof of misbehaviour by the protocol's own rules (specification 13).

Given the accused, the proof's events, and the configuration they were signed under. The events are
authentic, typed and of one coordination and epoch; the accused signed the first. Pure. Returns the
uniqueness key of the offence. Raises :class:`~mabeam.core.errors.PeerProtocolError` if nothing is
proven.
"""


class ProtocolSpec(msgspec.Struct, frozen=True):
    """Everything the kernel needs to run a protocol.

    Attributes:
        name: protocol name in requests.
        family: prefix of its event types.
        config_type: its parameters; every optional field has a default.
        event_types: its events.
        coordinator, participant: machine factories.
        outcome_type: type of the outcome in ``coordination.decided``.
        freeze: completes the parameters and weights at opening; raises
            :class:`~mabeam.core.errors.ConfigError` for what cannot be run.
        default_timeout_ms: overall time-out under given parameters if the request names none.
        orderings: what may order its events, the default first. With ``bft`` every participant
            follows the coordination, else it acts on its invitation alone.
        ordering_types: events of the replicas, with ``bft`` part of the coordination too.
        proofs: rules of evidence beyond the kernel's own, by name.
    """

    name: str
    family: str
    config_type: type[msgspec.Struct]
    event_types: tuple[EventType, ...]
    coordinator: Callable[[Context], Machine]
    participant: Callable[[Context], Machine]
    outcome_type: type[msgspec.Struct]
    freeze: Callable[[Any, tuple[Participant, ...]], tuple[Any, tuple[Participant, ...]]]
    default_timeout_ms: Callable[[Any], int]
    version: int = 1
    orderings: tuple[Ordering, ...] = ("log",)
    ordering_types: tuple[EventType, ...] = ()
    proofs: Mapping[str, ProofRule] = {}


Protocols = Mapping[str, ProtocolSpec]
