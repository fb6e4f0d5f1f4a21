"""A whole deployment on this machine: a real server, real daemons, each its own process.

Used by ``mabeam dev``, the demonstration, the benchmark and the chaos tests. Methods block; from a
coroutine call them through ``asyncio.to_thread``. Only processes started here are ever ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ..core.bus.jetstream import JetStreamTransport
from ..core.client import Client
from ..core.errors import MabeamError, NotFoundError
from ..core.identity import Role
from .blocking import run_blocking
from .child_process import ChildProcess
from .daemon_log import last_event
from .embedded_server import free_port
from .health_address import ask, health_address_path, read_health_address
from .home import OPERATOR, Home, Member
from .membership import Applicant, admit, announce, provision_streams, revoke, rotate, set_up
from .nats_server import EmbeddedNats
from .server_reload import reload_server, server_pid
from .wiring import Wiring

READY_TIMEOUT_S = 30.0
_POLL_S = 0.05
_ENDING_S = 2.0
_TAIL_BYTES = 64 * 1024

Result = TypeVar("Result")


class DaemonError(MabeamError):
    """A daemon ended or did not become ready in time; the message says why, by its log."""

    code = "daemon"


class LocalDeployment:
    """A deployment directory with its server and daemons.

    Example:
        >>> with LocalDeployment(Path("var")) as deployment:  # doctest: +SKIP
        ...     deployment.create()
        ...     deployment.start_server()
        ...     deployment.provision()
        ...     deployment.admit("c1", ("coordinator",))
        ...     deployment.spawn_coordinator("c1")
    """

    def __init__(self, home: Path | Home) -> None:
        self.home = home if isinstance(home, Home) else Home(home)
        self.server: EmbeddedNats | None = None
        self.daemons: dict[str, ChildProcess] = {}
        self._log_starts: dict[str, int] = {}  # length of a daemon's log when it started
        self._announced = ""  # what this program wrote into the server's pid file

    # Set-up -----------------------------------------------------------------------------------

    def create(self, *, client_port: int = 0, monitor_port: int = 0, **settings: str | int) -> None:
        """Create the directory: settings, root key, the operator's key.

        Args:
            client_port, monitor_port: ports of the server, kept for ever; 0 chooses free ones.
            settings: further settings to write to ``mabeam.toml``.
        """
        ports = {
            "url": f"nats://127.0.0.1:{client_port or free_port()}",
            "monitor_url": f"http://127.0.0.1:{monitor_port or free_port()}",
        }
        set_up(self.home, **(ports | settings))

    def start_server(self, *, timeout_s: float = READY_TIMEOUT_S) -> EmbeddedNats:
        """Start the server on the ports and data of this home, or start it again.

        Raises:
            DaemonError: another program runs it; nothing was touched.
        """
        if self.server is None:
            self._check_alone()
            self.home.write_server_config()
            self.server = EmbeddedNats(
                self.home.nats_directory, config=self.home.server_config_path
            )
            config = self.home.config()
            self.server.client_port = int(config.url.rpartition(":")[2])
            self.server.monitor_port = int(config.monitor_url.rpartition(":")[2])
        self.server.start(timeout_s=timeout_s)
        self._announced = f"{self.server.pid}\n"
        self.home.server_pid_path.write_text(self._announced)
        return self.server

    def _check_alone(self) -> None:
        """Refuse a second deployment here; a server whose program was killed is about to end."""
        deadline = time.monotonic() + _ENDING_S
        while (pid := server_pid(self.home)) is not None:
            if time.monotonic() > deadline:
                raise DaemonError(
                    f"mabeam dev runs here already: {self.home.path} (server process {pid})",
                    hint="Use that one, end it first, or give another --home DIRECTORY.",
                )
            time.sleep(_POLL_S)

    def reload_server(self) -> None:
        """Have the server read its configuration again; returns when it has."""
        if self.server is not None and self.server.is_running:
            reload_server(self.home)

    def provision(self) -> None:
        """Create or check the streams, and make the operator itself known to the registry."""
        config = self.home.config()

        async def work(transport: JetStreamTransport) -> None:
            await provision_streams(config, transport)
            await announce(self.home, transport)

        self.operate(work)

    def admit(
        self,
        id: str,
        roles: Sequence[Role] = ("agent",),
        node: str = "",
        controller: str = "ops",
    ) -> Member:
        """Admit one id: key, certificate, ``agent.admitted``, server configuration, reload."""
        return self.admit_many([Applicant(id, tuple(roles), node, controller)])[0]

    def admit_many(self, applicants: Sequence[Applicant]) -> list[Member]:
        """Admit several ids in one step."""
        admissions = self.operate(lambda transport: admit(self.home, transport, applicants))
        self.reload_server()
        return [each.member for each in admissions]

    def rotate(self, id: str) -> Member:
        """Replace the keys of an id; its daemon must be started again."""
        member = self.operate(lambda transport: rotate(self.home, transport, id))
        self.reload_server()
        return member

    def revoke(self, id: str, reason: str = "") -> None:
        """Void the keys of an id and cut its connection."""
        self.operate(lambda transport: revoke(self.home, transport, id, reason))
        self.reload_server()

    def operate(
        self, work: Callable[[JetStreamTransport], Coroutine[Any, Any, Result]], id: str = OPERATOR
    ) -> Result:
        """Run a coroutine with a connection of an id (the operator's by default)."""

        async def connected() -> Result:
            transport = await Wiring(self.home, id).connect()
            try:
                return await work(transport)
            finally:
                await transport.close()

        return run_blocking(connected())

    async def connect(self, id: str) -> JetStreamTransport:
        """A connection of an id, in the caller's event loop; close it yourself."""
        return await Wiring(self.home, id).connect()

    async def client(self, id: str = "client") -> Client:
        """A connected client, in the caller's event loop; close its ``transport`` yourself."""
        wiring = Wiring(self.home, id)
        return wiring.client(await wiring.connect())

    # Daemons ----------------------------------------------------------------------------------

    def spawn_coordinator(self, id: str, *, wait: bool = True) -> ChildProcess:
        """Run a coordinator as a process of its own."""
        return self.spawn(id, "coordinator", "run", "--id", id, wait=wait)

    def spawn_agent(
        self, id: str, target: str, pythonpath: Path | None = None, *, wait: bool = True
    ) -> ChildProcess:
        """Run an agent (``module:factory``, found below ``pythonpath``) as a process of its own."""
        path = ("--path", str(pythonpath)) if pythonpath is not None else ()
        return self.spawn(id, "agent", "run", target, "--id", id, *path, wait=wait)

    def spawn_projector(self, id: str, *, wait: bool = True) -> ChildProcess:
        """Run a projector as a process of its own."""
        return self.spawn(id, "projector", "run", "--id", id, wait=wait)

    def spawn(self, id: str, *arguments: str, wait: bool = True) -> ChildProcess:
        """Run ``mabeam ARGUMENTS`` as the daemon of an id.

        Args:
            id: the daemon's id; an earlier process of that id must have ended.
            arguments: what follows ``mabeam --home …``.
            wait: return when it is ready; else call :meth:`wait_ready`.
        """
        known = self.daemons.get(id)
        if known is not None and known.exit_code() is None:
            raise DaemonError(f"{id!r} is running already (process {known.pid})")
        health_address_path(self.home, id).unlink(missing_ok=True)
        command = [sys.executable, "-m", f"{_PACKAGE}.infra.cli", "--home", str(self.home.path)]
        log_path = self.home.log_path(id)
        self._log_starts[id] = log_path.stat().st_size if log_path.exists() else 0
        process = ChildProcess(
            [*command, *arguments],
            log_path=log_path,
            stop_signal=signal.SIGTERM,
        )
        self.daemons[id] = process
        if wait:
            self.wait_ready(id)
        return process

    def wait_ready(self, id: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when the daemon of an id answers ``/readyz`` with 200.

        Raises:
            DaemonError: it ended, or is not ready in time.
        """
        process = self._daemon(id)
        deadline = time.monotonic() + timeout_s
        why = "no answer"
        while time.monotonic() < deadline:
            code = process.exit_code()
            if code is not None:
                raise DaemonError(
                    f"{id!r} ended with {code}: {self.last_words(id)}",
                    hint=f"Read {self.home.log_path(id)}.",
                )
            address = read_health_address(self.home, id)
            if address is not None and address.pid == process.pid:
                status, why = ask(address, "/readyz")
                if status == 200:
                    return
            time.sleep(_POLL_S)
        raise DaemonError(
            f"{id!r} was not ready within {timeout_s:g} s ({why}): {self.last_words(id)}",
            hint=f"Read {self.home.log_path(id)}.",
        )

    def metrics(self, id: str) -> str:
        """The text of a daemon's ``/metrics``."""
        address = read_health_address(self.home, id)
        return ask(address, "/metrics")[1] if address is not None else ""

    def check_running(self) -> None:
        """See that the server and all daemons run.

        Raises:
            DaemonError: names one that ended by itself, the server first.
        """
        if self.server is not None and not self.server.is_running:
            raise _ended("nats-server", self.server.log_path)
        for id, process in self.daemons.items():
            if process.exit_code() is not None:
                raise _ended(id, self.home.log_path(id))

    def last_words(self, id: str) -> str:
        """What the present process of an id logged last about itself, in one line."""
        path = self.home.log_path(id)
        if not path.exists():
            return "it logged nothing"
        with path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(self._log_starts.get(id, 0), end - _TAIL_BYTES))
            return last_event(log.read().decode(errors="replace"))

    def kill(self, id: str, signal_: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a daemon; SIGKILL returns when it is gone."""
        process = self._daemon(id)
        if signal_ is signal.SIGKILL:
            process.kill()
        else:
            process.send_signal(signal_)

    def wait_exit(self, id: str, *, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Exit status of a daemon that is ending.

        Raises:
            DaemonError: it still runs after ``timeout_s`` seconds.
        """
        process = self._daemon(id)
        deadline = time.monotonic() + timeout_s
        while (code := process.exit_code()) is None:
            if time.monotonic() > deadline:
                raise DaemonError(f"{id!r} did not end within {timeout_s:g} s")
            time.sleep(_POLL_S)
        return code

    def stop(self, id: str, *, timeout_s: float = READY_TIMEOUT_S) -> int:
        """End one daemon in good order; returns its exit status."""
        self._daemon(id).end(timeout_s)
        return self.wait_exit(id)

    def stop_all(self) -> None:
        """End all daemons, then the server. Idempotent."""
        running = [id for id, process in self.daemons.items() if process.exit_code() is None]
        for id in running:
            self.daemons[id].send_signal(signal.SIGTERM)
        for id in running:
            try:
                self.wait_exit(id)
            except DaemonError:
                self.daemons[id].kill()
        if self.server is not None:
            self.server.stop()
            self._withdraw_pid()

    def _withdraw_pid(self) -> None:
        path = self.home.server_pid_path
        if self._announced and path.exists() and path.read_text() == self._announced:
            path.unlink(missing_ok=True)

    def _daemon(self, id: str) -> ChildProcess:
        try:
            return self.daemons[id]
        except KeyError:
            raise NotFoundError(f"no daemon {id!r} was started here") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop_all)


def _ended(name: str, log_path: Path) -> DaemonError:
    return DaemonError(
        f"{name} ended by itself, so everything here was ended",
        hint=f"Read {log_path}, then start it again.",
    )


_PACKAGE = __name__.rpartition(".infra.")[0]
