"""The development setup: one server, one coordinator, one projector and a client, in one place."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from .embedded_server import free_port
from .home import Home
from .local import LocalDeployment
from .membership import Applicant

COORDINATOR, PROJECTOR, CLIENT = "coordinator-1", "projector-1", "client"
CLIENT_PORT, MONITOR_PORT = 4222, 8222
WATCH_S = 1.0


class Development:
    """Runs a deployment in the foreground.

    Args:
        home: the directory, created when missing.
        agents: agents to run as well: id to ``module:factory``.
        say: where lines for people go.
    """

    def __init__(self, home: Home, agents: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._home = home
        self._agents = agents
        self._say = say
        self._deployment = LocalDeployment(home)
        self._stop = threading.Event()
        self._received = 0

    def run(self, *, once: bool = False) -> int:
        """Start everything and wait for Ctrl-C or SIGTERM.

        Args:
            once: end as soon as everything is ready.

        Returns:
            0 after SIGTERM, 130 after Ctrl-C.

        Raises:
            DaemonError: the server or a daemon ended by itself.
        """
        before = {each: signal.signal(each, self._on_signal) for each in _SIGNALS}
        try:
            with self._deployment:
                self._start()
                while not (once or self._stop.wait(WATCH_S)):
                    self._deployment.check_running()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        return 128 + signal.SIGINT if self._received == signal.SIGINT else 0

    def _start(self) -> None:
        deployment, home = self._deployment, self._home
        if not home.exists:
            deployment.create(client_port=_port(CLIENT_PORT), monitor_port=_port(MONITOR_PORT))
            self._say(f"created {home.path}")
        server = deployment.start_server()
        deployment.provision()
        wanted = [
            Applicant(COORDINATOR, ("coordinator",)),
            Applicant(PROJECTOR, ("projector",)),
            Applicant(CLIENT, ("client",)),
            *(Applicant(id) for id in self._agents),
        ]
        missing = [each for each in wanted if not home.member_path(each.id).exists()]
        if missing:
            deployment.admit_many(missing)
        deployment.spawn_coordinator(COORDINATOR, wait=False)
        deployment.spawn_projector(PROJECTOR, wait=False)
        for id, target in self._agents.items():
            deployment.spawn_agent(id, target, Path.cwd(), wait=False)
        for id in deployment.daemons:
            deployment.wait_ready(id)
        self._say(f"server      {server.client_url} (monitoring {server.monitor_url})")
        self._say(f"database    {home.database_url(home.config())}")
        self._say(f"running     {', '.join(deployment.daemons)}; logs in {home.path / 'logs'}")
        self._say("next        mabeam key admit ID, then mabeam agent run MODULE:FACTORY --id ID")
        self._say("end         Ctrl-C")

    def _on_signal(self, received: int, frame: FrameType | None) -> None:
        self._received = received
        self._stop.set()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _port(wanted: int) -> int:
    """The usual port if nothing listens there, else any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
    return wanted
