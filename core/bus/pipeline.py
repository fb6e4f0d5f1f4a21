"""Many requests in flight on one inbox, each answered once, retried with the same bytes.

A request that got no answer says nothing about whether it was carried out: it is sent again on a
new connection, when its time is up, and, after a pause, when no stream leader answered (503).
"""

from __future__ import annotations

import asyncio

from nats.aio.msg import Msg

from ..errors import LogUnavailableError, PermissionRefusedError
from .connection import Connection
from .frames import publish_frame
from .wire import status_of

WINDOW = 1000
"""Requests in flight; more wait."""

BUDGET_S = 20.0
"""How long a request is retried. A stream may be without a leader for ten seconds."""

ATTEMPT_S = 5.0
SWEEP_S = 0.025
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5


class _Request:
    __slots__ = (
        "before",
        "due",
        "expires",
        "future",
        "headers",
        "pause",
        "payload",
        "resend",
        "subject",
    )

    def __init__(
        self,
        subject: str,
        payload: bytes,
        headers: bytes,
        future: asyncio.Future[Msg],
        expires: float,
        resend: bool,
        before: bytes,
    ) -> None:
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.future = future
        self.expires = expires
        self.resend = resend
        self.before = before
        self.due = 0.0
        self.pause = FIRST_PAUSE_S


class Pipeline:
    """Requests over one connection. Call :meth:`open` before the first."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._cut = len(self._inbox) + 1
        self._pending: dict[int, _Request] = {}
        self._token = 0
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._resending: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Subscribe to the inbox and to the fate of the connection."""
        await self._connection.subscribe(f"{self._inbox}.*", self._on_reply)
        self._connection.on_lost.append(self._on_lost)
        self._connection.on_connected.append(self._on_connected)
        self._connection.on_refused.append(self._on_refused)

    @property
    def in_flight(self) -> int:
        """Requests not answered yet."""
        return len(self._pending)

    def close(self) -> None:
        """Fail what is unanswered and every later request."""
        self._closed = True
        for request in list(self._pending.values()):
            _fail(request, LogUnavailableError("the connection was closed before an answer came"))
        self._pending.clear()
        self._room.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._resending is not None:
            self._resending.cancel()

    async def request(
        self,
        subject: str,
        payload: bytes,
        headers: bytes = b"",
        *,
        budget_s: float = BUDGET_S,
        resend: bool = True,
        before: bytes = b"",
    ) -> Msg:
        """Send a message and return its reply.

        Args:
            subject: where to.
            payload: message bytes; every attempt sends the same.
            headers: block of header lines.
            budget_s: how long to try.
            resend: whether the message may be sent more than once.
            before: frames to be sent right before the message, with nothing in between.

        Raises:
            PermissionRefusedError: the connection may not publish on ``subject``.
            LogUnavailableError: no answer within ``budget_s``, or, without ``resend``, none to
                the first attempt. The request may have been carried out all the same.
        """
        loop = asyncio.get_running_loop()
        while len(self._pending) >= WINDOW and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise LogUnavailableError("the connection is closed")
        if self._connection.is_refused:
            raise LogUnavailableError(
                "the server refuses the key of this connection",
                hint="Was the member removed or its key rotated?",
            )
        self._token = token = self._token + 1
        future: asyncio.Future[Msg] = loop.create_future()
        expires = loop.time() + budget_s
        request = _Request(subject, payload, headers, future, expires, resend, before)
        self._pending[token] = request
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_S, self._sweep)
        try:
            await self._send(token, request)
            return await future
        finally:
            self._pending.pop(token, None)
            if not self._room.is_set():
                self._room.set()

    async def _send(self, token: int, request: _Request) -> None:
        request.due = min(asyncio.get_running_loop().time() + ATTEMPT_S, request.expires)
        try:
            reply = f"{self._inbox}.{token}"
            frame = publish_frame(request.subject, reply, request.headers, request.payload)
            await self._connection.send(request.before + frame if request.before else frame)
        except LogUnavailableError as error:
            if not request.resend:
                _fail(request, error)

    async def _on_reply(self, message: Msg) -> None:
        request = self._pending.get(int(message.subject[self._cut :]))
        if request is None or request.future.done():
            return
        if message.headers and status_of(message) == "503":
            if request.resend:
                request.due = asyncio.get_running_loop().time() + request.pause
                request.pause = min(2 * request.pause, LONGEST_PAUSE_S)
            else:
                _fail(request, LogUnavailableError("the stream has no leader at the moment"))
            return
        request.future.set_result(message)

    def _on_lost(self) -> None:
        for request in self._pending.values():
            if not request.resend:
                _fail(request, LogUnavailableError("the connection was lost before an answer came"))

    def _on_connected(self) -> None:
        for request in self._pending.values():
            request.due = 0.0
        self._sweep()

    def _on_refused(self, subject: str) -> None:
        error = f"not permitted to publish on {subject}"
        for request in self._pending.values():
            if request.subject.lower() == subject:
                hint = "Do role, node and id of the key match the event's subject?"
                _fail(request, PermissionRefusedError(error, hint=hint))

    def _sweep(self) -> None:
        """Give up what is out of time; send again what is due."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = []
        for token, request in self._pending.items():
            if request.expires <= now or (request.due <= now and not request.resend):
                _fail(request, self._late(request))
            elif request.due <= now and self._connection.is_connected:
                due.append(token)
        if due and (self._resending is None or self._resending.done()):
            self._resending = loop.create_task(self._resend(due))
        if self._pending:
            self._timer = loop.call_later(SWEEP_S, self._sweep)

    async def _resend(self, tokens: list[int]) -> None:
        for token in tokens:
            request = self._pending.get(token)
            if request is not None and not request.future.done():
                self._connection.counters.retries += 1
                await self._send(token, request)

    def _late(self, request: _Request) -> LogUnavailableError:
        state = "no answer" if self._connection.is_connected else "no connection"
        return LogUnavailableError(
            f"{state} to a message on {request.subject} within the time allowed",
            hint="It may have been stored all the same; sending the same bytes again is safe.",
        )


def _fail(request: _Request, error: Exception) -> None:
    if not request.future.done():
        request.future.set_exception(error)
