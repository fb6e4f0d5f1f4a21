"""The life of a daemon: start, tell that it is ready, drain on SIGTERM, end.

A first SIGTERM (or Ctrl-C) stops taking work and finishes what is in hand within ``drain_ms``; what
is not finished then is handed over. A second one ends the process at once. Nothing is lost either
way, because everything that counts is in the log or in the journal.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..core.errors import LogUnavailableError
from ..core.telemetry import logger
from .health_address import HealthAddress, health_address_path
from .health_server import Check, HealthServer
from .home import replace_file
from .logs import configure
from .metrics import PrometheusTelemetry
from .wiring import Wiring

_log = logger("daemon")

READY_POLL_S = 0.1
STEADY_POLL_S = 2.0
HAND_OVER_S = 2.0


class Service(Protocol):
    """What a daemon does; one of :mod:`mabeam.infra.services`."""

    @property
    def kind(self) -> str:
        """``agent``, ``coordinator`` or ``projector``."""
        ...

    async def run(self) -> None:
        """Work until drained, cancelled, or an error that no retry mends."""
        ...

    def drain(self) -> bool:
        """Take no new work; ``False`` if there is nothing to finish."""
        ...

    async def hand_over(self) -> None:
        """Give back what is not finished; the process is about to end."""
        ...

    async def checks(self) -> Sequence[Check]:
        """Conditions of readiness as of now."""
        ...


class Daemon:
    """One service, its health server and its signals.

    Args:
        service: what to run.
        wiring: whose keys and settings are used.
        telemetry: where ``/metrics`` comes from.
    """

    def __init__(self, service: Service, wiring: Wiring, telemetry: PrometheusTelemetry) -> None:
        self._service = service
        self._wiring = wiring
        self._telemetry = telemetry
        self._config = wiring.config
        self._health = HealthServer(
            self._config.health_host,
            self._config.metrics_port,
            service.checks,
            telemetry.exposition,
        )
        self._stopping: signal.Signals | None = None
        self._working: asyncio.Task[None] | None = None
        self._handing_over: asyncio.Task[None] | None = None
        self._fields = {"daemon": service.kind, "member": wiring.id}

    def run(self) -> int:
        """Live until told to end.

        Returns:
            0, or 130 after Ctrl-C.

        Raises:
            MabeamError: the service cannot go on.
        """
        configure(self._config)
        _settle_collector()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._live())
            status = 130 if self._stopping is signal.SIGINT else 0
            if self._handing_over is not None:
                # A handler that still runs in a thread cannot be stopped; do not wait for it.
                logging.shutdown()
                os._exit(status)
        return status

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._on_signal, each)
        await self._health.start()
        self._publish_address()
        _log.info("started", extra={**self._fields, "health": self._address})
        reporting = asyncio.create_task(self._report_readiness())
        self._working = asyncio.create_task(self._service.run())
        try:
            await self._working
        except asyncio.CancelledError:
            if self._stopping is None:
                raise
        finally:
            reporting.cancel()
            notify("STOPPING=1")
            await self._health.stop()
            health_address_path(self._wiring.home, self._wiring.id).unlink(missing_ok=True)
        _log.info("ended", extra=self._fields)

    @property
    def _address(self) -> str:
        return f"http://{self._health.host}:{self._health.port}"

    def _publish_address(self) -> None:
        address = HealthAddress(os.getpid(), self._health.host, self._health.port)
        path = health_address_path(self._wiring.home, self._wiring.id)
        replace_file(path, msgspec.json.encode(address))

    async def _report_readiness(self) -> None:
        """Tell service manager, log and metrics whenever readiness changes."""
        was_ready = False
        while True:
            checks = await self._service.checks()
            failing = [f"{check.name}: {check.detail}" for check in checks if not check.ok]
            ready = not failing
            self._telemetry.gauge("ready", ready)
            if ready and not was_ready:
                notify("READY=1\nSTATUS=ready")
                _log.info("ready", extra=self._fields)
            elif was_ready and not ready and self._stopping is None:
                notify(f"STATUS=not ready: {'; '.join(failing)}")
                _log.warning("not_ready", extra={**self._fields, "why": "; ".join(failing)})
            was_ready = ready
            await asyncio.sleep(STEADY_POLL_S if ready else READY_POLL_S)

    def _on_signal(self, received: signal.Signals) -> None:
        if self._stopping is not None:
            _log.warning("ended_at_once", extra={**self._fields, "signal": received.name})
            os._exit(128 + received)
        self._stopping = received
        notify("STOPPING=1")
        _log.info("draining", extra={**self._fields, "signal": received.name})
        if self._service.drain():
            loop = asyncio.get_running_loop()
            loop.call_later(self._config.drain_ms / 1000, self._on_drain_expired)
        elif self._working is not None:
            self._working.cancel()

    def _on_drain_expired(self) -> None:
        _log.warning("handing_over", extra=self._fields)
        self._handing_over = asyncio.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        try:
            async with asyncio.timeout(HAND_OVER_S):
                await self._service.hand_over()
        except (TimeoutError, LogUnavailableError) as error:
            _log.warning("not_handed_over", extra={**self._fields, "why": str(error)})
        if self._working is not None:
            self._working.cancel()


def notify(state: str) -> None:
    """Tell systemd (``Type=notify``), if it started this program."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("not_notified", extra={"why": str(error)})


def _settle_collector() -> None:
    """Take what start-up made out of the collector's sight, and let it look less often.

    Hosts make many small objects without cycles; looking through all modules after every 700 of
    them takes some 6 % of a daemon's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: asyncio's own is several times slower on sockets."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
