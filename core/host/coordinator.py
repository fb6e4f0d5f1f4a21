"""The coordinator host: shares the requests with its peers and runs one session per coordination.

It follows the whole log, so every session sees a complete, contiguous sequence; what happened to a
coordination before the session began is read from the log, because one whose beginning is not known
(votes stored before the request, a second request for an old one) would be folded wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..author import Author
from ..errors import LogUnavailableError, MabeamError
from ..journal import Journal, JournalError
from ..log import Record
from ..machine import Protocols
from ..names import REGISTRY, is_requestable
from ..telemetry import Telemetry, logger
from ..transport import RequestDelivery, Transport
from .health import HealthMonitor
from .registry import RegistryView
from .session import Session
from .signed_chains import SignedChains

_log = logger("coordinator")

TIDY_S = 30.0
"""How often the journal drops what is over."""


class CoordinatorHost:
    """Runs one coordinator.

    Args:
        author: signs for it.
        transport: its connection.
        protocols: known protocols.
        registry: live view of the registry.
        journal: its sign-once journal.
        telemetry: where figures go.
        capacity: coordinations run at a time.
        progress_s: how often the log is told that a request is still being worked on, seconds; well
            below the redelivery time of the request queue.
        clock_ns: wall clock.
    """

    def __init__(
        self,
        author: Author,
        transport: Transport,
        protocols: Protocols,
        registry: RegistryView,
        journal: Journal,
        telemetry: Telemetry,
        *,
        capacity: int = 256,
        progress_s: float = 1.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.author = author
        self.transport = transport
        self.registry = registry
        self.telemetry = telemetry
        self.sessions: dict[str, Session] = {}
        self.position = 0
        self.chains = SignedChains(journal, clock_ns)
        self.health = HealthMonitor(author, transport, registry, telemetry, self.chains, clock_ns)
        self._clock_ns = clock_ns
        self._protocols = protocols
        self._capacity = capacity
        self._progress_s = progress_s
        self._moved = asyncio.Event()
        self._draining = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Coordinate until drained or cancelled."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._follow()),
                group.create_task(self._progress()),
                group.create_task(self._tidy()),
                group.create_task(self.health.run()),
            ]
            await self._ready.wait()
            _log.info("coordinator_ready", extra={"coordinator": self.author.id})
            await self._serve()
            for task in tasks:
                task.cancel()

    def drain(self) -> None:
        """Stop taking requests; :meth:`run` returns when the sessions in hand are over."""
        self._draining.set()

    # The log ----------------------------------------------------------------------------------

    async def _follow(self) -> None:
        head = await self.transport.log.head()
        self.position = head.sequence
        await self.chains.begin(self.transport.log)
        if self.chains.lost_ns:
            _log.error("log_lost_its_tail", extra={"coordinator": self.author.id})
        await self.registry.load(self.transport.log)
        self.health.resume()
        self._ready.set()
        async for batch in self.transport.log.follow_all(self.position):
            self.chains.seen = batch[-1]
            touched = self._route(batch)
            self._moved.set()
            self._moved = asyncio.Event()
            for session in touched:
                session.advance()

    def _route(self, batch: list[Record]) -> list[Session]:
        touched: dict[str, Session] = {}
        for record in batch:
            self.position = record.sequence
            name = record.subject.split(".", 4)[3]
            session = self.sessions.get(name)
            if name == REGISTRY:
                self.registry.apply(record)
            elif session is not None:
                touched[name] = session
                session.take((record,))
        return list(touched.values())

    # Requests ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        taking = asyncio.create_task(self._take())
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({taking, draining}, return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
            try:
                await taking
            except asyncio.CancelledError:
                if not self._draining.is_set():
                    raise
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in (taking, draining, *self._tasks):
                task.cancel()

    async def _take(self) -> None:
        async for delivery in self.transport.requests(self._capacity):
            task = asyncio.create_task(self._coordinate(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _coordinate(self, delivery: RequestDelivery) -> None:
        name = delivery.record.subject.split(".", 4)[3]
        if not is_requestable(name):  # nobody can ever coordinate that
            self.telemetry.count("inputs_rejected", protocol="none", reason="wrong_coordination")
            _log.warning("request_rejected", extra={"coordination": name})
            await self._answering(delivery.ack())
            return
        if name in self.sessions:
            await self._answer_again(self.sessions[name], delivery)
            return
        if not self._may_coordinate():
            await self._answering(delivery.release(1000))
            return
        session = Session(
            name,
            delivery,
            self.author,
            self.transport,
            self._protocols,
            self.registry,
            self.telemetry,
            self.chains,
            self._clock_ns,
        )
        self.sessions[name] = session
        self.telemetry.gauge("sessions", len(self.sessions))
        try:
            await self._begin(session)
            await session.done.wait()
        except MabeamError as error:
            _log.warning("session_not_begun", extra={"coordination": name, "why": str(error)})
        finally:
            session.stop()  # unless it is over
            self.sessions.pop(name, None)
            self.telemetry.gauge("sessions", len(self.sessions))
        await self._answer(session)

    async def _answer_again(self, session: Session, delivery: RequestDelivery) -> None:
        """Answer what is delivered while a session of the same coordination is in hand."""
        sequence, request = delivery.record.sequence, session.coordination.request
        if session.delivery.record.sequence == sequence:
            # Delivered again while in hand: the lease ran out, but nobody else took it.
            session.delivery = delivery
        elif request is None or request.sequence == sequence:
            # At most one of the two is the request; it will be clear which.
            await self._answering(delivery.release(1000))
        else:  # a coordination has one request, and that is in hand
            await self._answering(delivery.ack())

    def _may_coordinate(self) -> bool:
        """Whether this key may act now; a revoked coordinator leaves requests to the others."""
        entry = self.registry.keyring.current(self.author.id)
        return (
            entry is not None
            and entry.key_id == self.author.key.key_id
            and "coordinator" in entry.certificate.roles
        )

    async def _begin(self, session: Session) -> None:
        """Give the session what the log holds of its coordination so far."""
        session.hold()
        history = await self.transport.log.read(session.coordination.id)
        while history and history[-1].sequence > self.position:
            await self._moved.wait()  # the registry must be known as far as the history
        signed = self.chains.newest(session.coordination.id)
        is_intact = True
        if signed is not None and not any(each.wire == signed.event.wire for each in history):
            is_intact = await signed.place.is_in(self.transport.log)
        session.release(history)
        request = session.delivery.record
        if signed is None and request.stored_ns <= self.chains.lost_ns:
            session.mute("the log has lost its tail since, and the journal knows nothing of it")
        is_known = self.chains.knows_all_of(request)
        session.resume(signed, is_intact=is_intact, is_known=is_known)
        counts = session.coordination.request
        if session.position >= request.sequence and (
            counts is None or counts.sequence != request.sequence
        ):
            session.dismiss()
        session.advance()

    async def _answer(self, session: Session) -> None:
        if session.finished:
            await self._answering(session.delivery.ack())
        elif not session.superseded:
            await self._answering(session.delivery.release(1000))

    async def _answering(self, answer: Awaitable[None]) -> None:
        try:
            await answer
        except LogUnavailableError as error:  # unanswered, so it comes again
            _log.warning("request_not_answered", extra={"why": str(error)})

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                await self.chains.tidy(self.transport.log, self.sessions)
            except (JournalError, LogUnavailableError) as error:  # tried again next time
                _log.warning("journal_not_tidied", extra={"why": str(error)})

    async def _progress(self) -> None:
        """Extend the lease of everything in hand."""
        while True:
            await asyncio.sleep(self._progress_s)
            for session in list(self.sessions.values()):
                try:
                    await session.delivery.progress()
                except LogUnavailableError:
                    break
