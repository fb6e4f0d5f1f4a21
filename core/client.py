"""The client: asks for coordinations, follows them, and checks what it is told.

A client verifies and folds every event of its coordination itself; the outcome it returns is one it
has recomputed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from .admission import DEFAULT_CLOCK_SKEW_MS, MAX_NESTING, is_shallow
from .author import Author, encode_body
from .client_chains import REQUESTED, ClientChains, OpenJournal
from .coordination import Coordination
from .envelope import Event
from .errors import MabeamError, NotFoundError, PeerProtocolError, UsageError, VerificationError
from .host.registry import RegistryView
from .kernel_events import (
    Body,
    CancelRequested,
    CapabilityQuery,
    CoordinationDecided,
    CoordinationFailed,
    CoordinationRequested,
    Invitee,
)
from .log import Record
from .machine import LogEvent, Protocols
from .names import check_id, is_reserved
from .opening import check_answer
from .succession import contradiction, link_of
from .telemetry import NoTelemetry, logger
from .transport import Transport

_log = logger("client")

Result = TypeVar("Result")
_REFUSED_HINT = "It has no effect, and never will; see 'mabeam coord show'."


class CoordinationFailedError(MabeamError):
    """A coordination ended in ``coordination.failed`` or was cancelled.

    Attributes:
        coordination: its id.
        failure: the failure code of the terminal event, or ``cancelled``.
        details: what the failure names (field, bound, missing ids …).
    """

    code = "coordination_failed"

    def __init__(
        self, coordination: str, failure: str, message: str, hint: str, details: dict[str, Any]
    ) -> None:
        super().__init__(f"{coordination}: {failure}: {message}", hint=hint)
        self.coordination = coordination
        self.failure = failure
        self.details = details


class Decision(msgspec.Struct, frozen=True):
    """What a coordination decided.

    Attributes:
        coordination: its id.
        outcome: the protocol's outcome, as recomputed here.
        terminal: the terminal event.
        opened: the event that froze the configuration.
    """

    coordination: str
    outcome: dict[str, Any]
    terminal: LogEvent
    opened: LogEvent


class Effect(msgspec.Struct, Generic[Result], frozen=True):
    """What became of an event a client submitted.

    Attributes:
        coordination: where it took effect: the one submitted to, or a successor of it.
        event_id: the event that did.
        result: what came of it.
    """

    coordination: str
    event_id: bytes
    result: Result


class Step(msgspec.Struct, frozen=True):
    """One event of a coordination as a follower sees it.

    Attributes:
        record: as stored.
        event: admitted event, ``None`` if admission refused it.
        reason: why it has no effect, empty if it counts.
        coordination: the fold after it.
    """

    record: Record
    event: LogEvent | None
    reason: str
    coordination: Coordination

    def refuses(self, event: Event) -> bool:
        """Whether this event has no effect, for a reason that nothing later can mend."""
        return self.reason not in ("", "duplicate", "late") and self.record.wire == event.wire


class Client:
    """A client of a deployment.

    Args:
        author: signs its requests.
        transport: its connection.
        protocols: known protocols.
        root_public_key: the deployment's root key.
        max_clock_skew_ms: see :class:`~mabeam.core.admission.Admission`.
        open_journal: opens the key's journal for each event that is signed. Needed where several
            processes use the key, or where one may be killed; see :mod:`.client_chains`.
    """

    def __init__(
        self,
        author: Author,
        transport: Transport,
        protocols: Protocols,
        root_public_key: bytes,
        *,
        max_clock_skew_ms: int = DEFAULT_CLOCK_SKEW_MS,
        open_journal: OpenJournal | None = None,
    ) -> None:
        self.author = author
        self.transport = transport
        self.protocols = protocols
        self._chains = ClientChains(author, transport, open_journal)
        self._following: asyncio.Task[None] | None = None
        self._epochs: dict[str, bytes] = {}
        self.registry = RegistryView(
            root_public_key, protocols, NoTelemetry(), max_clock_skew_ms=max_clock_skew_ms
        )

    async def request(
        self,
        protocol: str,
        config: Mapping[str, Any],
        participants: Sequence[str | Invitee] = (),
        *,
        query: CapabilityQuery | None = None,
        coordination: str | None = None,
        timeout_ms: int | None = None,
        **options: Any,
    ) -> str:
        """Append ``coordination.requested``; returns the coordination's id at once.

        Args:
            protocol: protocol name.
            config: the protocol's parameters; checked against its schema before anything is sent.
            participants: agent ids, or invitees with weights.
            query: choose participants by capability instead.
            coordination: id to use; a random one by default.
            timeout_ms: overall time-out.
            options: further fields of :class:`~mabeam.core.kernel_events.CoordinationRequested`.

        Raises:
            UsageError: the request is not well-formed.
        """
        spec = self.protocols.get(protocol)
        if spec is None:
            raise UsageError(
                f"there is no protocol {protocol!r}",
                hint=f"Known protocols: {', '.join(sorted(self.protocols))}.",
            )
        name = check_id(coordination or secrets.token_hex(16), "coordination id")
        if is_reserved(name):
            raise UsageError(f"coordination id {name!r}: names starting with '_' are reserved")
        try:
            if not is_shallow(dict(config)):
                raise UsageError(
                    f"{protocol}: the parameters are nested more than {MAX_NESTING} levels deep"
                )
            typed = msgspec.convert(dict(config), spec.config_type)
            body = CoordinationRequested(
                protocol=protocol,
                config=msgspec.to_builtins(typed, builtin_types=(bytes,)),
                participants=tuple(
                    p if isinstance(p, Invitee) else Invitee(check_id(p, "agent id"))
                    for p in participants
                ),
                query=query,
                overall_timeout_ms=timeout_ms,
                **options,
            )
            _check_readable(body)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"{protocol}: {error}", hint=f"See the parameters of {protocol}."
            ) from None
        async with self._chains.beginning(name, self.read):
            await self._chains.append(self.author.sign(name, b"", REQUESTED, body))
        return name

    async def watch(self, coordination: str) -> AsyncIterator[Step]:
        """Every event of a coordination, verified and folded, ending with the terminal one."""
        await self._follow_registry()
        async with aclosing(self.transport.log.follow(coordination)) as records:
            async for step in self._steps(coordination, records):
                yield step

    async def _steps(
        self, coordination: str, records: AsyncIterator[Record]
    ) -> AsyncIterator[Step]:
        fold = Coordination(coordination, self.protocols, self.registry.public_key)
        async for record in records:
            step = await self._fold(fold, record)
            yield step
            if fold.terminal is not None:
                return

    def _trust(self, fold: Coordination) -> Coordination:
        """The same fold, unless its coordinator opened something else than was asked for."""
        if fold.request is not None and fold.opened is not None:
            try:
                check_answer(fold.request, fold.opened.content, self.protocols)
            except PeerProtocolError as error:
                raise VerificationError(
                    f"{fold.opened.author!r} opened {fold.id!r} in its own way: {error}",
                    hint=f"Its coordinator lies. See 'mabeam audit verify {fold.id}'.",
                ) from None
        return fold

    async def read(self, coordination: str) -> Coordination:
        """The fold of what is stored of a coordination now.

        Raises:
            NotFoundError: nothing is stored under that id.
        """
        fold = Coordination(coordination, self.protocols, self.registry.public_key)
        for record in await self.transport.log.read(coordination):
            await self._fold(fold, record)
        if fold.events == 0:
            raise NotFoundError(
                f"there is no coordination {coordination!r}", hint="See 'mabeam coord ls'."
            )
        return fold

    async def _fold(self, fold: Coordination, record: Record) -> Step:
        if record.subject.split(".", 5)[4] == "ctl":
            fold.control_stored(record.sequence)
        event = self.registry.admit(record)
        if event is None:  # its author may have been admitted a moment ago
            await self.registry.load(self.transport.log)
            event = self.registry.admit(record)
        if event is None:
            return Step(record, None, "not_admitted", fold)
        try:
            fold.apply(event)
        except PeerProtocolError as error:
            return Step(record, event, error.reason, fold)
        return Step(record, event, "", fold)

    async def _follow_registry(self) -> None:
        """Have the registry loaded and kept up to date in the background."""
        if self._following is None or self._following.done():
            await self.registry.load(self.transport.log)
            self._following = asyncio.create_task(self.registry.follow(self.transport.log))
            self._following.add_done_callback(_retrieve)  # the next use begins anew

    async def result(self, coordination: str) -> Decision:
        """Wait for a coordination to end.

        Raises:
            CoordinationFailedError: it failed or was cancelled.
        """
        await self._follow_registry()
        async with aclosing(self.transport.log.follow(coordination)) as records:
            return await self._conclude(coordination, records)

    async def _conclude(self, coordination: str, records: AsyncIterator[Record]) -> Decision:
        fold = None
        async for step in self._steps(coordination, records):
            fold = step.coordination
        assert fold is not None
        assert fold.terminal is not None
        self._trust(fold)
        self.author.forget(coordination)
        self._epochs.pop(coordination, None)
        content = fold.terminal.content
        if isinstance(content, CoordinationDecided):
            assert fold.opened is not None
            return Decision(coordination, content.outcome, fold.terminal, fold.opened)
        raise _failure(fold)

    async def decide(
        self,
        protocol: str,
        config: Mapping[str, Any],
        participants: Sequence[str | Invitee] = (),
        *,
        coordination: str | None = None,
        **options: Any,
    ) -> Decision:
        """:meth:`request` and :meth:`result` in one."""
        if coordination is not None:
            await self.request(protocol, config, participants, coordination=coordination, **options)
            return await self.result(coordination)
        await self._follow_registry()
        name = secrets.token_hex(16)
        async with aclosing(self.transport.log.follow(name, None)) as records:
            first = asyncio.ensure_future(anext(records))
            await asyncio.sleep(0)  # subscribed before the request goes out on the same connection
            try:
                await self.request(protocol, config, participants, coordination=name, **options)
                return await self._conclude(name, _joined(first, records))
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)

    async def cancel(self, coordination: str, reason: str = "") -> None:
        """Ask for a coordination of this client's to be cancelled."""
        async with self._chains.continuing(coordination, self.read, afresh=True) as fold:
            epoch = fold.epoch if fold is not None else b""
            body = CancelRequested(reason)
            event = self.author.sign(coordination, epoch, "coordination.cancel_requested", body)
            await self._chains.append(event)

    async def submit(
        self, coordination: str, type_name: str, make_body: Callable[[int], Body]
    ) -> bytes:
        """Append an event of this client's to a coordination that is open to clients.

        Args:
            coordination: its id.
            type_name: type of the event.
            make_body: makes the body from the event's number in this client's chain, which grows
                with every event.

        Returns:
            The event's id.

        Raises:
            NotFoundError: nothing is stored under that id.
            UsageError: it is not open, or nobody would accept the event.
        """
        return (await self._submit(coordination, type_name, make_body)).id

    async def _submit(
        self, coordination: str, type_name: str, make_body: Callable[[int], Body]
    ) -> Event:
        async with self._chains.continuing(coordination, self.read) as fold:
            epoch = self._epochs.get(coordination)
            if epoch is None:
                fold = fold or await self.read(coordination)
                if fold.opened is None:
                    hint = f"See 'mabeam coord show {coordination}'."
                    raise UsageError(f"{coordination!r} is not open", hint=hint)
                epoch = self._epochs[coordination] = self._trust(fold).epoch
            body = make_body(self.author.next_number(coordination))
            try:
                _check_readable(body)
            except msgspec.ValidationError as error:
                raise UsageError(f"{type_name}: {error}") from None
            event = self.author.sign(coordination, epoch, type_name, body)
            await self._chains.append(event)
        return event

    async def until(
        self, coordination: str, result_of: Callable[[Coordination], Result | None]
    ) -> Result:
        """Follow a coordination until ``result_of`` its fold is not ``None``.

        Raises:
            CoordinationFailedError: it ended before.
        """
        fold, result = await self._first(coordination, result_of)
        if result is None:
            raise _failure(fold)
        return result

    async def execute(
        self,
        coordination: str,
        type_name: str,
        make_body: Callable[[int], Body],
        result_of: Callable[[Coordination, bytes], Result | None],
    ) -> Effect[Result]:
        """:meth:`submit` an event and wait for its effect, in a successor if need be.

        What had not taken effect when a coordination was handed over never will; only then is it
        submitted to the successor, as an event of its own. So it takes effect at most once.

        Args:
            coordination: its id, or that of a predecessor.
            type_name, make_body: see :meth:`submit`.
            result_of: what came of the event with an id, ``None`` as long as nothing did.

        Raises:
            CoordinationFailedError: it ended before, and nothing goes on in its place.
            VerificationError: what goes by the successor's name is not it.
        """
        while True:
            fold = await self.latest(coordination)
            if fold.terminal is not None:
                raise _failure(fold)
            event = await self._submit(fold.id, type_name, make_body)
            fold, result = await self._first(
                fold.id, partial(_about, result_of, event.id), own=event
            )
            if result is not None:
                return Effect(fold.id, event.id, result)
            coordination = fold.id
            self.author.forget(coordination)
            self._epochs.pop(coordination, None)

    async def latest(self, coordination: str) -> Coordination:
        """What is stored of the last of a chain of successors; of the coordination itself, if it
        was not handed over. Waits for a successor that is not open yet.

        Raises:
            NotFoundError: nothing is stored under that id.
            CoordinationFailedError: a successor was refused.
            VerificationError: what goes by a successor's name is not it.
        """
        fold = await self.read(coordination)
        while (handover := link_of(fold).handover) is not None:
            following, is_open = await self._first(handover.successor, _is_open)
            if not is_open:
                raise _failure(following)
            wrong = contradiction(link_of(following), link_of(fold))
            if wrong:
                raise VerificationError(
                    f"{following.id!r} is not the successor of {fold.id!r}: {wrong}",
                    hint=f"See who asked for it: mabeam coord show {following.id}",
                )
            fold = await self.read(following.id)
        return fold

    async def _first(
        self,
        coordination: str,
        result_of: Callable[[Coordination], Result | None],
        own: Event | None = None,
    ) -> tuple[Coordination, Result | None]:
        """Follow until ``result_of`` the fold is not ``None``, ``own`` is refused or it ends."""
        await self._follow_registry()
        async with aclosing(self.transport.log.follow(coordination)) as records:
            async for step in self._steps(coordination, records):
                if own is not None and step.refuses(own):
                    raise CoordinationFailedError(
                        coordination, step.reason, "it was refused", _REFUSED_HINT, {}
                    )
                result = result_of(step.coordination)
                if result is not None:
                    return self._trust(step.coordination), result
        return self._trust(step.coordination), None

    async def agents(self) -> RegistryView:
        """The registry, up to date."""
        await self.registry.load(self.transport.log)
        return self.registry


