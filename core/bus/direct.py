"""Batched direct get: the messages of a subject filter, page by page, from any replica."""

from __future__ import annotations

import asyncio
import json

from nats.aio.msg import Msg

from ..errors import LogUnavailableError
from ..log import Record
from .connection import Connection
from .pipeline import ATTEMPT_S, BUDGET_S, FIRST_PAUSE_S, LONGEST_PAUSE_S
from .wire import record_from_headers, status_of

PAGE = 1000
PAGE_BYTES = 8 * 1024 * 1024
"""Bounds of one page, so that the client library never has to drop a message."""


class _Page:
    def __init__(self, done: asyncio.Future[bool]) -> None:
        self.done = done
        self.records: list[Record] = []
        self.timer: asyncio.TimerHandle | None = None


class DirectReader:
    """Reads all messages under a subject filter. Call :meth:`open` before the first read."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._inbox = connection.new_inbox()
        self._pages: dict[int, _Page] = {}
        self._token = 0

    async def open(self) -> None:
        """Subscribe to the inbox."""
        await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        self._connection.on_lost.append(self._on_lost)
        self._connection.on_refused.append(self._on_refused)

    async def read(self, subjects: str, after: int = 0) -> list[Record]:
        """All messages with sequence > ``after``, in order, as one replica has them.

        Raises:
            LogUnavailableError: no complete answer in time.
        """
        records: list[Record] = []
        more = True
        while more:
            page, more = await self.page(subjects, after)
            if page:
                records += page
                after = page[-1].sequence
        return records

    async def page(self, subjects: str, after: int) -> tuple[list[Record], bool]:
        """The next messages after ``after``, and whether there are more.

        Raises:
            LogUnavailableError: no complete answer in time.
        """
        loop = asyncio.get_running_loop()
        expires = loop.time() + BUDGET_S
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await self._read_page(subjects, after)
            except LogUnavailableError:
                if loop.time() + pause > expires:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _read_page(self, subjects: str, after: int) -> tuple[list[Record], bool]:
        loop = asyncio.get_running_loop()
        self._token = token = self._token + 1
        page = self._pages[token] = _Page(loop.create_future())
        query = {
            "seq": after + 1,
            "batch": PAGE,
            "max_bytes": PAGE_BYTES,
            "next_by_subj": subjects,
        }
        page.timer = loop.call_later(ATTEMPT_S, _fail, page, "no answer to a read of the log")
        try:
            reply = f"{self._inbox}.{token}"
            await self._connection.publish(self._subject, json.dumps(query).encode(), reply)
            more = await page.done
        finally:
            page.timer.cancel()
            del self._pages[token]
        return page.records, more

    async def _on_message(self, message: Msg) -> None:
        page = self._pages.get(int(message.subject[len(self._inbox) + 1 :]))
        if page is None or page.done.done():
            return
        status = status_of(message)
        headers = message.headers or {}
        if status is None:
            # Each message names its predecessor in the page; 0 for the first.
            previous = int(headers["Nats-Last-Sequence"])
            expected = page.records[-1].sequence if page.records else previous
            if previous != expected:
                page.done.set_exception(LogUnavailableError("a page of the log arrived in part"))
                return
            page.records.append(record_from_headers(message))
        elif status == "204":
            page.done.set_result(headers.get("Nats-Num-Pending", "0") != "0")
        elif status == "404":
            page.done.set_result(False)
        else:
            _fail(page, f"reading the log: {status} {headers.get('Description', '')}".rstrip())

    def _on_lost(self) -> None:
        for page in self._pages.values():
            _fail(page, "the connection was lost during a read of the log")

    def _on_refused(self, subject: str) -> None:
        if subject == self._subject.lower():
            for page in self._pages.values():
                _fail(page, "not permitted to read the log")


def _fail(page: _Page, text: str) -> None:
    if not page.done.done():
        page.done.set_exception(LogUnavailableError(text))
