"""What daemons do: the hosts of agents and coordinators, kept running whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..core.agent import Agent
from ..core.bus.counters import Counters
from ..core.bus.jetstream import JetStreamTransport
from ..core.errors import LogUnavailableError
from ..core.host.coordinator import CoordinatorHost
from ..core.host.participant import ParticipantHost
from ..core.host.registry import RegistryView
from ..core.journal import Journal
from ..core.telemetry import logger
from .health_server import Check
from .heartbeat import beat
from .inboxes import keep_inboxes
from .metrics import PrometheusTelemetry
from .wiring import Wiring

_log = logger("daemon")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0


def leading_error(error: BaseException) -> BaseException:
    """The error that matters in a group: any but :class:`LogUnavailableError` goes first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [leading_error(each) for each in error.exceptions]
    return next((leaf for leaf in leaves if not isinstance(leaf, LogUnavailableError)), leaves[0])


async def persist(work: Callable[[], Awaitable[None]], on_retry: Callable[[], None]) -> None:
    """Do ``work``; again, after a pause, for as long as it fails because the log is unreachable."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            await work()
            return
        except (LogUnavailableError, BaseExceptionGroup) as failure:
            error = leading_error(failure)
            if not isinstance(error, LogUnavailableError):
                raise error from None
            _log.warning("log_unavailable", extra={"why": error.message, "hint": error.hint})
        on_retry()
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class _HostService:
    """What the services of both hosts share: one journal and connection, readiness, restarts."""

    kind = ""

    def __init__(self, wiring: Wiring, telemetry: PrometheusTelemetry) -> None:
        self._wiring = wiring
        self._telemetry = telemetry
        self._transport: JetStreamTransport | None = None
        self._registry: RegistryView | None = None
        self._journal: Journal = wiring.journal()
        telemetry.watch(self._counters)

    def _counters(self) -> Counters | None:
        return self._transport.counters if self._transport is not None else None

    async def run(self) -> None:
        """Connect, however long it takes, then work; closes the journal."""
        try:
            transport = self._transport = await self._wiring.connect_patiently()
            try:
                await persist(
                    lambda: self._run_host(transport),
                    lambda: self._telemetry.count("host_restarts"),
                )
            finally:
                await transport.close()
        finally:
            await self._journal.close()

    async def _run_host(self, transport: JetStreamTransport) -> None:
        raise NotImplementedError

    async def checks(self) -> Sequence[Check]:
        """Bus reachable, and this very key admitted."""
        connected = self._transport is not None and self._transport.connection.is_connected
        return (
            Check("bus", connected, self._wiring.config.url),
            self._check_key(),
        )

    def _check_key(self) -> Check:
        entry = self._registry.keyring.current(self._wiring.id) if self._registry else None
        if entry is None:
            return Check("key", False, f"{self._wiring.id} is not admitted, as far as is known")
        if entry.certificate.key_id != self._wiring.key.key_id:
            return Check("key", False, "another key is admitted; start again with the new key file")
        return Check("key", True, entry.certificate.key_id.hex())


class CoordinatorService(_HostService):
    """Runs one coordinator."""

    kind = "coordinator"

    def __init__(self, wiring: Wiring, telemetry: PrometheusTelemetry) -> None:
        super().__init__(wiring, telemetry)
        self._host: CoordinatorHost | None = None

    async def _run_host(self, transport: JetStreamTransport) -> None:
        host = self._host = self._wiring.coordinator(transport, self._journal)
        self._registry = host.registry
        keeping = asyncio.create_task(keep_inboxes(transport, host.registry))
        try:
            await host.run()
        finally:
            await _cancel({keeping})
            _stop_sessions(host)

    def drain(self) -> bool:
        """Take no more requests."""
        if self._host is None:
            return False
        self._host.drain()
        return True

    async def hand_over(self) -> None:
        """Give all requests back; other coordinators go on with them."""
        if self._host is not None:
            while self._host.sessions:
                _stop_sessions(self._host)
                await asyncio.sleep(0.02)


class AgentService(_HostService):
    """Runs one agent, with heartbeats for as long as it lives."""

    kind = "agent"

    def __init__(self, wiring: Wiring, telemetry: PrometheusTelemetry, agent: Agent) -> None:
        super().__init__(wiring, telemetry)
        self._agent = agent
        self._host: ParticipantHost | None = None

    async def _run_host(self, transport: JetStreamTransport) -> None:
        host = self._host = self._wiring.participant(transport, self._agent, self._journal)
        self._registry = host.registry
        beating = asyncio.create_task(beat(transport, host.author, lambda: len(host.tasks)))
        try:
            await host.run()
        finally:
            await _cancel({beating, *host.tasks})

    def drain(self) -> bool:
        """Take no more invitations."""
        if self._host is None:
            return False
        self._host.drain()
        return True

    async def hand_over(self) -> None:
        """Drop what is in hand; the invitations come again, the journal knows what was signed."""
        if self._host is not None:
            await _cancel(self._host.tasks)

    async def checks(self) -> Sequence[Check]:
        """Also registered, under a journal that vouches for what it signs."""
        registry, id = self._registry, self._wiring.id
        registered = (
            self._journal.born is not None
            and registry is not None
            and registry.keyring.agent(id).registered is not None
        )
        return (*await super().checks(), Check("registered", registered, id))


def _stop_sessions(host: CoordinatorHost) -> None:
    for session in list(host.sessions.values()):
        session.stop()


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    running = list(tasks)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
