"""``/livez``, ``/readyz`` and ``/metrics`` of a daemon: a few lines of HTTP, GET only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from .embedded_server import EmbeddedServerError

MAX_REQUEST_BYTES = 16 * 1024
REQUEST_TIMEOUT_S = 5.0


class Check(msgspec.Struct, frozen=True):
    """One condition of readiness.

    Attributes:
        name: what is checked.
        ok: whether it holds.
        detail: what was found, for people.
    """

    name: str
    ok: bool
    detail: str = ""


Checks = Callable[[], Awaitable[Sequence[Check]]]
_Answer = tuple[int, str, bytes]


class HealthServer:
    """Answers health requests of one daemon.

    Args:
        host, port: where; port 0 chooses a free one.
        checks: conditions of readiness.
        metrics: the text of ``/metrics``.
    """

    def __init__(self, host: str, port: int, checks: Checks, metrics: Callable[[], bytes]) -> None:
        self.host = host
        self.port = port
        self._checks = checks
        self._metrics = metrics
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; :attr:`port` is then the real one.

        Raises:
            EmbeddedServerError: the address is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, self.host, self.port, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot listen on {self.host}:{self.port} for health requests: {error.strerror}",
                hint="Set metrics_port to a free port, or to 0 to choose one.",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._answer(head.split(b"\r\n", 1)[0].decode("latin1"))
                writer.write(
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the other side went away or talks something else
        finally:
            writer.close()

    async def _answer(self, line: str) -> _Answer:
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return 405, "text/plain", b"GET only\n"
        if path == "/livez":
            return 200, "text/plain", b"ok\n"
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics()
        if path == "/readyz":
            checks = await self._checks()
            ready = all(check.ok for check in checks)
            text = {"ready": ready, "checks": msgspec.to_builtins(checks)}
            return 200 if ready else 503, "application/json", json.dumps(text).encode() + b"\n"
        return 404, "text/plain", b"/livez /readyz /metrics\n"


_REASONS = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}
