"""One coordination in the hands of a coordinator.

Level-triggered: whenever the log shows something new, or a timer is due, ``advance`` looks at what
the fold intends and starts the one next append. Everything it signs comes back through the log
before it counts, so takeover, restart and normal operation are the same path.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from ..author import Author
from ..coordination import Coordination
from ..envelope import Event
from ..errors import (
    AppendRefusedError,
    LocalProtocolError,
    LogUnavailableError,
    PeerProtocolError,
    SequenceConflictError,
)
from ..evidence import fits
from ..hashing import ZERO32
from ..journal import JournalError
from ..kernel_events import (
    CoordinationClaimed,
    CoordinationFailed,
    EvidenceSubmitted,
    InputRejected,
)
from ..log import Record, Submission
from ..machine import TERMINAL_KEY, After, Append, Intent, Key, LogEvent, Machine, Protocols
from ..opening import OpeningError, open_request
from ..telemetry import Telemetry, logger
from ..transport import RequestDelivery, Transport, encode_invitation
from .registry import RegistryView
from .reporting import protocol_of, report_ended, report_started
from .signed_chains import Signed, SignedChains

_log = logger("coordinator")

MAX_INPUTS_REJECTED = 10
"""``coordination.input_rejected`` events per author and coordination (specification 1.10)."""

MAX_OWN_REJECTED = 16
"""Own events of one session that may come back without effect; more is a loop, not a lost race."""

RETRY_S = 0.5
"""Pause before an append is tried again after the log could not be reached."""

PROVISIONAL_S = 10.0
"""How long a coordinator waits for a certificate after a failure that is not final (BYZ-22b)."""

_UNINVITED = frozenset(
    {"coordination.claimed", "coordination.input_rejected", "evidence.submitted"}
)
"""``ctl`` events that concern no participant's machine, and what others make as large as they like:
a proof carries the events of the accused."""


class Session:
    """Coordinates one coordination until its terminal event, or until superseded.

    Attributes:
        coordination: the fold.
        delivery: the request, unanswered while the session runs.
        done: set when the session is over.
        finished: whether it is over because the coordination is.
        superseded: whether it is over because the coordination is in other hands, or should be.
        position: last log sequence folded.
        refused: event that lost a race, or was signed in an earlier session, and is in no log yet.
    """

    def __init__(
        self,
        id: str,
        delivery: RequestDelivery,
        author: Author,
        transport: Transport,
        protocols: Protocols,
        registry: RegistryView,
        telemetry: Telemetry,
        chains: SignedChains,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.coordination = Coordination(id, protocols, registry.public_key)
        self.delivery = delivery
        self.done = asyncio.Event()
        self.finished = False
        self.superseded = False
        self.position = 0
        self._failure: CoordinationFailed | None = None
        self._held: list[Record] | None = None
        self._author = author
        self._transport = transport
        self._protocols = protocols
        self._registry = registry
        self._telemetry = telemetry
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()  # its clock times everything here
        self.refused: Event | None = None
        self._chains = chains
        self._own_number = -1  # of the last event of this key that the log has shown
        self._sent: dict[bytes, Event] = {}
        self._claims: set[bytes] = set()
        self._appending: asyncio.Task[None] | None = None
        self._blocked_at: int | None = None
        self._seen: dict[bytes, float] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._due: set[Key] = set()
        self._control: list[Record] = []
        self._invited_at: dict[str, int] = {}
        self._rejected: dict[str, dict[bytes, Append]] = {}
        self._told: set[bytes] = set()
        self._own_rejected = 0
        self._opened_at = self._loop.time()
        self._waits_until: float | None = None
        self._ended_here = False
        self._tasks: set[asyncio.Task[None]] = set()

    # Input ------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Keep what :meth:`take` gets until the history has been read."""
        self._held = []

    def release(self, history: Iterable[Record]) -> None:
        """Fold the history, then what was held meanwhile."""
        held, self._held = self._held or [], None
        self.take(history)
        self.take(held)

    def resume(self, signed: Signed | None, *, is_intact: bool, is_known: bool) -> None:
        """Go on behind what was signed here before; after :meth:`release`, before anything else.

        What the log lacks is sent again if it followed from nothing that is lost. Otherwise its
        number stays empty: a gap says that the log lost something, and accuses nobody.

        Args:
            signed: the newest event the journal holds of this coordination.
            is_intact: whether the log still holds what was known when it was signed.
            is_known: whether the journal and the log together show all that was signed here.
        """
        if self.coordination.terminal is not None and not self.coordination.is_provisional:
            return
        number = signed.event.header.author_seq if signed is not None else -1
        if self._own_number > number and not (signed is None and is_known):
            self.mute("the log shows events of this key that its journal does not know")
            return
        if signed is None:
            return
        event, chains = signed.event, self.coordination.chains
        self._author.resume(self.coordination.id, number + 1, event.id, event.header.at_ns)
        known = chains.find(self._author.id, number)
        if known == event.id:
            return
        if known is not None:
            self.mute("the log shows another event under a number signed here")
        elif is_intact and (number == 0 or chains.find(self._author.id, number - 1) is not None):
            self.refused = event
        else:
            _log.warning("log_lost_events", extra=self._fields(upto=str(number)))

    def take(self, records: Iterable[Record]) -> None:
        """Fold records of this coordination in log order; those already folded are skipped."""
        if self._held is not None:
            self._held.extend(records)
            return
        for record in records:
            if record.sequence > self.position:
                self.position = record.sequence
                try:
                    self._fold(record)
                except Exception as error:  # a bug of a machine; the rest must still be known
                    self.fail(error)

    def _fold(self, record: Record) -> None:
        is_control = record.subject.split(".", 5)[4] == "ctl"
        if is_control:
            self.coordination.control_stored(record.sequence)
        event = self._registry.admit(record, self._sent)
        if event is None:
            if any(record.wire == own.wire for own in self._sent.values()):
                self._step_down("own event not admitted")
            return
        age_s = max(0.0, (self._clock_ns() - record.stored_ns) / 1e9)
        self._seen[event.id] = self._loop.time() - (age_s if self.delivery.redelivered else 0.0)
        own = self._sent.pop(event.id, None) is not None
        header = event.event.header
        if event.author == self._author.id and header.key_id == self._author.key.key_id:
            self._own_number = max(self._own_number, header.author_seq)
            self._chains.came_back(event.event)
        try:
            self.coordination.apply(event)
        except PeerProtocolError as error:
            self._note_rejection(event, error, own)
            return
        if event.type == "coordination.input_rejected":
            self._told.add(event.content.event_id)
        elif event.type == "coordination.opened":
            self._opened_at = self._seen[event.id]
            if own:
                report_started(self._telemetry, self.coordination)
        if event is self.coordination.terminal:
            self._ended_here = own
        if is_control and self.coordination.opened is not None and event.type not in _UNINVITED:
            self._control.append(record)

    def _note_rejection(self, event: LogEvent, error: PeerProtocolError, own: bool) -> None:
        self._telemetry.count(
            "inputs_rejected", protocol=protocol_of(self.coordination), reason=error.reason
        )
        if own:
            self._own_rejected += 1
            if self._own_rejected > MAX_OWN_REJECTED:
                raise LocalProtocolError(f"own events have no effect: {error}")
        if self.coordination.participant(event.author) is None or error.reason == "duplicate":
            return
        verdicts = self._rejected.setdefault(event.author, {})
        if len(verdicts) < MAX_INPUTS_REJECTED:
            body = InputRejected(event.id, error.reason)
            key = ("input_rejected", event.id.hex())
            verdicts[event.id] = Append(key, "coordination.input_rejected", body, (event.id,))

    # Output -----------------------------------------------------------------------------------

    def advance(self) -> None:
        """Start what should happen next, if nothing is under way."""
        try:
            self._advance()
        except Exception as error:  # a bug of a machine ends its coordination, and only that
            self._crashed(error)

    def _advance(self) -> None:
        coordination = self.coordination
        if coordination.terminal is not None and not self._may_still_decide():
            self._finish()
            return
        if self._held is not None or coordination.request is None:
            return
        if self._appending is not None or self.done.is_set():
            return
        if self._blocked_at is not None:
            if coordination.last_control <= self._blocked_at:
                return
            self._blocked_at = None
        if coordination.claim is None or coordination.claim.id not in self._claims:
            if self._claims:
                self._step_down(f"superseded by {coordination.coordinator or 'nobody'}")
            elif not self._send_refused():
                self._start(self._claim())
            return
        if self._send_refused():
            return
        if self._failure is not None:
            self._start(Append(TERMINAL_KEY, "coordination.failed", self._failure))
            return
        intents = tuple(coordination.intents())
        append = self._opening() if coordination.opened is None and not intents else None
        append = append or self._next_append(intents)
        self._set_timers(intents)
        if append is not None:
            self._start(append)
        elif coordination.machine is not None:
            self._invite(coordination.machine)

    def _may_still_decide(self) -> bool:
        """Whether to wait on for a certificate that replaces a failure which is not final."""
        if not self.coordination.is_provisional:
            return False
        if self._waits_until is None:
            self._waits_until = self._loop.time() + PROVISIONAL_S
            self._loop.call_later(PROVISIONAL_S, self.advance)
        return self._loop.time() < self._waits_until

    def _send_refused(self) -> bool:
        """Send again what lost a race, before anything else: whether there was something.

        Nothing else may ever be signed under its number, or whoever saw it could prove a fork. By
        now it may have no effect; then it only fills its place in the author's chain.
        """
        event, self.refused = self.refused, None
        if event is not None:
            self._send_event(event)
        return event is not None

    def _claim(self) -> Append:
        claim = self.coordination.claim
        self._author.resume(self.coordination.id, *self.coordination.chains.head(self._author.id))
        body = CoordinationClaimed(self.coordination.term + 1, claim.id if claim else ZERO32)
        return Append(("claim",), "coordination.claimed", body)

    def _opening(self) -> Append:
        request = self.coordination.request
        assert request is not None
        try:
            opened = open_request(request, self._registry.keyring, self._author.id, self._protocols)
        except OpeningError as error:
            return Append(TERMINAL_KEY, "coordination.failed", error.body(), (request.id,))
        return Append(("open",), "coordination.opened", opened, (request.id,))

    def _next_append(self, intents: tuple[Intent, ...]) -> Append | None:
        for intent in intents:
            if isinstance(intent, Append) and not _is_too_large(intent):
                return intent
            if isinstance(intent, After) and intent.key in self._due:
                return intent.then
        for verdicts in self._rejected.values():
            for event_id, verdict in verdicts.items():
                if event_id not in self._told:
                    return verdict
        return None

    def _set_timers(self, intents: tuple[Intent, ...]) -> None:
        wanted = {intent.key: intent for intent in intents if isinstance(intent, After)}
        for key in [key for key in self._timers if key not in wanted]:
            self._timers.pop(key).cancel()
        for key, intent in wanted.items():
            if key not in self._timers and key not in self._due:
                since = self._seen.get(intent.since, self._loop.time())
                delay = max(0.0, since + intent.delay_ms / 1000 - self._loop.time())
                self._timers[key] = self._loop.call_later(delay, self._on_due, key)

    def _on_due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self._due.add(key)
        self._telemetry.count(
            "deadlines_passed", protocol=protocol_of(self.coordination), name=str(key[0])
        )
        self.advance()

    def _start(self, append: Append) -> None:
        event = self._author.sign(
            self.coordination.id,
            self.coordination.epoch,
            append.type,
            append.body,
            append.refs,
        )
        if append.type == "coordination.claimed":
            self._claims.add(event.id)
        self._send_event(event)

    def _send_event(self, event: Event) -> None:
        self._sent[event.id] = event
        # What was decided holds for the log as folded now, not as it may be when the task starts.
        expected = self.coordination.last_control
        self._appending = asyncio.create_task(self._append(event, expected))
        self._appending.add_done_callback(self._on_appended)

    async def _append(self, event: Event, expected: int) -> None:
        await self._chains.record(event)
        submission = Submission(event, "ctl", self._author.node, expected)
        while event.id in self._sent and not self.done.is_set():
            started = time.perf_counter()
            try:
                appended = await self._transport.log.append(submission)
            except SequenceConflictError:
                self._telemetry.count("sequence_conflicts")
                self._sent.pop(event.id, None)
                self.refused = event
                self._blocked_at = expected
                return
            except LogUnavailableError as error:
                _log.warning("log_unavailable", extra=self._fields(why=str(error)))
                await asyncio.sleep(RETRY_S)
                continue
            self._telemetry.observe("append", time.perf_counter() - started)
            self._blocked_at = appended.sequence - 1
            return

    def _on_appended(self, task: asyncio.Task[None]) -> None:
        self._appending = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, (AppendRefusedError, JournalError)):
            what = "append_refused" if isinstance(error, AppendRefusedError) else "not_journalled"
            _log.error(what, extra=self._fields(why=str(error), hint=error.hint))
            self._close()
        elif error is not None:
            self._crashed(error)
        else:
            self.advance()

    def fail(self, error: BaseException) -> None:
        """An unexpected error of this program: from now on all this session does is report it."""
        _log.error("session_failed", exc_info=error, extra=self._fields())
        if self._failure is None:
            message = f"{type(error).__name__}: {error}"[:400]
            self._failure = CoordinationFailed("internal_error", message)

    def _crashed(self, error: BaseException) -> None:
        if self._failure is not None:  # even reporting it fails
            _log.error("failure_not_reported", exc_info=error, extra=self._fields())
            self._close()
            return
        self.fail(error)
        self.advance()

    def _invite(self, machine: Machine) -> None:
        """Ask those the machine waits for, once after every ``ctl`` event; where all participants
        follow the coordination, ask each of them once."""
        at = self.coordination.last_control
        names = machine.waiting_for()
        if self.coordination.is_ordered and self.coordination.config is not None:
            names, at = tuple(p.agent_id for p in self.coordination.config.participants), 0
        absent = [name for name in names if self._invited_at.get(name) != at]
        members = [self.coordination.participant(name) for name in absent]
        if not any(members):
            return
        # Whoever follows the coordination reads the rest in the log.
        records = self._control[:1] if self.coordination.is_ordered else self._control
        payload = encode_invitation(self.coordination.id, records)
        for member in members:
            if member is not None:
                self._invited_at[member.agent_id] = at
                task = asyncio.create_task(self._send(member.node, member.agent_id, payload))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _send(self, node: str, agent: str, payload: bytes) -> None:
        while not self.done.is_set():
            try:
                await self._transport.invite(node, agent, self.coordination.id, payload)
                return
            except LogUnavailableError:
                await asyncio.sleep(RETRY_S)
            except AppendRefusedError as error:
                _log.error("invitation_refused", extra=self._fields(agent=agent, why=str(error)))
                return

    # End --------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self.done.is_set():
            return
        terminal = self.coordination.terminal
        assert terminal is not None
        if self._ended_here:
            duration_s = self._loop.time() - self._opened_at
            report_ended(self._telemetry, self.coordination, duration_s)
        self._close()
        self.finished = True

    def _step_down(self, why: str) -> None:
        _log.info("stepped_down", extra=self._fields(why=why))
        self._telemetry.count("claims_lost")
        self.superseded = True
        self._close()

    def mute(self, why: str) -> None:
        """Sign nothing here, for this key may have signed what is not known; others may go on."""
        _log.error("mute", extra=self._fields(why=why))
        self._telemetry.count("mute")
        self._close()

    def _close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._author.forget(self.coordination.id)
        self.done.set()

    def dismiss(self) -> None:
        """End the session for good: what was delivered is not the request of this coordination."""
        _log.warning("request_rejected", extra=self._fields())
        self._close()
        self.finished = True

    def stop(self) -> None:
        """End the session, unless it is over; another coordinator goes on."""
        if self.done.is_set():
            return
        if self._appending is not None:
            self._appending.cancel()
        self._close()

    def _fields(self, **extra: str) -> dict[str, str]:
        return {"coordination": self.coordination.id, **extra}


def _is_too_large(intent: Append) -> bool:
    """Whether it is evidence that no event can carry: nobody may block a coordination with that."""
    return isinstance(intent.body, EvidenceSubmitted) and not fits(intent.body)
