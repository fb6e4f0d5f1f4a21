"""The coordinator's role where replicas order: submit what the protocol wants, announce the result.

It has no say in the order and cannot end a phase. The evidence against replicas, the time-out and
the fork are the service's; everything else is what the protocol's own coordinator intends, minus
its timers, which the replicas keep.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ...core.author import encode_body
from ...core.errors import PeerProtocolError
from ...core.hashing import sha256
from ...core.kernel_events import CoordinationCancelled
from ...core.machine import (
    TERMINAL_KEY,
    After,
    Append,
    Context,
    Intent,
    LogEvent,
    Machine,
    ProtocolSpec,
)
from ..byzantine.coordinator import CANCELLED, DECIDED, ByzantineCoordinator
from ..byzantine.events import CANCEL, DEADLINE_PASSED
from .service import DecidedOrder, is_domain, service_context


def fingerprint(append: Append) -> tuple[str, bytes]:
    """Type and digest of the body, as they stand in the header of the event it becomes."""
    return append.type, sha256(encode_body(append.body))


class Announcer(ByzantineCoordinator):
    """The service's observer, whose decision is the protocol's."""

    verdict: Append | None = None

    def decide(self, verdict: Append, position: int) -> None:
        """The protocol has irrevocably decided."""
        self._intents = None
        self.verdict, self.decided_at = verdict, position

    def _decision(self) -> Append:
        assert self.verdict is not None
        return self.verdict


class OrderedCoordinator(Machine):
    """The coordinator's machine; an observer runs it to know what a coordinator had to do."""

    def __init__(self, context: Context, spec: ProtocolSpec) -> None:
        self.announcer = Announcer(service_context(context))
        self.order = DecidedOrder(self.announcer)
        self.judge = spec.coordinator(context)
        self._family = spec.family

    def apply(self, event: LogEvent) -> None:
        """Fold one event of the log, and whatever it puts in order."""
        rejection: PeerProtocolError | None = None
        try:
            if event.type == DEADLINE_PASSED and event.author not in self.announcer.group.replicas:
                self.announcer.apply(event)
            elif is_domain(event, self._family):
                self.order.submit(event)
            else:
                self.announcer.apply(event)
                self.judge.apply(event)
        except PeerProtocolError as error:
            rejection = error
        for each in self.order.take():
            self._fold(each)
        if rejection is not None:
            raise rejection

    def _fold(self, event: LogEvent) -> None:
        is_open = self.announcer.verdict is None
        if event.type == CANCEL:
            if is_open:
                body = CoordinationCancelled(event.content.reason)
                cancelled = Append(TERMINAL_KEY, CANCELLED, body, (event.id,))
                self.announcer.decide(cancelled, event.sequence)
            return
        try:
            self.judge.apply(event)
        except PeerProtocolError as error:
            if is_open:  # afterwards everything is late
                self.order.rejected[event.id] = error.reason
        if is_open:
            for intent in self.judge.intents():
                if isinstance(intent, Append) and intent.key == TERMINAL_KEY:
                    self.announcer.decide(intent, event.sequence)

    def intents(self) -> Iterable[Intent]:
        """See the module."""
        pending = {(each.type, each.event.header.body_sha256) for each in self.order.pending()}
        for intent in self.judge.intents():
            if isinstance(intent, After) or intent.key == TERMINAL_KEY:
                continue
            if isinstance(intent, Append) and fingerprint(intent) in pending:
                continue
            yield intent
        yield from self.announcer.intents()

    def supports(self, ending: LogEvent) -> bool:
        """Whether it is the result of the decided order; only positions in the log may differ."""
        verdict = self.announcer.verdict
        if verdict is None or self.announcer.executor.fork is not None:
            return self.announcer.supports(ending)
        if verdict.type != DECIDED or ending.type != DECIDED:
            return False
        stated = ending.content.inputs_upto
        body = msgspec.structs.replace(verdict.body, inputs_upto=stated)
        return msgspec.structs.replace(verdict, body=body).matches(ending)

    def phase(self) -> str:
        """The protocol's phase, or ``halted`` after a fork."""
        return "halted" if self.announcer.executor.fork is not None else self.judge.phase()

    def waiting_for(self) -> tuple[str, ...]:
        """Whoever the protocol waits for."""
        return self.judge.waiting_for()

    def wanted(self) -> frozenset[bytes]:
        """What the service wants."""
        return self.announcer.wanted()
