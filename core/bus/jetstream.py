"""The log and its side channels on NATS JetStream: what the other modules here are parts of."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Sequence

from ..envelope import MAX_EVENT_BYTES
from ..errors import LogUnavailableError, UsageError
from ..log import Appended, EventLog, Head, Record, Submission
from ..names import EVENT_SUBJECTS, check_id, coordination_filter
from ..transport import InvitationDelivery, RequestDelivery
from . import presence
from .appender import Appender
from .batch import BatchSender
from .connection import CONNECT_TIMEOUT_S, Connection
from .counters import Counters
from .deliveries import ACK_WAIT_S, deliveries
from .direct import DirectReader
from .follower import follow_all, follow_one
from .invitations import INBOX_ACK_WAIT_S, InvitationSender
from .lookup import Lookup
from .pipeline import BUDGET_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, Pipeline
from .position import check_position
from .provision import provision
from .publisher import Publisher, outgoing
from .reader import RangeReader
from .server_config import REQUEST_CONSUMER, Role, inbox_name
from .step import check_step

_LEADER_ROLES = frozenset({"coordinator", "projector", "operator"})
DRAIN_S = 10.0


class JetStreamLog:
    """:class:`~mabeam.core.log.EventLog` on the EVT stream.

    Args:
        connection: an open connection.
        pipeline: its requests.
        from_leader: whether the connection may use the JetStream API of EVT: it then reads from the
            leader and in bulk through consumers; without, from any replica by direct get.
    """

    def __init__(self, connection: Connection, pipeline: Pipeline, *, from_leader: bool) -> None:
        self._connection = connection
        self._from_leader = from_leader
        self._lookup = Lookup(pipeline, from_leader=from_leader)
        self._direct = DirectReader(connection, "EVT")
        self._reader = RangeReader(
            connection, pipeline, self._direct, self._lookup, may_consume=from_leader
        )
        counters = connection.counters
        self._appender = Appender(
            Publisher(pipeline, self._lookup, counters),
            BatchSender(connection, pipeline, self._lookup, counters),
            counters,
        )

    async def open(self) -> None:
        """Set up the reply subscriptions; call once before anything else."""
        await self._direct.open()

    async def drain(self) -> None:
        """Refuse new appends and wait for those under way."""
        await self._appender.drain()

    async def append(self, submission: Submission) -> Appended:
        """See :meth:`mabeam.core.log.EventLog.append`."""
        if len(submission.event.wire) > MAX_EVENT_BYTES:
            check_step([submission])
        return (await self._appender.append([outgoing(submission)]))[0]

    async def append_many(self, submissions: Sequence[Submission]) -> list[Appended]:
        """See :meth:`mabeam.core.log.EventLog.append_many`."""
        if not submissions:
            return []
        check_step(submissions)
        return await self._appender.append([outgoing(submission) for submission in submissions])

    async def read(self, coordination: str, after: int = 0) -> list[Record]:
        """See :meth:`mabeam.core.log.EventLog.read`.

        Agents and clients read from any replica, which may lag behind the leader.
        """
        subjects = coordination_filter(check_id(coordination, "coordination"))
        records = await self._direct.read(subjects, after)
        if not (self._from_leader and self._connection.is_clustered):
            return records
        last = await self._lookup.last(subjects)
        expires = asyncio.get_running_loop().time() + BUDGET_S
        pause = FIRST_PAUSE_S
        while last is not None and last.sequence > max(
            records[-1].sequence if records else 0, after
        ):
            if asyncio.get_running_loop().time() > expires:
                raise LogUnavailableError(f"no replica has event {last.sequence} of {subjects} yet")
            position = records[-1].sequence if records else after
            more = await self._direct.read(subjects, position)
            records += more
            if not more:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        return records

    async def read_all(self, after: int = 0) -> AsyncGenerator[list[Record], None]:
        """See :meth:`mabeam.core.log.EventLog.read_all`."""
        head = await self.head()
        check_position(after, head.sequence)
        async for batch in self._reader.read(after, head.sequence):
            yield batch

    def follow(self, coordination: str, after: int | None = 0) -> AsyncGenerator[Record, None]:
        """See :meth:`mabeam.core.log.EventLog.follow`."""
        check_id(coordination, "coordination")
        return follow_one(self._connection, self.read, coordination, after)

    def follow_all(self, after: int | None = None) -> AsyncGenerator[list[Record], None]:
        """See :meth:`mabeam.core.log.EventLog.follow_all`."""
        return follow_all(self._connection, self._lookup, self._reader, after)

    async def record_at(self, sequence: int) -> Record | None:
        """See :meth:`mabeam.core.log.EventLog.record_at`."""
        return await self._lookup.at(sequence)

    async def head(self) -> Head:
        """See :meth:`mabeam.core.log.EventLog.head`; agents and clients get ``created_ns`` 0."""
        return await self._lookup.head(EVENT_SUBJECTS)


class JetStreamTransport:
    """:class:`~mabeam.core.transport.Transport` on one connection; made by :func:`connect`."""

    def __init__(
        self, connection: Connection, *, from_leader: bool, request_ack_wait_s: float = ACK_WAIT_S
    ) -> None:
        self._connection = connection
        self._pipeline = Pipeline(connection)
        self._log = JetStreamLog(connection, self._pipeline, from_leader=from_leader)
        self._presence = DirectReader(connection, "PRESENCE")
        self._sender = InvitationSender(connection, self._pipeline)
        self._request_ack_wait_s = request_ack_wait_s

    async def open(self) -> None:
        """Set up the reply subscriptions; call once before anything else."""
        await self._pipeline.open()
        await self._log.open()
        await self._presence.open()

    @property
    def log(self) -> EventLog:
        """The event log."""
        return self._log

    @property
    def counters(self) -> Counters:
        """What happened on this connection, for telemetry."""
        return self._connection.counters

    @property
    def connection(self) -> Connection:
        """The supervised connection, for health checks."""
        return self._connection

    async def provision(
        self, *, replicas: int = 1, max_bytes: int | None = None, ack_wait_s: float = ACK_WAIT_S
    ) -> None:
        """Create or verify streams; see :func:`mabeam.core.bus.provision.provision`."""
        await provision(
            self._pipeline, replicas=replicas, max_bytes=max_bytes, ack_wait_s=ack_wait_s
        )

    def requests(self, capacity: int) -> AsyncGenerator[RequestDelivery, None]:
        """See :meth:`mabeam.core.transport.Transport.requests`."""
        return deliveries(
            self._connection, "EVT", REQUEST_CONSUMER, capacity, self._request_ack_wait_s
        )

    async def invite(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.invite`."""
        await self._sender.invite(node, agent, coordination, payload)

    async def ensure_inbox(self, node: str, agent: str) -> None:
        """Make sure that an agent has an inbox; coordinators call it when they see a heartbeat."""
        await self._sender.ensure_inbox(node, agent)

    def invitations(
        self, node: str, agent: str, capacity: int
    ) -> AsyncGenerator[InvitationDelivery, None]:
        """See :meth:`mabeam.core.transport.Transport.invitations`."""
        consumer = inbox_name(node, agent)
        return deliveries(self._connection, "WORK", consumer, capacity, INBOX_ACK_WAIT_S)

    async def beat(self, node: str, agent: str, payload: bytes) -> None:
        """See :meth:`mabeam.core.transport.Transport.beat`."""
        await presence.beat(self._connection, node, agent, payload)

    def heartbeats(self) -> AsyncGenerator[tuple[str, str, bytes], None]:
        """See :meth:`mabeam.core.transport.Transport.heartbeats`."""
        return presence.heartbeats(self._connection, self._presence)

    async def close(self) -> None:
        """See :meth:`mabeam.core.transport.Transport.close`; waits at most 10 s."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._log.drain()
        finally:
            self._pipeline.close()
            await self._connection.close()


async def connect(
    url: str,
    *,
    id: str,
    role: Role,
    nkey_seed: str | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    request_ack_wait_s: float = ACK_WAIT_S,
) -> JetStreamTransport:
    """Connect one member to the log.

    Args:
        url: ``nats://host:port``; several servers of one cluster separated by commas.
        id: the member's id, as the server's configuration knows it.
        role: agents and clients read through account imports, all others from the leader.
        nkey_seed: the connection key (``SU…``), or ``None`` for a server without authentication.
        tls: context for TLS, which is then spoken from the first byte.
        timeout_s: how long to try.
        request_ack_wait_s: lease of a request, as provisioned.

    Raises:
        LogUnavailableError: no server reachable, or it refuses the key.
    """
    servers = [server.strip() for server in url.split(",") if server.strip()]
    if not servers:
        raise UsageError(f"{url!r} names no server", hint="For instance nats://127.0.0.1:4222.")
    connection = Connection(servers, member_id=id, nkey_seed=nkey_seed, tls=tls)
    await connection.open(timeout_s)
    transport = JetStreamTransport(
        connection, from_leader=role in _LEADER_ROLES, request_ack_wait_s=request_ack_wait_s
    )
    await transport.open()
    return transport
