"""The participant host: takes invitations, runs the agent's code, signs once, publishes.

An invitation carries the coordination's ``ctl`` records. The host verifies them from the root key
on, folds them into the participant's machine and does what it intends. Nothing else is kept: after
a crash the invitation comes again and the journal says what was already signed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ..agent import Agent, answer
from ..author import Author
from ..coordination import Coordination
from ..envelope import Event, decode_event
from ..errors import LogUnavailableError, MabeamError, PeerProtocolError, UsageError
from ..hashing import ZERO32
from ..journal import Entry, Journal
from ..kernel_events import AgentRegistered
from ..log import Submission
from ..machine import Append, Ask, AskFailed, LogEvent, Protocols
from ..names import REGISTRY, is_reserved
from ..telemetry import Telemetry, logger
from ..transport import Invitation, InvitationDelivery, Transport
from .following import Following
from .registry import RegistryView
from .signed_chains import SignedChains
from .slots import EXPIRY_GRACE_MS, decode_answer, encode_answer, expiry_ns, slot_of

_log = logger("agent")
_invitation_decoder = msgspec.msgpack.Decoder(Invitation)


class ParticipantHost:
    """Runs one agent.

    Args:
        agent: the user's agent.
        author: signs for it.
        transport: its connection.
        protocols: known protocols.
        registry: live view of the registry.
        journal: its sign-once journal.
        telemetry: where figures go.
        clock_ns: wall clock.
    """

    def __init__(
        self,
        agent: Agent,
        author: Author,
        transport: Transport,
        protocols: Protocols,
        registry: RegistryView,
        journal: Journal,
        telemetry: Telemetry,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.agent = agent
        self.author = author
        self.transport = transport
        self.protocols = protocols
        self.registry = registry
        self.journal = journal
        self.telemetry = telemetry
        self.tasks: set[asyncio.Task[None]] = set()
        self._clock_ns = clock_ns
        self._busy: set[str] = set()
        self._following = Following(
            agent, author, transport, protocols, registry, journal, telemetry, clock_ns
        )
        self._chains = SignedChains(journal, clock_ns)
        self._stored: dict[str, bytes] = {}  # last event of a coordination known to be in the log
        self._draining = asyncio.Event()

    async def run(self) -> None:
        """Register, then serve invitations until drained or cancelled."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self.registry.follow(self.transport.log))
            tidying = group.create_task(self._tidy())
            await self.register()
            await self._following.resume()
            _log.info("agent_ready", extra={"agent": self.author.id})
            await self._serve()
            following.cancel()
            tidying.cancel()

    def drain(self) -> None:
        """Stop taking invitations; :meth:`run` returns when those in hand are finished."""
        self._draining.set()

    async def register(self) -> None:
        """Announce the agent, unless the registry already says the same, and settle what the
        journal vouches for.

        If this key had registered before, a new journal vouches for nothing until now: its
        predecessor may have signed in anything opened, and the agent stays mute there.
        """
        view = self.registry
        await view.load(self.transport.log)
        await self._resume_registry()
        wanted = AgentRegistered(
            node=self.author.node,
            capabilities=tuple(self.agent.capabilities),
            model_type=self.agent.model_type,
            cost_per_request_micros=self.agent.cost_per_request_micros,
            max_concurrent=self.agent.max_concurrent,
        )
        if view.keyring.current(self.author.id) is None:
            raise UsageError(
                f"{self.author.id!r} is not admitted to this deployment",
                hint=f"Run: mabeam key admit {self.author.id}",
            )
        known = view.keyring.agent(self.author.id).registered
        if self.journal.born is None:
            head = await self.transport.log.head()
            self.journal.begin(head.sequence if known is not None else 0)
        if known != wanted:
            event = self.author.sign(REGISTRY, b"", "agent.registered", wanted)
            await self._chains.record(event)
            await self.transport.log.append(Submission(event, "pub", self.author.node))

    async def _resume_registry(self) -> None:
        """Continue the chain in the registry; what the log lacks of it is sent again first."""
        view = self.registry
        self.author.resume(REGISTRY, *view.chains.head(self.author.id))
        signed = self._chains.newest(REGISTRY)
        if signed is None:
            return
        event, header = signed.event, signed.event.header
        self.author.resume(REGISTRY, header.author_seq + 1, event.id, header.at_ns)
        if view.chains.find(self.author.id, header.author_seq) is None:
            await self.transport.log.append(Submission(event, "pub", self.author.node))
            await view.load(self.transport.log)

    async def _serve(self) -> None:
        limit = self.agent.max_concurrent
        invitations = self.transport.invitations(self.author.node, self.author.id, limit)
        serving = asyncio.create_task(self._take(invitations))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            try:
                await serving
            except asyncio.CancelledError:
                if not self._draining.is_set():
                    raise
            if self.tasks:
                await asyncio.wait(self.tasks)
        finally:
            for task in (serving, draining, *self.tasks):
                task.cancel()
            await self._following.stop()

    async def _take(self, invitations: Any) -> None:
        async for delivery in invitations:
            task = asyncio.create_task(self._handle(delivery))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _handle(self, delivery: InvitationDelivery) -> None:
        try:
            if await self._accept(delivery):
                await delivery.ack()
            else:
                await delivery.release(1000)
        except LogUnavailableError as error:  # unanswered, so it comes again
            _log.warning("invitation_not_answered", extra={"why": str(error)})
        except Exception:  # a bug of a machine; it comes again, others are not affected
            self.telemetry.count("invitation_crashed")
            _log.exception("invitation_crashed")

    async def _accept(self, delivery: InvitationDelivery) -> bool:
        """Do what an invitation asks for; whether it is dealt with for good."""
        try:
            coordination, opened = await self._open(delivery.payload)
            self._check_time(opened)
            if coordination.is_ordered:
                await self._following.join(opened)
                return True
            if coordination.id in self._busy:
                return False
            self._busy.add(coordination.id)
            try:
                await self._take_part(coordination, opened)
            finally:
                self._busy.discard(coordination.id)
        except PeerProtocolError as error:
            self.telemetry.count("invitation_rejected", reason=error.reason)
            _log.warning("invitation_rejected", extra={"reason": error.reason, "why": str(error)})
        except MabeamError as error:
            _log.warning("invitation_failed", extra={"code": error.code, "why": str(error)})
            return False
        return True

    def _check_time(self, opened_at: LogEvent) -> None:
        if opened_at.sequence <= (self.journal.born or 0):
            raise PeerProtocolError("not_vouched", "opened before this journal began: staying mute")
        if self._clock_ns() > expiry_ns(opened_at):
            raise PeerProtocolError("expired", "the coordination's time is over")

    async def _take_part(self, coordination: Coordination, opened_at: LogEvent) -> None:
        keep_until_ns = expiry_ns(opened_at) + EXPIRY_GRACE_MS * 1_000_000
        for intent in coordination.intents():
            if isinstance(intent, Ask):
                await self._report(coordination, intent, keep_until_ns)
            elif isinstance(intent, Append):
                await self._publish(coordination, intent, Entry(b""), keep_until_ns)

    async def _open(self, payload: bytes) -> tuple[Coordination, LogEvent]:
        """Verify and fold an invitation."""
        try:
            invitation = _invitation_decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PeerProtocolError("malformed", f"not an invitation: {error}") from None
        if is_reserved(invitation.coordination):
            raise PeerProtocolError("invalid_invitation", "the coordination's name is reserved")
        coordination = Coordination(
            invitation.coordination,
            self.protocols,
            self.registry.keyring.public_key,
            role="participant",
            author=self.author.id,
            secret=lambda label: self.author.secret(invitation.coordination, label),
            invited=True,
        )
        for record in invitation.records:
            event = self.registry.admit(record)
            if event is None:  # its author may be newer than what this agent has seen
                await self.registry.load(self.transport.log)
                event = self.registry.admit(record)
            if event is None or event.coordination != invitation.coordination:
                raise PeerProtocolError("invalid_invitation", "a record of it is not admissible")
            coordination.apply(event)
        if coordination.opened is None:
            raise PeerProtocolError("invalid_invitation", "it does not open anything")
        me = coordination.participant(self.author.id)
        if me is None or me.key_id != self.author.key.key_id:
            raise PeerProtocolError("not_participant", "this key does not take part")
        return coordination, coordination.opened

    async def _report(self, coordination: Coordination, ask: Ask, keep_until_ns: int) -> None:
        asked = slot_of(coordination.epoch, ask.key)
        journalled = self.journal.find_answer(coordination.id, asked)
        if journalled is not None:
            append = ask.reply(decode_answer(journalled, ask.answer_type))
            await self._publish(coordination, append, Entry(b""), keep_until_ns)
            return
        result = await answer(self.agent, ask)
        try:
            append = ask.reply(result)
        except UsageError as error:
            result = AskFailed("wrong_answer", str(error)[:400])
            append = ask.reply(result)
        failed = isinstance(result, AskFailed)
        self.telemetry.count("requests_answered", result="failed" if failed else "ok")
        given = Entry(b"", encode_answer(result), asked)
        await self._publish(coordination, append, given, keep_until_ns)

    async def _publish(
        self, coordination: Coordination, append: Append, given: Entry, keep_until_ns: int
    ) -> None:
        slot = slot_of(coordination.epoch, append.key)
        before = self.journal.find(coordination.id, slot)
        if before is not None:
            await self._republish(before.wire)
            return
        await self._resume_chain(coordination.id)
        event = self.author.sign(
            coordination.id, coordination.epoch, append.type, append.body, append.refs
        )
        try:
            await self.journal.sign_once(
                coordination.id,
                slot,
                msgspec.structs.replace(given, wire=event.wire),
                keep_until_ns,
            )
        except MabeamError:
            self.author.withdraw(event)
            raise
        await self._append(event)

    async def _resume_chain(self, coordination: str) -> None:
        """Continue behind what the journal holds, and leave no gap: what was signed before may not
        have reached the log, and nobody may ask for it any more."""
        last = self.journal.last_event(coordination)
        if last is None:
            self.author.resume(coordination, 0, ZERO32, 0)
            return
        header = last.header
        self.author.resume(coordination, header.author_seq + 1, last.id, header.at_ns)
        if self._stored.get(coordination) != last.id:
            await self._append(last)

    async def _republish(self, wire: bytes) -> None:
        await self._append(decode_event(wire))

    async def _append(self, event: Event) -> None:
        started = time.perf_counter()
        await self.transport.log.append(Submission(event, "pub", self.author.node))
        self._stored[event.header.coordination] = event.id
        self.telemetry.observe("append", time.perf_counter() - started)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(30)
            for coordination in await self.journal.drop_expired(self._clock_ns()):
                self._forget(coordination)

    def _forget(self, coordination: str) -> None:
        self.author.forget(coordination)
        self._stored.pop(coordination, None)
