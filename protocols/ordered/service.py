"""The Byzantine service as a protocol uses it: events in, the same events in decided order out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...core.errors import PeerProtocolError
from ...core.machine import Context, LogEvent, ProofRule
from ..byzantine.config import ByzantineConfig
from ..byzantine.events import CANCEL, DEADLINE_PASSED, OVERALL
from ..byzantine.fold import ByzantineFold
from ..byzantine.requests import numbered

LONGEST_VIEW_MS = 15_000
SHORTEST_VIEW_MS = 100
BATCH_DELAY_MS = 5
LONGEST_GRACE_MS = 60_000

Deadline = tuple[str, int, str]
"""Name, round and subject."""


def service_context(context: Context) -> Context:
    """The same frozen configuration for the group of replicas.

    A view gets an eighth of the overall time-out, at most 15 s, so that two bad primaries in a row
    leave time for a third. The protocol's own deadlines may fall on the overall time-out and must
    still be ordered: the replicas give up later, by as much again but at most a minute.
    """
    opened = context.opened
    patience_ms = opened.overall_timeout_ms + min(opened.overall_timeout_ms, LONGEST_GRACE_MS)
    timeout_ms = min(LONGEST_VIEW_MS, max(SHORTEST_VIEW_MS, opened.overall_timeout_ms // 8))
    config = ByzantineConfig(
        mode="service", f=opened.f, view_timeout_ms=timeout_ms, batch_delay_ms=BATCH_DELAY_MS
    )
    patient = msgspec.structs.replace(opened, overall_timeout_ms=patience_ms)
    return msgspec.structs.replace(context, config=config, opened=patient)


class DecidedOrder:
    """Domain events on their way through the service.

    Args:
        group: a fold of the service; whoever owns it folds the service's own events.

    Attributes:
        rejected: events ordered before the result was irrevocable and without effect, by id, and
            why; kept by observers.
        last: position of the last event in decided order.
    """

    def __init__(self, group: ByzantineFold) -> None:
        self.group = group
        self.rejected: dict[bytes, str] = {}
        self.last = 0
        self._submitted: dict[bytes, LogEvent] = {}
        self._events: dict[bytes, LogEvent] = {}
        self._executed = 0
        self._copies: dict[Deadline, set[str]] = {}

    def submit(self, event: LogEvent) -> None:
        """Take a domain event as a request.

        Raises:
            PeerProtocolError: ``not_participant``: deadlines are the replicas'.
        """
        if event.type == DEADLINE_PASSED and event.author not in self.group.group.replicas:
            raise PeerProtocolError("not_participant", f"{event.author} is no replica")
        if event.id in self._events:
            return
        self._submitted[event.id] = self._events[event.id] = event
        self.group.submit(event, *numbered(event), event.id)

    def pending(self) -> Iterator[LogEvent]:
        """Events submitted and not ordered yet."""
        return iter(self._submitted.values())

    def domain_events(self) -> Iterator[LogEvent]:
        """Everything submitted so far, as it stands in the log."""
        return iter(self._events.values())

    def take(self) -> Iterator[LogEvent]:
        """What has been ordered since the last call, at its position in decided order."""
        executor = self.group.executor
        fresh, self._executed = executor.executed - self._executed, executor.executed
        for slot in executor.log[len(executor.log) - fresh :]:
            for request_id in slot.requests:
                event = self._submitted.pop(request_id)
                if event.type == DEADLINE_PASSED and not self._is_due(event):
                    continue
                self.last += 1
                yield msgspec.structs.replace(event, sequence=self.last)

    def _is_due(self, event: LogEvent) -> bool:
        """COM-7: a deadline takes effect with the copy of the (f + 1)-th replica."""
        body = event.content
        copies = self._copies.setdefault((body.name, body.round, body.subject), set())
        copies.add(event.author)
        return len(copies) == self.group.group.f + 1


def under_service(rule: ProofRule) -> ProofRule:
    """A rule of evidence of the replicas, for a protocol that lets them order its events."""

    def judge(accused: str, events: tuple[LogEvent, ...], context: Context) -> str:
        if context.opened.ordering != "bft":
            raise PeerProtocolError("invalid_proof", "no replicas order this coordination")
        return rule(accused, events, service_context(context))

    return judge


def is_domain(event: LogEvent, family: str) -> bool:
    """Whether replicas order it: the protocol's own events, its deadlines and the cancel."""
    if event.type == DEADLINE_PASSED:
        return bool(event.content.name != OVERALL)
    return event.type == CANCEL or event.type.startswith(f"{family}.")
