"""What the embedded servers share: start, readiness, stop, crash and restart on the same data.

Waiting is always for a condition (the server answers) and always bounded. Methods block; the
``…_async`` twins do the same in a worker thread. An object is used by one task at a time.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ..core.errors import MabeamError
from .child_process import ChildProcess

_POLL_INTERVAL_S = 0.02
_LOG_TAIL_BYTES = 4096
# Below the range from which kernels give ports to outgoing connections: a client that reconnects
# while the server is down can then never take the server's own port.
_PORTS = range(20_000, 32_000)


class EmbeddedServerError(MabeamError):
    """An embedded server is not installed, does not start, or does not become ready in time."""

    code = "embedded_server"
    exit_code = 5


def free_port() -> int:
    """A TCP port that nothing on this machine listens on now, chosen at random.

    Raises:
        EmbeddedServerError: a hundred ports in a row were taken.
    """
    for _ in range(100):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedServerError(
        f"no free TCP port found between {_PORTS.start} and {_PORTS.stop - 1}",
        hint="Stop other servers on this machine.",
    )


class EmbeddedServer(ABC):
    """A server of this program on loopback, with its data in one directory.

    Ports and data stay the same for the life of the object, so clients reconnect after
    :meth:`restart`. Use it as a (plain or asynchronous) context manager, or end it with
    :meth:`stop`; failing both it ends with the program.
    """

    program: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    # Log lines of a start that fails only because the previous process is not quite gone yet.
    transient_failures: ClassVar[tuple[str, ...]]

    def __init__(self, directory: Path) -> None:
        """Keep everything in ``directory``, created when missing. Nothing is started yet."""
        self.directory = directory.resolve()
        self.log_path = self.directory / f"{self.program}.log"
        self._process: ChildProcess | None = None
        self._log_start = 0  # length of the log when the present process started

    @abstractmethod
    def _prepare(self) -> None:
        """Write files the command needs. Called before every start, so it must be repeatable."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Program and arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server answers now and has recovered its data."""

    def _user_id(self) -> int | None:
        """User to run as, ``None`` for the present one."""
        return None

    @property
    def pid(self) -> int | None:
        """Process id, ``None`` unless running."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the process exists; see :meth:`is_ready` for whether it serves."""
        return self._process is not None and self._process.exit_code() is None

    def start(self, *, wait: bool = True, timeout_s: float = 30.0) -> None:
        """Start the server; running already is no error.

        Args:
            wait: return when it is ready. Members of a cluster are ready only together: start
                all with ``wait=False``, then call :meth:`wait_ready` on each.
            timeout_s: bound of that wait.

        Raises:
            EmbeddedServerError: not installed, ended during start, or not ready in time.
        """
        if not self.is_running:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._prepare()
            self._spawn()
        if wait:
            self.wait_ready(timeout_s=timeout_s)

    def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """Return when the server is ready.

        Raises:
            EmbeddedServerError: it ended, or is not ready after ``timeout_s`` seconds; the
                message quotes the end of the log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running:
                if not any(text in self.log_tail() for text in self.transient_failures):
                    raise self._failure("ended instead of serving")
                self._spawn()
            elif self.is_ready():
                return
            time.sleep(_POLL_INTERVAL_S)
        raise self._failure(f"was not ready within {timeout_s:g} s")

    def stop(self, *, timeout_s: float = 15.0) -> None:
        """End the server in good order, kill it after ``timeout_s`` seconds. Idempotent."""
        if self._process is not None:
            self._process.end(timeout_s)

    def kill(self) -> None:
        """Crash the server with SIGKILL. Data stays; :meth:`start` recovers it."""
        if self._process is not None:
            self._process.kill()

    def restart(self, *, timeout_s: float = 30.0) -> None:
        """Stop if running, then start on the same data and ports and wait until ready."""
        self.stop()
        self.start(timeout_s=timeout_s)

    async def start_async(self, *, wait: bool = True, timeout_s: float = 30.0) -> None:
        """:meth:`start` without blocking the event loop."""
        await asyncio.to_thread(self.start, wait=wait, timeout_s=timeout_s)

    async def stop_async(self, *, timeout_s: float = 15.0) -> None:
        """:meth:`stop` without blocking the event loop."""
        await asyncio.to_thread(self.stop, timeout_s=timeout_s)

    async def restart_async(self, *, timeout_s: float = 30.0) -> None:
        """:meth:`restart` without blocking the event loop."""
        await asyncio.to_thread(self.restart, timeout_s=timeout_s)

    def log_tail(self) -> str:
        """The last 4 KiB that the present process logged, empty before the first start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def _spawn(self) -> None:
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        command = self._command()
        try:
            self._process = ChildProcess(
                command,
                log_path=self.log_path,
                stop_signal=self.stop_signal,
                user_id=self._user_id(),
            )
        except OSError as error:
            raise EmbeddedServerError(
                f"{command[0]} cannot be executed: {error}",
                hint="The package may hold a build for another platform; install it again.",
            ) from error

    def _failure(self, what: str) -> EmbeddedServerError:
        return EmbeddedServerError(
            f"{self.program} {what}: {self.log_tail() or 'it logged nothing'}",
            hint=f"Read {self.log_path}.",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.stop_async()
