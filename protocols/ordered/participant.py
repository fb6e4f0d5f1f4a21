"""A participant's role where replicas order: a replica of the service, and the protocol's own role.

Three machines share what is said. The replica orders. The *judge* is the protocol's coordinator's
fold over decided order: it knows which timers run and when the result is irrevocable. The member is
the protocol's participant: it asks the agent's own code and answers. Timers of the judge become
deadlines that this replica signs (COM-7).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from ...core.errors import PeerProtocolError
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
from ..byzantine.events import CANCEL, DEADLINE_PASSED
from ..byzantine.replica import ByzantineReplica
from .service import Deadline, DecidedOrder, is_domain, service_context


class OrderedParticipant(Machine):
    """The machine of one participant."""

    def __init__(self, context: Context, spec: ProtocolSpec) -> None:
        self.replica = ByzantineReplica(service_context(context))
        self.order = DecidedOrder(self.replica)
        self.judge = spec.coordinator(context)
        self.member = spec.participant(context)
        self._me = context.author
        self._orders = context.author in self.replica.group.replicas
        self._family = spec.family
        self._deadlines: set[Deadline] = set()

    def apply(self, event: LogEvent) -> None:
        """Fold one event of the log, and whatever it puts in order."""
        rejection: PeerProtocolError | None = None
        try:
            if is_domain(event, self._family):
                if event.type == DEADLINE_PASSED and event.author == self._me:
                    body = event.content
                    self._deadlines.add((body.name, body.round, body.subject))
                self.order.submit(event)
            else:
                self.replica.apply(event)
        except PeerProtocolError as error:
            rejection = error
        for each in self.order.take():
            self._fold(each)
        if rejection is not None:
            raise rejection

    def _fold(self, event: LogEvent) -> None:
        if event.type == CANCEL:
            if not self.replica.is_decided:
                self.replica.rest(event.sequence)
            return
        for machine in (self.judge, self.member):
            with contextlib.suppress(PeerProtocolError):
                machine.apply(event)
        if not self.replica.is_decided and any(
            intent.key == TERMINAL_KEY for intent in self.judge.intents()
        ):
            self.replica.rest(event.sequence)

    def intents(self) -> Iterable[Intent]:
        """The replica's, the timers it keeps for the protocol, and the participant's own."""
        yield from self.replica.intents()
        if self.is_done():
            return
        if self._orders:
            yield from self._timers()
        if not any(
            event.author == self._me and event.type != DEADLINE_PASSED
            for event in self.order.pending()
        ):
            yield from self.member.intents()

    def _timers(self) -> Iterator[After]:
        for intent in self.judge.intents():
            if not isinstance(intent, After) or intent.then.type != DEADLINE_PASSED:
                continue
            then = intent.then
            body = then.body
            if (body.name, body.round, body.subject) in self._deadlines:  # type: ignore[attr-defined]
                continue
            key = ("ordered", *intent.key)
            signed = Append(key, then.type, body, then.refs, sign_once=True)
            yield After(key, intent.since, intent.delay_ms, signed)

    def is_done(self) -> bool:
        """See :meth:`mabeam.core.machine.Machine.is_done`."""
        return self.replica.is_done()

    def phase(self) -> str:
        """The protocol's phase."""
        return self.judge.phase()

    def wanted(self) -> frozenset[bytes]:
        """What the service wants."""
        return self.replica.wanted()
