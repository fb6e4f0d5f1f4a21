"""Coordinations an agent follows: joined on invitation, resumed after a restart, ended in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from ..agent import Agent
from ..author import Author
from ..coordination import Coordination
from ..errors import LimitError, LogUnavailableError, MabeamError, PeerProtocolError
from ..journal import Entry, Journal
from ..log import Record
from ..machine import LogEvent, Protocols
from ..names import event_subject
from ..opening import check_answer
from ..telemetry import Telemetry, logger
from ..transport import Transport
from .membership import Membership
from .registry import RegistryView
from .slots import EXPIRY_GRACE_MS, FOLLOWED, expiry_ns, followed_slot, over_slot
from .snapshots import newest_note

_log = logger("agent")

MAX_FOLLOWED = 1_000
"""Coordinations one agent follows at a time; further invitations wait."""

RETRY_S = 1.0


class Following:
    """The memberships of one agent.

    Args:
        agent, author, transport, protocols, registry, journal, telemetry, clock_ns: of its host.
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
        clock_ns: Callable[[], int],
    ) -> None:
        self.members: dict[str, asyncio.Task[None]] = {}
        self._agent = agent
        self._author = author
        self._transport = transport
        self._protocols = protocols
        self._registry = registry
        self._journal = journal
        self._telemetry = telemetry
        self._clock_ns = clock_ns

    async def join(self, opened: LogEvent) -> None:
        """Take part from now on, across restarts; returns when that is durable.

        Raises:
            LimitError: too many coordinations are being followed.
            PeerProtocolError: it was opened before, in another way.
            JournalError: it could not be written.
        """
        name = opened.coordination
        if name in self.members:
            return
        epoch = opened.event.header.body_sha256
        if self._has_signed_otherwise(name, epoch):
            message = "takes part under the configuration opened first"
            raise PeerProtocolError("duplicate", message)
        if len(self.members) >= MAX_FOLLOWED:
            raise LimitError(f"{MAX_FOLLOWED} coordinations are being followed already")
        if self._journal.find(name, over_slot(epoch)) is not None:
            return
        keep_until_ns = expiry_ns(opened) + EXPIRY_GRACE_MS * 1_000_000
        note = Entry(msgspec.msgpack.encode(_record(opened, self._author.node)))
        await self._journal.sign_once(name, followed_slot(epoch), note, keep_until_ns)
        self._start(opened)

    def _has_signed_otherwise(self, coordination: str, epoch: bytes) -> bool:
        """Whether something was signed under another configuration of it: both share one chain, and
        no rule says what a vote under the one means for the other."""
        own = followed_slot(epoch)
        keys = self._journal.keys(coordination, own[:1])
        return any(len(key) > len(own) and key[: len(own)] != own for key in keys)

    async def resume(self) -> None:
        """Go on with what was followed before a restart."""
        for name, key in self._journal.slots(FOLLOWED, 2):
            note = self._journal.find(name, key)
            assert note is not None
            record = msgspec.msgpack.decode(note.wire, type=Record)
            opened = self._registry.admit(record)
            if opened is None or self._clock_ns() > expiry_ns(opened):
                continue
            if self._journal.find(name, over_slot(opened.event.header.body_sha256)) is None:
                self._start(opened)

    async def stop(self) -> None:
        """End all memberships; a restart resumes them."""
        tasks = list(self.members.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, opened: LogEvent) -> None:
        name = opened.coordination
        if name not in self.members:
            task = self.members[name] = asyncio.create_task(self._follow(opened))
            task.add_done_callback(lambda _: self.members.pop(name, None))

    async def _follow(self, opened: LogEvent) -> None:
        """Take part to the end, whatever happens to single memberships."""
        left_s = (expiry_ns(opened) - self._clock_ns()) / 1e9
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                while not await self._take_part(opened):
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            _log.info("membership_expired", extra={"coordination": opened.coordination})
        except PeerProtocolError as error:
            self._telemetry.count("invitation_rejected", reason=error.reason)
            _log.warning("invitation_rejected", extra={"reason": error.reason, "why": str(error)})

    async def _take_part(self, opened: LogEvent) -> bool:
        """One membership; whether it came to its end."""
        keep_until_ns = expiry_ns(opened) + EXPIRY_GRACE_MS * 1_000_000
        try:
            coordination = await self._open(opened)
            if coordination is None:
                return False
            member = Membership(
                coordination,
                opened,
                self._agent,
                self._author,
                self._transport,
                self._registry,
                self._journal,
                self._telemetry,
                self._clock_ns,
                keep_until_ns,
            )
            await member.run()
            over = over_slot(coordination.epoch)
            await self._journal.sign_once(coordination.id, over, Entry(b"over"), keep_until_ns)
        except PeerProtocolError:
            raise
        except LogUnavailableError as error:
            _log.warning("log_unavailable", extra={"why": str(error)})
            return False
        except MabeamError as error:
            _log.error("membership_failed", extra={"code": error.code, "why": str(error)})
            return False
        except Exception:  # a bug of a machine; the journal lets a new membership go on
            self._telemetry.count("invitation_crashed")
            _log.exception("membership_crashed")
            return False
        return True

    async def _open(self, opened: LogEvent) -> Coordination | None:
        """The fold from the request on, or ``None`` while the log does not show the request."""
        name = opened.coordination
        coordination = Coordination(
            name,
            self._protocols,
            self._registry.keyring.public_key,
            role="participant",
            author=self._author.id,
            secret=lambda label: self._author.secret(name, label),
            invited=True,
        )
        request = await self._request_of(opened)
        if request is None:
            return None
        coordination.apply(request)
        coordination.apply(opened)
        check_answer(request, opened.content, self._protocols)
        return coordination

    async def _request_of(self, opened: LogEvent) -> LogEvent | None:
        """The request that an opening answers; a snapshot tells where it was."""
        name, log = opened.coordination, self._transport.log
        note = newest_note(self._journal, name, opened.event.header.body_sha256)
        record = await log.record_at(note.requested) if note is not None else None
        event = self._find_request(opened, [record] if record is not None else [])
        return event or self._find_request(opened, await log.read(name))

    def _find_request(self, opened: LogEvent, records: Iterable[Record]) -> LogEvent | None:
        for record in records:
            event = self._registry.admit(record)
            if event is not None and event.id == opened.content.request_id:
                return event
        return None


def _record(opened: LogEvent, node: str) -> Record:
    subject = event_subject(opened.coordination, "ctl", opened.type, node, opened.author)
    return Record(opened.sequence, opened.stored_ns, subject, opened.event.wire)
