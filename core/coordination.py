"""The life of one coordination as the log shows it.

``requested → claimed → opened → … → decided | failed | cancelled``, with any number of later claims
that supersede earlier ones. This fold is the single judge of what counts: coordinators,
participants, projectors, the simulator and the auditor all run it, so they cannot disagree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from .chain import ChainBook
from .errors import ConfigError, PeerProtocolError
from .evidence import KeyLookup, check_evidence
from .hashing import ZERO32, sha256
from .kernel_events import (
    TERMINAL_TYPES,
    CoordinationCancelled,
    CoordinationOpened,
    EventType,
    Participant,
)
from .machine import TERMINAL_KEY, Append, Context, Intent, LogEvent, Machine, Protocols

MachineRole = Literal["coordinator", "participant"]
RECENT_EVENTS = 4096
"""Events per author that a participant remembers for its chains; other roles remember all."""

MAX_ANNOUNCEMENTS = 4
"""Endings kept that replicas have not certified yet, with ``ordering: bft``."""

DECIDED = "coordination.decided"
FAILED = "coordination.failed"
DEADLINE = "deadline.passed"
CANCEL_REQUESTED = "coordination.cancel_requested"


def _no_secret(label: str) -> bytes:
    raise ValueError(f"an observer has no secret {label!r}")


class Coordination:
    """Fold of one coordination's events.

    Args:
        id: coordination id.
        protocols: known protocols by name.
        public_key: key of an (author, key id), ``None`` if never admitted; for evidence.
        role: which machine to run once the coordination is open.
        author: whose role that is, empty for an observer.
        secret: the author's secrets by label.
        invited: fold only the ``ctl`` records of an invitation, from ``coordination.opened`` on:
            the request and the claims are not in view, admission has checked the coordinator's
            role.

    Attributes:
        request, claim, opened, terminal: the events in force, ``None`` until they exist.
        announced: with ``ordering: bft`` and role ``participant``, the last terminal event a
            coordinator announced; replicas do not depend on it.
        cancel: the accepted cancel request, if any.
        machine: the protocol's machine once open.
        context: the frozen configuration once open.
        chains: author chains.
        events: admitted events folded, rejected ones included.
    """

    def __init__(
        self,
        id: str,
        protocols: Protocols,
        public_key: KeyLookup,
        *,
        role: MachineRole = "coordinator",
        author: str = "",
        secret: Callable[[str], bytes] = _no_secret,
        invited: bool = False,
    ) -> None:
        self.id = id
        self.invited = invited
        self.role = role
        self.author = author
        self.request: LogEvent | None = None
        self.claim: LogEvent | None = None
        self.opened: LogEvent | None = None
        self.terminal: LogEvent | None = None
        self.announced: LogEvent | None = None
        self.cancel: LogEvent | None = None
        self.machine: Machine | None = None
        self.context: Context | None = None
        self.chains = ChainBook(RECENT_EVENTS if role == "participant" else None)
        self.events = 0
        self.last_control = 0
        self.epoch = b""
        self._announcements: tuple[LogEvent, ...] = ()
        self._protocols = protocols
        self._secret = secret
        self._participants: dict[str, Participant] = {}
        self._public_key = public_key
        self._domain_types: Mapping[str, EventType] = {}

    # Reading ----------------------------------------------------------------------------------

    @property
    def coordinator(self) -> str:
        """Id of the coordinator in force, or empty."""
        return self.claim.author if self.claim else ""

    @property
    def term(self) -> int:
        """Term of the claim in force, 0 before the first."""
        return self.claim.content.term if self.claim else 0

    @property
    def config(self) -> CoordinationOpened | None:
        """The frozen configuration."""
        return self.opened.content if self.opened else None

    @property
    def phase(self) -> str:
        """``requested``, the protocol's phase, ``decided``, ``failed`` or ``cancelled``."""
        if self.terminal is not None:
            return self.terminal.type.removeprefix("coordination.")
        if self.machine is not None:
            return self.machine.phase()
        return "requested"

    def waiting_for(self) -> tuple[str, ...]:
        """Authors whose events would move the coordination on."""
        if self.terminal is not None:
            return ()
        if self.machine is not None:
            return self.machine.waiting_for()
        return (self.coordinator,) if self.claim else ()

    @property
    def is_ordered(self) -> bool:
        """Whether replicas order its events (``ordering: bft``)."""
        return self.opened is not None and self.opened.content.ordering == "bft"

    @property
    def is_provisional(self) -> bool:
        """Whether it failed in a way that a later certificate may still replace (BYZ-22b)."""
        terminal = self.terminal
        return terminal is not None and terminal.type == FAILED and not terminal.content.final

    def participant(self, agent_id: str) -> Participant | None:
        """The frozen participant with that id."""
        return self._participants.get(agent_id)

    def intents(self) -> Iterable[Intent]:
        """What this role would do now; opening itself is the coordinator host's business."""
        if self.terminal is not None and not self.is_provisional:
            return ()
        machine_intents = tuple(self.machine.intents()) if self.machine is not None else ()
        if self.is_provisional:
            ending = _terminal_of(machine_intents)
            return (ending,) if ending is not None and ending.type == DECIDED else ()
        if self.cancel is None or self.role != "coordinator" or _terminal_of(machine_intents):
            return machine_intents
        if self.is_ordered:  # the cancel is ordered like any request, and counts if it comes first
            return machine_intents
        body = CoordinationCancelled(self.cancel.content.reason)
        return (Append(TERMINAL_KEY, "coordination.cancelled", body, (self.cancel.id,)),)

    # Folding ----------------------------------------------------------------------------------

    def apply(self, event: LogEvent) -> None:
        """Fold one admitted event.

        Raises:
            PeerProtocolError: the event has no effect, for the reason given.
        """
        self.events += 1
        try:
            self._chain_and_fold(event)
        finally:
            if self._announcements:
                self._judge_announcements()

    def _chain_and_fold(self, event: LogEvent) -> None:
        try:
            self.chains.add(event.event)
        except PeerProtocolError as error:
            if error.reason != "duplicate" and self.is_ordered:
                self._fold_for_certificates(event)
            raise
        self._fold(event)

    def _fold_for_certificates(self, event: LogEvent) -> None:
        """Show the machine an event that breaks its author's chain: another reader may have seen it
        before the one it contradicts, and a certificate may name it."""
        with contextlib.suppress(PeerProtocolError):
            self.fold_again(event)

    def fold_again(self, event: LogEvent) -> None:
        """Show the machine an event that came too early for it and that it wants now.

        Raises:
            PeerProtocolError: the event has no effect.
        """
        if not self._is_of_epoch(event):
            return
        try:
            if event.type == CANCEL_REQUESTED:
                self._apply_cancel_requested(event)
            elif event.type in self._domain_types:
                self._apply_domain(event)
            elif event.type == DEADLINE:
                self._apply_deadline(event)
        finally:
            if self._announcements:
                self._judge_announcements()

    def show_again(self, event: LogEvent) -> None:
        """Fold an event that the chains know of, after they and the machine were restored.

        Raises:
            PeerProtocolError: the event has no effect.
        """
        if event.type in TERMINAL_TYPES:
            self._apply_terminal(event)
        else:
            self.fold_again(event)

    def _is_of_epoch(self, event: LogEvent) -> bool:
        """Whether it was signed for this configuration; a cancel may cross the opening."""
        epoch = event.event.header.epoch
        return epoch == self.epoch or (not epoch and event.type == CANCEL_REQUESTED)

    def _fold(self, event: LogEvent) -> None:
        header = event.event.header
        if not self._is_of_epoch(event):
            raise PeerProtocolError(
                "wrong_epoch",
                f"epoch {header.epoch.hex()[:12] or 'none'}, in force is "
                f"{self.epoch.hex()[:12] or 'none'}",
            )
        step = _STEPS.get(header.type)
        if step is not None:
            step(self, event)
        elif header.type in self._domain_types:
            self._apply_domain(event)
        else:
            raise PeerProtocolError("wrong_phase", f"{event.type} does not belong here now")

    def control_stored(self, sequence: int) -> None:
        """Note that a ``ctl`` record is stored at ``sequence``, whether or not it counts."""
        self.last_control = max(self.last_control, sequence)

    def _require_claimant(self, event: LogEvent) -> None:
        if self.invited:
            return
        if self.claim is None or event.author != self.claim.author:
            raise PeerProtocolError(
                "stale_fence", f"{event.author!r} does not hold the claim of {self.id!r}"
            )

    def _require_running(self) -> None:
        if self.terminal is not None and not self.is_provisional:
            raise PeerProtocolError("already_decided", f"{self.id!r} has its terminal event")

    def _apply_requested(self, event: LogEvent) -> None:
        if self.request is not None:
            raise PeerProtocolError("duplicate", f"{self.id!r} was requested before")
        self.request = event

    def _apply_claimed(self, event: LogEvent) -> None:
        self._require_running()
        previous = self.claim.id if self.claim else ZERO32
        if event.content.term != self.term + 1 or event.content.previous != previous:
            raise PeerProtocolError(
                "stale_fence", f"claim of term {event.content.term}, in force is {self.term}"
            )
        self.claim = event

    def _apply_opened(self, event: LogEvent) -> None:
        self._require_running()
        self._require_claimant(event)
        if self.opened is not None:
            raise PeerProtocolError("duplicate", f"{self.id!r} is open already")
        if not self.invited and (
            self.request is None or event.content.request_id != self.request.id
        ):
            raise PeerProtocolError("digest_mismatch", "it answers no request of this log")
        content: CoordinationOpened = event.content
        spec = self._protocols.get(content.protocol)
        if spec is None or content.protocol_version != spec.version:
            raise PeerProtocolError(
                "unknown_protocol",
                f"unknown protocol {content.protocol!r} version {content.protocol_version}",
            )
        try:
            config = msgspec.convert(content.config, spec.config_type)
        except (msgspec.ValidationError, ConfigError) as error:
            raise PeerProtocolError("invalid_config", f"{content.protocol}: {error}") from None
        if content.ordering not in spec.orderings:
            raise PeerProtocolError("invalid_config", f"{content.protocol} cannot be ordered so")
        participants = {p.agent_id: p for p in content.participants}
        if list(participants) != sorted(participants) or len(participants) != len(
            content.participants
        ):
            raise PeerProtocolError("invalid_config", "participants are not sorted and distinct")
        epoch = sha256(event.event.body)
        context = Context(
            self.id,
            epoch,
            event.id,
            content,
            config,
            self.author,
            self._secret,
            event.event.header.at_ns,
            self.request.author if self.request else "",
        )
        factory = spec.participant if self.role == "participant" else spec.coordinator
        self.machine = factory(context)
        self.opened, self.epoch, self.context = event, epoch, context
        self._participants = participants
        types = (*spec.event_types, *(spec.ordering_types if self.is_ordered else ()))
        self._domain_types = {kind.name: kind for kind in types}
        if self.cancel is not None and self.is_ordered:
            self.machine.apply(self.cancel)

    def _apply_domain(self, event: LogEvent) -> None:
        header = event.event.header
        kind = self._domain_types[header.type]
        takes_part = header.author in self._participants or kind.open_to_clients
        if "pub" not in kind.classes or not takes_part:
            if "ctl" not in kind.classes:
                raise PeerProtocolError(
                    "not_participant", f"{event.author!r} does not take part in {self.id!r}"
                )
            if not self.is_ordered:  # replicas order it, and the fold of that order judges it
                self._require_claimant(event)
        self._forward(event)

    def _apply_deadline(self, event: LogEvent) -> None:
        if not (self.is_ordered and event.author in self._participants):
            self._require_claimant(event)
        self._forward(event)

    def _forward(self, event: LogEvent) -> None:
        if self.machine is None:
            raise PeerProtocolError("wrong_phase", f"{self.id!r} is not open")
        member = self._participants.get(event.author)
        if member is not None and member.key_id != event.event.header.key_id:
            raise PeerProtocolError("unknown_key", f"{event.author!r} takes part with another key")
        if self.terminal is not None and self.terminal.type != DECIDED and not self.is_provisional:
            raise PeerProtocolError("late", f"{self.id!r} ended before")
        self.machine.apply(event)

    def _apply_terminal(self, event: LogEvent) -> None:
        self._require_running()
        self._require_claimant(event)
        if self.role == "participant":  # its machine decides nothing; the coordinator's fold judges
            if self.is_ordered:
                self.announced = event
            else:
                self.terminal = event
            return
        if event.type == FAILED and (
            self.machine is None or event.content.code == "internal_error"
        ):
            # Before the opening the audit recomputes it; later only a host can know of its own bug.
            if self.request is None:
                raise PeerProtocolError("wrong_phase", f"{self.id!r} was never requested")
            self.terminal = event
            return
        expected = _terminal_of(self.intents())
        is_mine = expected is not None and expected.matches(event)
        if is_mine or (self.is_ordered and self._is_supported(event)):
            self.terminal = event
        elif expected is None:
            reason = "not_authorised" if event.type == "coordination.cancelled" else "wrong_phase"
            raise PeerProtocolError(reason, f"{self.id!r} has reached no result yet")
        elif expected.type != event.type:
            raise PeerProtocolError("already_decided", f"the fold ends in {expected.type}")
        else:
            raise PeerProtocolError(
                "wrong_outcome",
                f"{event.author!r} reports a result that the events do not give",
                evidence=(event.id,),
            )

    def _is_supported(self, event: LogEvent) -> bool:
        """Whether replicas' certificates make an announcement right; if not yet, it is kept."""
        assert self.machine is not None
        if self.is_provisional and event.type != DECIDED:
            return False
        if self.machine.supports(event):
            return True
        self._announcements = (*self._announcements, event)[-MAX_ANNOUNCEMENTS:]
        return False

    def _judge_announcements(self) -> None:
        """An event that an announced ending rests on may have arrived."""
        for event in self._announcements:
            if self.terminal is None or (self.is_provisional and event.type == DECIDED):
                assert self.machine is not None
                if self.machine.supports(event):
                    self.terminal = event

    def _apply_cancel_requested(self, event: LogEvent) -> None:
        self._require_running()
        if self.request is None or event.author != self.request.author:
            raise PeerProtocolError("not_authorised", "only the requester may cancel")
        if self.machine is not None and _terminal_of(self.machine.intents()):
            raise PeerProtocolError("already_decided", "the result is irreversible")
        if self.cancel is None:
            self.cancel = event
        if self.machine is not None and self.is_ordered:
            self.machine.apply(event)

    def _apply_input_rejected(self, event: LogEvent) -> None:
        self._require_claimant(event)

    def _apply_evidence(self, event: LogEvent) -> None:
        check_evidence(event.content, self._public_key, self._protocols, self.context)
        if self.machine is not None and self.terminal is None:
            self.machine.apply(event)

    def _apply_outcome(self, event: LogEvent) -> None:
        """Kept for the reputation fold; it changes nothing here."""


def _terminal_of(intents: Iterable[Intent]) -> Append | None:
    for intent in intents:
        if isinstance(intent, Append) and intent.key == TERMINAL_KEY:
            return intent
    return None


_STEPS: dict[str, Callable[[Coordination, LogEvent], None]] = {
    "coordination.requested": Coordination._apply_requested,
    "coordination.claimed": Coordination._apply_claimed,
    "coordination.opened": Coordination._apply_opened,
    CANCEL_REQUESTED: Coordination._apply_cancel_requested,
    "coordination.input_rejected": Coordination._apply_input_rejected,
    "deadline.passed": Coordination._apply_deadline,
    "evidence.submitted": Coordination._apply_evidence,
    "outcome.reported": Coordination._apply_outcome,
    **dict.fromkeys(TERMINAL_TYPES, Coordination._apply_terminal),
}
