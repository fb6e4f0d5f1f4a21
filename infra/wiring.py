"""From a deployment directory to connected, running parts: transports, hosts, clients."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial

from ..core.agent import Agent
from ..core.author import Author
from ..core.bus.connection import CONNECT_TIMEOUT_S
from ..core.bus.jetstream import JetStreamTransport, connect
from ..core.bus.server_config import Role as ConnectionRole
from ..core.client import Client
from ..core.errors import LogUnavailableError, NotFoundError
from ..core.host.coordinator import CoordinatorHost
from ..core.host.participant import ParticipantHost
from ..core.host.registry import RegistryView
from ..core.journal import Journal, JournalInUseError
from ..core.telemetry import NoTelemetry, Telemetry, logger
from ..protocols import PROTOCOLS
from .config import Config
from .home import OPERATOR, Home, Member

_log = logger("wiring")

# A connection reads as its strongest role may: these live in BUS, agents and clients in AGENTS.
_BY_STRENGTH: tuple[ConnectionRole, ...] = (
    "operator",
    "coordinator",
    "projector",
    "client",
    "agent",
)
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
JOURNAL_WAIT_S = 30.0
"""How long a command waits for others that sign with the same key."""

QUIET_WAIT_S = 1.0
"""How long it does so without saying anything."""

_CLIENT_ROLES = frozenset({"client", "operator", "coordinator"})


class Wiring:
    """Everything one member of a home needs to take part.

    Args:
        home: the deployment directory.
        id: whose keys are used.
        config: settings; the home's by default.
        telemetry: where figures go.

    Raises:
        MabeamError: a key, certificate or setting is missing; the hint says how to get it.
    """

    def __init__(
        self,
        home: Home,
        id: str,
        *,
        config: Config | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.home = home
        self.config = config or home.config()
        self.telemetry: Telemetry = telemetry or NoTelemetry()
        self.secrets = home.secrets(id)
        self.member: Member = home.member(id)
        self.root_public_key = home.root_public_key()
        self.key = self.secrets.key_pair()
        self.tls = self.config.tls()

    @property
    def id(self) -> str:
        """The member's id."""
        return self.member.id

    async def connect(self, *, timeout_s: float = CONNECT_TIMEOUT_S) -> JetStreamTransport:
        """Connect once.

        Raises:
            LogUnavailableError: no server answered in time, or it refuses the key.
        """
        role = next(role for role in _BY_STRENGTH if role in self.member.roles)
        return await connect(
            self.config.url,
            id=self.id,
            role=role,
            nkey_seed=self.secrets.nkey_seed,
            tls=self.tls,
            timeout_s=timeout_s,
            request_ack_wait_s=self.config.lease_ms / 1000,
        )

    async def connect_patiently(self) -> JetStreamTransport:
        """Connect, however long it takes; says once that it is waiting and once that it is not."""
        pause_s = FIRST_PAUSE_S
        waiting = False
        while True:
            try:
                transport = await self.connect(timeout_s=1.0)
            except LogUnavailableError as error:
                if not waiting:
                    _log.warning(
                        "waiting_for_server",
                        extra={"member": self.id, "why": error.message, "hint": error.hint},
                    )
                waiting = True
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if waiting:
                _log.info("server_reached", extra={"member": self.id})
            return transport

    def author(self) -> Author:
        """A signer for the member."""
        return Author(self.id, self.member.node, self.key, time.time_ns)

    def registry(self) -> RegistryView:
        """An empty view of the registry."""
        return RegistryView(
            self.root_public_key,
            PROTOCOLS,
            self.telemetry,
            max_clock_skew_ms=self.config.max_clock_skew_ms,
        )

    def journal(self) -> Journal:
        """The member's sign-once journal."""
        return Journal(self.home.journal_path(self.id), self.id, self.key.key_id)

    def coordinator(self, transport: JetStreamTransport, journal: Journal) -> CoordinatorHost:
        """The coordinator of this id."""
        return CoordinatorHost(
            self.author(),
            transport,
            PROTOCOLS,
            self.registry(),
            journal,
            self.telemetry,
            capacity=self.config.capacity,
            progress_s=self.config.lease_ms / 5000,
        )

    def participant(
        self, transport: JetStreamTransport, agent: Agent, journal: Journal
    ) -> ParticipantHost:
        """The agent of this id."""
        return ParticipantHost(
            agent, self.author(), transport, PROTOCOLS, self.registry(), journal, self.telemetry
        )

    def client(
        self, transport: JetStreamTransport, *, on_wait: Callable[[], None] | None = None
    ) -> Client:
        """A client that signs as this id.

        Args:
            transport: its connection.
            on_wait: given if other processes may sign with the key at the same time; called when
                one does and the client has waited a while for it to end.
        """
        return Client(
            self.author(),
            transport,
            PROTOCOLS,
            self.root_public_key,
            max_clock_skew_ms=self.config.max_clock_skew_ms,
            open_journal=partial(self._free_journal, on_wait) if on_wait else None,
        )

    async def _free_journal(self, on_wait: Callable[[], None]) -> Journal:
        """The member's journal, as soon as no other process has it.

        Raises:
            JournalError: it cannot be opened; ``journal_in_use`` if a daemon runs with this id.
        """
        began = time.monotonic()
        told = False
        while True:
            try:
                return self.journal()
            except JournalInUseError:
                waited_s = time.monotonic() - began
                if waited_s > JOURNAL_WAIT_S:
                    raise
                if waited_s > QUIET_WAIT_S and not told:
                    on_wait()
                    told = True
            await asyncio.sleep(random.uniform(0.01, 0.05))


def client_id(home: Home, wanted: str | None = None) -> str:
    """The id with which commands ask for coordinations.

    Args:
        home: the deployment directory.
        wanted: the id to use; by default the first client with a key here, else the operator.
    """
    if wanted is not None:
        return wanted
    return _first(home, lambda member: "client" in member.roles) or reader_id(home)


def reader_id(home: Home) -> str:
    """The id with which commands read the log: the operator if its key is here, else a client."""
    home.require()
    if home.key_path(OPERATOR).exists() and home.member_path(OPERATOR).exists():
        return OPERATOR
    id = _first(home, lambda member: bool(_CLIENT_ROLES.intersection(member.roles)))
    if id is None:
        raise NotFoundError(
            f"{home.path} holds no key of a client or operator",
            hint="Copy the key file and the members/ file of one here, or use --as ID.",
        )
    return id


def _first(home: Home, wanted: Callable[[Member], bool]) -> str | None:
    for member in home.members():
        if wanted(member) and not member.revoked and home.key_path(member.id).exists():
            return member.id
    return None
