"""A client's chains, continued by one process at a time and across crashes.

Two commands that run at once sign with the same key, and a command that was killed may have signed
what the log shows only later. Whoever signs without knowing of the other uses a number of its chain
twice, which is proof of a fork (E7) against a client that meant no harm. Therefore a client with a
journal takes it for itself, looks up what was signed before, journals what it signs, and appends
that again if the log turns out not to have it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from .author import Author
from .coordination import Coordination
from .envelope import Event
from .errors import NotFoundError, UsageError, VerificationError
from .host.signed_chains import SignedChains
from .journal import Journal
from .log import Submission
from .names import EventClass
from .transport import Transport

OpenJournal = Callable[[], Awaitable[Journal]]
"""Opens the journal of the client's key, waiting for other processes that have it open."""

Read = Callable[[str], Awaitable[Coordination]]

REQUESTED = "coordination.requested"


class ClientChains:
    """Signs for a client.

    Args:
        author: the client's.
        transport: its connection.
        open_journal: without one nothing is journalled; then no other process may use the key.
    """

    def __init__(
        self, author: Author, transport: Transport, open_journal: OpenJournal | None = None
    ) -> None:
        self._author = author
        self._transport = transport
        self._open = open_journal
        self._signed: SignedChains | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def beginning(self, coordination: str, read: Read) -> AsyncIterator[None]:
        """While nobody else signs with this key, in a coordination that does not exist yet.

        Raises:
            JournalError: the journal cannot be had or written.
            UsageError: it exists.
            VerificationError: see :meth:`continuing`.
        """
        async with self._locked() as signed:
            if signed is not None and await self._exists(signed, coordination, read):
                raise UsageError(
                    f"there is a coordination {coordination!r} already",
                    hint=f"See 'mabeam coord show {coordination}', or choose another id.",
                )
            yield

    @asynccontextmanager
    async def continuing(
        self, coordination: str, read: Read, *, afresh: bool = False
    ) -> AsyncIterator[Coordination | None]:
        """While nobody else signs with this key, behind everything signed in a coordination.

        Args:
            coordination: whose chain will be continued.
            read: reads the fold of what is stored of it.
            afresh: read it although the chain is known.

        Yields:
            That fold, if it was read: always when nothing is known of the chain yet.

        Raises:
            JournalError: the journal cannot be had or written.
            NotFoundError: nothing is stored under that id.
            VerificationError: somebody else signs with this key.
        """
        async with self._locked() as signed:
            if signed is not None:
                yield await self._behind_all(signed, coordination, read, afresh=afresh)
            elif afresh or not self._author.knows(coordination):
                yield await self._behind_log(coordination, read)
            else:
                yield None

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[SignedChains | None]:
        if self._open is None:
            yield None
            return
        async with self._turn:
            journal = await self._open()
            try:
                await journal.drop_expired(time.time_ns())
                self._signed = SignedChains(journal)
                yield self._signed
            finally:
                self._signed = None
                await journal.close()

    async def _exists(self, signed: SignedChains, coordination: str, read: Read) -> bool:
        try:
            await self._behind_all(signed, coordination, read, afresh=True)
        except NotFoundError:
            return False
        return True

    async def _behind_log(self, coordination: str, read: Read) -> Coordination:
        fold = await read(coordination)
        self._author.resume(coordination, *fold.chains.head(self._author.id))
        return fold

    async def _behind_all(
        self, signed: SignedChains, coordination: str, read: Read, *, afresh: bool
    ) -> Coordination | None:
        newest = signed.newest(coordination)
        event = newest.event if newest is not None else None
        last = event.header.author_seq if event is not None else -1
        is_behind = last < self._author.next_number(coordination)
        if is_behind and self._author.knows(coordination) and not afresh:
            return None
        try:
            fold = await self._behind_log(coordination, read)
        except NotFoundError:
            if event is None:
                raise
            await self._send(event)
            fold = await self._behind_log(coordination, read)
        if event is None:
            return fold
        stored = fold.chains.find(self._author.id, last)
        if stored is None:
            await self._send(event)
        elif stored != event.id:
            raise VerificationError(
                f"the log has another event {last} of {self._author.id!r} in {coordination!r} than "
                "was signed here",
                hint="Somebody else signs with this key. Give every machine a client of its own.",
            )
        self._author.resume(coordination, last + 1, event.id, event.header.at_ns)
        return fold

    async def append(self, event: Event) -> None:
        """Append what was signed meanwhile, once it is journalled."""
        if self._signed is not None:
            await self._signed.record(event)
        await self._send(event)

    async def _send(self, event: Event) -> None:
        event_class: EventClass = "req" if event.header.type == REQUESTED else "pub"
        await self._transport.log.append(Submission(event, event_class, self._author.node))
