"""A real server with the generated two-account configuration, and members to connect to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import nats
import pytest
from nacl.bindings import crypto_sign_seed_keypair
from nats.aio.client import Client

from mabeam.core.bus.jetstream import JetStreamTransport, connect
from mabeam.core.bus.nkey import encode_user_seed, user_public_key
from mabeam.core.bus.server_config import (
    Member,
    Role,
    ServerSettings,
    inbox_prefix,
    server_config,
)
from mabeam.core.envelope import Event, Header, sign_event
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.log import Record, Submission
from mabeam.core.names import EventClass
from mabeam.infra.nats_server import EmbeddedNats

ROLES: dict[str, Role] = {
    "operator": "operator",
    "coord": "coordinator",
    "proj": "projector",
    "client": "client",
    "ann": "agent",
    "bob": "agent",
}
NODE = "n1"
SECRET_KEY = crypto_sign_seed_keypair(bytes(32))[1]


class Bus:
    """One server, its members, and the connections a test opened."""

    def __init__(self, server: EmbeddedNats, config: Path) -> None:
        self.server = server
        self._config = config
        self._opened: list[JetStreamTransport] = []
        self._raw: list[Client] = []

    @staticmethod
    def seed(name: str) -> str:
        """The connection key of a member."""
        return encode_user_seed(sha256(name.encode()))

    def write_config(self, *, without: str = "") -> None:
        """Write the configuration, with all members or all but one."""
        members = [
            Member(name, NODE, frozenset({role}), user_public_key(sha256(name.encode())))
            for name, role in ROLES.items()
            if name != without
        ]
        self._config.write_text(server_config(members, ServerSettings(http=None)))

    async def connect(self, name: str) -> JetStreamTransport:
        """Another connection of a member."""
        transport = await connect(
            self.server.client_url, id=name, role=ROLES[name], nkey_seed=self.seed(name)
        )
        self._opened.append(transport)
        return transport

    async def raw(self, name: str) -> Client:
        """A bare client with the rights of a member: what an attacker with its key would use."""
        client = await nats.connect(
            self.server.client_url,
            nkeys_seed_str=self.seed(name),
            inbox_prefix=inbox_prefix(name),
            allow_reconnect=False,
            error_cb=_ignore,
        )
        self._raw.append(client)
        return client

    async def stored(self) -> list[Record]:
        """Everything in the log, read from the start by a projector."""
        projector = await self.connect("proj")
        return [record async for batch in projector.log.read_all() for record in batch]

    @staticmethod
    def event(number: int, coordination: str = "c1", author: str = "coord") -> Event:
        """A signed event; the same arguments give the same bytes."""
        body = number.to_bytes(8, "big") + bytes(100)
        header = Header(
            version=1,
            coordination=coordination,
            epoch=b"",
            type="test.happened",
            author=author,
            key_id=bytes(8),
            author_seq=number,
            prev=ZERO32,
            refs=(),
            at_ns=1,
            body_sha256=sha256(body),
        )
        return sign_event(header, body, SECRET_KEY)

    @staticmethod
    def submission(
        number: int,
        event_class: EventClass = "ctl",
        *,
        author: str = "coord",
        coordination: str = "c1",
        expected: int | None = None,
    ) -> Submission:
        """An event of ``author`` ready to be appended."""
        return Submission(Bus.event(number, coordination, author), event_class, NODE, expected)

    async def close(self) -> None:
        """Close all connections."""
        for transport in self._opened:
            await transport.close()
        for client in self._raw:
            if not client.is_closed:
                await client.close()


async def _ignore(_: Exception) -> None:
    """Errors of an attacker's connection are looked at through its replies."""


@pytest.fixture
def make_submission() -> Callable[..., Submission]:
    """:meth:`Bus.submission` for tests with servers of their own."""
    return Bus.submission


@pytest.fixture
def server_process() -> Iterator[tuple[EmbeddedNats, Path]]:
    directory = Path(tempfile.mkdtemp(prefix="mabeam-"))
    config = directory / "two-accounts.conf"
    server = EmbeddedNats(directory / "server", config=config)
    Bus(server, config).write_config()
    with server:
        yield server, config
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def bus(server_process: tuple[EmbeddedNats, Path]) -> AsyncIterator[Bus]:
    """A provisioned deployment."""
    bus = Bus(*server_process)
    await (await bus.connect("operator")).provision()
    yield bus
    await bus.close()