def _check_readable(body: Body) -> None:
    """Whether others will be able to read a body.

    Raises:
        msgspec.ValidationError: they will not.
    """
    as_read = msgspec.msgpack.decode(encode_body(body), type=type(body))
    if fault := as_read.fault():
        raise msgspec.ValidationError(fault)
    fields = msgspec.to_builtins(body, builtin_types=(bytes,))
    if not all(map(is_shallow, fields.values())):
        raise msgspec.ValidationError(f"nested more than {MAX_NESTING} levels deep")


def _is_open(fold: Coordination) -> bool | None:
    return True if fold.opened is not None else None


def _about(
    result_of: Callable[[Coordination, bytes], Result | None], event_id: bytes, fold: Coordination
) -> Result | None:
    return result_of(fold, event_id)


def _failure(fold: Coordination) -> CoordinationFailedError:
    """Why nothing more comes of a coordination that ended."""
    assert fold.terminal is not None
    content = fold.terminal.content
    if isinstance(content, CoordinationFailed):
        return CoordinationFailedError(
            fold.id, content.code, content.message, content.hint, content.details
        )
    if isinstance(content, CoordinationDecided):
        return CoordinationFailedError(fold.id, "ended", "it ended before", "", {})
    return CoordinationFailedError(fold.id, "cancelled", content.reason or "cancelled", "", {})


async def _joined(first: Awaitable[Record], rest: AsyncIterator[Record]) -> AsyncIterator[Record]:
    yield await first
    async for record in rest:
        yield record


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.debug("registry_not_followed", exc_info=task.exception())
