"""A protocol that accepts anything: what its coordinator intends is up to the auditor to check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from mabeam.core.errors import PeerProtocolError
from mabeam.core.kernel_events import Body, Participant, event_type
from mabeam.core.machine import (
    Append,
    Ask,
    Context,
    Intent,
    LogEvent,
    Machine,
    ProtocolSpec,
    decide,
)

STEP = "relay.step"
NOTE = "relay.note"


class RelayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Number of steps until the decision."""

    steps: int = 3


class Step(Body, frozen=True):
    """The coordinator's step, counted from 1."""

    number: int


class Note(Body, frozen=True):
    """A participant's word to the machine."""

    word: str


class RelayOutcome(msgspec.Struct, frozen=True):
    """Number of steps taken."""

    steps: int


class Relay(Machine):
    """Intends the next step; takes any step as the next.

    The notes: ``skip`` counts as a step and is rejected as an equivocation, ``ask`` makes the
    coordinator ask its own code, ``fail`` is more than the machine can take.
    """

    def __init__(self, context: Context) -> None:
        self._limit: int = context.config.steps
        self._steps: list[LogEvent] = []
        self._asking = False

    def apply(self, event: LogEvent) -> None:
        if isinstance(event.content, Step):
            self._steps.append(event)
        elif isinstance(event.content, Note):
            self._heed(event, event.content.word)

    def _heed(self, event: LogEvent, word: str) -> None:
        if word == "fail":
            raise RuntimeError("too much")
        if word == "skip":
            self._steps.append(event)
            raise PeerProtocolError("equivocation", "skipped", evidence=(event.id,))
        self._asking = word == "ask"

    def intents(self) -> Iterator[Intent]:
        taken = len(self._steps)
        if taken >= self._limit:
            yield decide(RelayOutcome(taken), self._steps[-1].sequence, ())
            return
        yield Append(("step", taken + 1), STEP, Step(taken + 1))
        if self._asking:
            yield Ask(("ask",), "which step?", int, self._reply, 1000)

    def _reply(self, answer: int) -> Append:
        return Append(("step",), STEP, Step(answer))


def _freeze(
    config: Any, participants: tuple[Participant, ...]
) -> tuple[Any, tuple[Participant, ...]]:
    return config, participants


RELAY = ProtocolSpec(
    name="relay",
    family="relay",
    config_type=RelayConfig,
    event_types=(event_type(STEP, Step, "ctl"), event_type(NOTE, Note, "pub")),
    coordinator=Relay,
    participant=Relay,
    outcome_type=RelayOutcome,
    freeze=_freeze,
    default_timeout_ms=lambda config: 1000,
)
