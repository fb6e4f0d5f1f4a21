"""A log in memory and every machine of one simple consensus, driven step by step.

Events are unsigned: machines get verified events and never look at signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mabeam.core.envelope import VERSION, Event, Header
from mabeam.core.errors import PeerProtocolError
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.kernel_events import (
    Body,
    CoordinationOpened,
    Ordering,
    Participant,
    RegistrySnapshot,
)
from mabeam.core.machine import (
    TERMINAL_KEY,
    After,
    Append,
    Ask,
    AskFailed,
    Context,
    Intent,
    LogEvent,
    Machine,
)
from mabeam.protocols.simple import SPEC, Ballot, SimpleConfig, SimpleOutcome
from mabeam.protocols.simple.coordinator import SimpleCoordinator
from mabeam.protocols.simple.events import VOTE_CAST, VoteCast
from mabeam.protocols.simple.participant import SimpleParticipant
from mabeam.protocols.simple.proposal import proposal_digest

COORDINATOR = "coordinator"
UNIT = 1_000_000

_encode = msgspec.msgpack.encode


def no_secret(label: str) -> bytes:
    """Nothing in this protocol is secret."""
    raise AssertionError(label)


def members(
    weights: Mapping[str, int], controllers: Mapping[str, str] | None = None
) -> tuple[Participant, ...]:
    """Participants with these weights, each its own controller unless said otherwise."""
    owner = controllers or {}
    return tuple(
        Participant(agent, bytes(8), "node", owner.get(agent, f"owner-{agent}"), weight)
        for agent, weight in sorted(weights.items())
    )


def context_for(
    weights: Mapping[str, int],
    config: SimpleConfig,
    *,
    author: str = "",
    overall_timeout_ms: int = 30_000,
    controllers: Mapping[str, str] | None = None,
    ordering: Ordering = "log",
) -> Context:
    """The frozen configuration as a coordinator would open with it."""
    frozen, participants = SPEC.freeze(config, members(weights, controllers))
    bft = ordering == "bft"
    opened = CoordinationOpened(
        request_id=ZERO32,
        protocol=SPEC.name,
        protocol_version=SPEC.version,
        ordering=ordering,
        fault_tolerance="high_fault" if bft else "low_fault",
        f=(len(participants) - 1) // 3 if bft else 0,
        replicas=tuple(each.agent_id for each in participants) if bft else (),
        participants=participants,
        certificates=(),
        config=msgspec.to_builtins(frozen, builtin_types=(bytes,)),
        overall_timeout_ms=overall_timeout_ms,
        topic="general",
        beacon=ZERO32,
        registry_snapshot=RegistrySnapshot(0, ZERO32),
    )
    body = _encode(opened)
    return Context("c-1", sha256(body), sha256(b"opened"), opened, frozen, author, no_secret)


def log_event(
    sequence: int, author: str, type_name: str, body: Body, refs: tuple[bytes, ...] = ()
) -> LogEvent:
    """An event at its place in the log; its id depends on the place, so no two are the same."""
    data = _encode(body)
    header = Header(
        VERSION,
        "c-1",
        ZERO32,
        type_name,
        author,
        bytes(8),
        sequence,
        ZERO32,
        refs,
        sequence,
        sha256(data),
    )
    header_bytes = _encode(header)
    wire = _encode([header_bytes, bytes(64), data])
    event = Event(sha256(header_bytes), header, header_bytes, bytes(64), data, wire)
    return LogEvent(sequence, sequence, event, body)


def rejection(machine: Machine, event: LogEvent) -> str | None:
    """Fold an event; the reason if it is rejected. Anything but the typed error is a bug."""
    try:
        machine.apply(event)
    except PeerProtocolError as error:
        return error.reason
    return None


class World:
    """All roles over one log; ``run`` does what the coordinator intends.

    Attributes:
        log: every event so far, rejected ones included.
        rejections: the error per rejected event's sequence, as the coordinator's machine raised it.
    """

    def __init__(
        self,
        weights: Mapping[str, int],
        config: SimpleConfig | None = None,
        *,
        unit: int = UNIT,
        overall_timeout_ms: int = 30_000,
        controllers: Mapping[str, str] | None = None,
        ordering: Ordering = "log",
        **fields: Any,
    ) -> None:
        config = config or SimpleConfig(**{"proposal": "the proposal", **fields})
        micros = {agent: weight * unit for agent, weight in weights.items()}

        def context(author: str) -> Context:
            return context_for(
                micros,
                config,
                author=author,
                overall_timeout_ms=overall_timeout_ms,
                controllers=controllers,
                ordering=ordering,
            )

        self.context = context("")
        self.coordinator = SimpleCoordinator(self.context)
        self.participants = {agent: SimpleParticipant(context(agent)) for agent in weights}
        self.digest = proposal_digest(config.proposal)
        self.log: list[LogEvent] = []
        self.rejections: dict[int, PeerProtocolError] = {}
        self.terminal: Append | None = None
        self.run()

    # Events -----------------------------------------------------------------------------------

    def append(
        self, author: str, type_name: str, body: Body, refs: tuple[bytes, ...] = ()
    ) -> str | None:
        """Append an event and fold it everywhere; the reason if the coordinator rejects it."""
        event = log_event(len(self.log) + 1, author, type_name, body, refs)
        return self.replay(event)

    def replay(self, event: LogEvent) -> str | None:
        """Fold an event as it is, for instance a second time."""
        self.log.append(event)
        for machine in self.participants.values():
            machine.apply(event)
        try:
            self.coordinator.apply(event)
        except PeerProtocolError as error:
            self.rejections[event.sequence] = error
            return error.reason
        return None

    def vote(
        self,
        author: str,
        option: str,
        confidence: float | None = None,
        *,
        ballot: int | None = None,
        digest: bytes | None = None,
    ) -> str | None:
        """A vote as its author may sign it, honest or not."""
        ppm = None if confidence is None else round(confidence * 1_000_000)
        number = len(self.coordinator.boxes) if ballot is None else ballot
        body = VoteCast(number, digest or self.digest, option, ppm)
        reason = self.append(author, VOTE_CAST, body)
        self.run()
        return reason

    def answer(self, author: str, answer: Ballot | AskFailed) -> str | None:
        """What the agent's code says, through the participant's machine."""
        (ask,) = self.participants[author].intents()
        assert isinstance(ask, Ask)
        append = ask.reply(answer)
        reason = self.append(author, append.type, append.body, append.refs)
        self.run()
        return reason

    def deadline(self) -> str | None:
        """The open ballot's time is over."""
        (after,) = [intent for intent in self.intents() if isinstance(intent, After)]
        then = after.then
        reason = self.append(COORDINATOR, then.type, then.body, then.refs)
        self.run()
        return reason

    def run(self) -> None:
        """Append what the coordinator intends until it waits for something or has ended."""
        while self.terminal is None:
            append = next((i for i in self.intents() if isinstance(i, Append)), None)
            if append is None:
                return
            if append.key == TERMINAL_KEY:
                self.terminal = append
            assert self.append(COORDINATOR, append.type, append.body, append.refs) is None

    # State ------------------------------------------------------------------------------------

    def intents(self) -> list[Intent]:
        """What the coordinator would do now; asked twice, because asking changes nothing."""
        first = list(self.coordinator.intents())
        assert first == list(self.coordinator.intents())
        return first

    @property
    def decided(self) -> bool:
        """Whether there is a terminal event."""
        return self.terminal is not None

    @property
    def outcome(self) -> SimpleOutcome:
        """The outcome in the terminal event, decoded as a reader would."""
        assert self.terminal is not None, "still undecided"
        body: Any = self.terminal.body
        return msgspec.convert(body.outcome, SimpleOutcome)


def of_type(world: World, type_name: str) -> list[LogEvent]:
    """The events of one type, in log order."""
    return [event for event in world.log if event.type == type_name]
