"""One supervised connection: whatever goes wrong, it is rebuilt from scratch until closed.

The nats client reconnects on its own only as long as its read loop lives, which any exception in a
callback ends while it still calls itself connected. So its own reconnection is switched off and
there is one way back for every fault (lost socket, dead read loop, unanswered ping, revoked key): a
new client, the same subscriptions again, then the listeners, who send again what is unanswered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from ..errors import LogUnavailableError, PermissionRefusedError
from .cancellation import cancellation_kept
from .counters import Counters
from .frames import publish_frame
from .protocol import RobustClient
from .server_config import inbox_prefix
from .subscription import Handler, Subscription

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
PING_INTERVAL_S = 5.0
PING_TIMEOUT_S = 5.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
REFUSED_AFTER = 3
"""Refused logins in a row after which waiting callers are told that the key is refused."""

PENDING_BYTES = 4 * 1024 * 1024
"""Bytes buffered towards the socket before publishers wait."""

_PERMISSION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


class Connection:
    """A connection that repairs itself. Create it with :meth:`open`.

    Attributes:
        counters: what happened so far.
        on_connected: called (without arguments) after every successful connect but the first.
        on_lost: called when a connection is found dead.
        on_refused: called with the subject of a publish the server did not permit.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        member_id: str,
        nkey_seed: str | None = None,
        tls: ssl.SSLContext | None = None,
        ping_interval_s: float = PING_INTERVAL_S,
        ping_timeout_s: float = PING_TIMEOUT_S,
    ) -> None:
        self.counters = Counters()
        self.on_connected: list[Callable[[], None]] = []
        self.on_lost: list[Callable[[], None]] = []
        self.on_refused: list[Callable[[str], None]] = []
        self.inbox_prefix = inbox_prefix(member_id)
        self._servers = list(servers)
        self._member_id = member_id
        self._nkey_seed = nkey_seed
        self._tls = tls
        self._ping_interval_s = ping_interval_s
        self._ping_timeout_s = ping_timeout_s
        self._client: Client | None = None
        self._subscriptions: set[Subscription] = set()
        self._dead = asyncio.Event()
        self._connected = asyncio.Event()
        self._refused_logins = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._inboxes = 0
        self._nonce = f"{random.SystemRandom().getrandbits(96):024x}"

    async def open(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect and start to supervise.

        Raises:
            LogUnavailableError: no server accepted the connection within ``timeout_s``.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        delay = FIRST_DELAY_S
        while True:
            try:
                self._client = await self._connect()
                break
            except _Unreachable as error:
                late = asyncio.get_running_loop().time() + delay > deadline
                if late or self._refused_logins:
                    raise self._unavailable(str(error)) from None
            await asyncio.sleep(delay)
            delay = min(2 * delay, 1.0)
        self._connected.set()
        self._supervisor = asyncio.create_task(self._supervise())

    @property
    def is_connected(self) -> bool:
        """Whether the last sign of life of the connection was good."""
        return self._client is not None

    @property
    def is_refused(self) -> bool:
        """Whether the server keeps refusing the key (revoked, expired, unknown)."""
        return self._refused_logins >= REFUSED_AFTER

    @property
    def is_clustered(self) -> bool:
        """Whether the server at the other end belongs to a cluster."""
        info: dict[str, object] = self._client._server_info if self._client else {}
        return "cluster" in info

    def new_inbox(self) -> str:
        """A reply subject nobody else can guess; append ``.token`` as you like."""
        self._inboxes += 1
        return f"{self.inbox_prefix}.{self._nonce}{self._inboxes}"

    async def wait_connected(self) -> None:
        """Wait until connected."""
        await self._connected.wait()

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: bytes = b""
    ) -> None:
        """Hand one message to the socket; whether it arrives only a reply can tell.

        Raises:
            LogUnavailableError: there is no connection at the moment.
        """
        await self.send(publish_frame(subject, reply, headers, payload))

    async def send(self, frames: bytes) -> None:
        """Hand publish frames to the socket; waits while too much is buffered.

        Raises:
            LogUnavailableError: there is no connection at the moment.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise self._unavailable("not connected")
        try:
            with cancellation_kept():
                await client._send_command(frames)
                if client._flush_queue is not None and client._flush_queue.empty():
                    await client._flush_pending()
        except (nats.errors.Error, OSError) as error:
            raise self._unavailable(str(error)) from None

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Call ``handler`` with every message on ``subject``, across reconnections."""
        subscription = Subscription(subject, handler, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        if self._client is not None:
            # On failure the connection is dead and the supervisor subscribes again.
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.attach(self._client)
        return subscription

    def suspect(self) -> None:
        """Treat the connection as dead and build a new one."""
        self._dead.set()

    async def close(self) -> None:
        """Send what is buffered and close for good."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        client, self._client = self._client, None
        self._connected.clear()
        if client is not None:
            with contextlib.suppress(Exception):
                await client.flush(2)
            await _discard(client)

    async def _connect(self) -> Client:
        """Try every server once, in random order."""
        reason = "no server given"
        for url in random.sample(self._servers, len(self._servers)):
            client = RobustClient()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    with cancellation_kept():
                        await self._log_in(client, url)
                self._learn(client)
            except asyncio.CancelledError:
                await _discard(client)
                raise
            except Exception as error:  # the other end may say anything, and be no NATS server
                await _discard(client)
                reason = str(error).removeprefix("nats: ") or type(error).__name__
                if "authorization" in reason.lower():
                    self._refused_logins += 1
                    reason = "the server refuses the key"
                continue
            self._refused_logins = 0
            return client
        raise _Unreachable(reason)

    async def _log_in(self, client: Client, url: str) -> None:
        async def closed() -> None:
            self._notice(client)

        await client.connect(
            servers=[url],
            name=self._member_id,
            nkeys_seed_str=self._nkey_seed,
            tls=self._tls,
            tls_handshake_first=self._tls is not None,
            inbox_prefix=self.inbox_prefix,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_TIMEOUT_S),
            ping_interval=3600,
            pending_size=PENDING_BYTES,
            flush_timeout=PING_TIMEOUT_S,
            error_cb=self._on_error,
            closed_cb=closed,
        )
        if client._reading_task is not None:
            client._reading_task.add_done_callback(lambda _: self._notice(client))

    def _learn(self, client: Client) -> None:
        """Remember servers of the cluster that were not configured."""
        known = {urlsplit(url).netloc for url in self._servers}
        scheme = urlsplit(self._servers[0]).scheme or "nats"
        for server in client.discovered_servers:
            if server.netloc not in known:
                self._servers.append(f"{scheme}://{server.netloc}")

    def _notice(self, client: Client) -> None:
        if client is self._client:
            self._dead.set()

    async def _on_error(self, error: Exception) -> None:
        """Must never raise: the client's read loop would end."""
        if isinstance(error, nats.errors.SlowConsumerError):
            self.counters.slow_consumers += 1
        if match := _PERMISSION.search(str(error)):
            self.counters.permission_errors += 1
            action, subject = match.groups()
            self._refuse(action, subject)
        else:
            _log.debug("connection error: %r", error)

    def _refuse(self, action: str, subject: str) -> None:
        if action == "publish":
            for listener in self.on_refused:
                listener(subject)
            return
        for subscription in self._subscriptions:
            if subscription.subject == subject:
                subscription.refuse(PermissionRefusedError(f"not permitted to read {subject}"))

    async def _supervise(self) -> None:
        """Whatever goes wrong here is told, and then costs no more than another connection."""
        while True:
            try:
                if self._client is not None:
                    await self._watch(self._client)
                await self._replace()
            except Exception:
                _log.exception("connection not repaired", extra={"member": self._member_id})
                self._dead.set()
                await asyncio.sleep(LONGEST_DELAY_S)

    async def _replace(self) -> None:
        client, self._client = self._client, None
        self._connected.clear()
        _log.info("connection lost", extra={"member": self._member_id})
        self._tell(self.on_lost)
        if client is not None:
            await _discard(client)
        self._client = client = await self._connect_again()
        self.counters.reconnects += 1
        self._dead.clear()
        for subscription in list(self._subscriptions):
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.attach(client)
        self._connected.set()
        self._tell(self.on_connected)

    def _tell(self, listeners: list[Callable[[], None]]) -> None:
        """Call them all, even if one fails."""
        for listener in listeners:
            try:
                listener()
            except Exception:
                _log.exception("listener failed", extra={"member": self._member_id})

    async def _connect_again(self) -> Client:
        delay = FIRST_DELAY_S
        while True:
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(2 * delay, LONGEST_DELAY_S / 1.5)
            try:
                return await self._connect()
            except _Unreachable as error:
                _log.info("cannot reconnect: %s", error, extra={"member": self._member_id})

    async def _watch(self, client: Client) -> None:
        """Return when ``client`` is dead: told so, or it does not answer a ping."""
        while not (self._dead.is_set() or _is_deaf(client)):
            try:
                async with asyncio.timeout(self._ping_interval_s):
                    await self._dead.wait()
            except TimeoutError:
                try:
                    async with asyncio.timeout(self._ping_timeout_s):
                        with cancellation_kept():
                            await client.rtt(3600)
                except (nats.errors.Error, OSError, TimeoutError):
                    self.counters.unanswered_pings += 1
                    return

    def _unavailable(self, reason: str) -> LogUnavailableError:
        urls = ", ".join(self._servers)
        if self._refused_logins:
            hint = f"Is {self._member_id!r} with this key among the users of the server?"
        else:
            hint = f"Is nats-server running at {urls} and reachable from here?"
        return LogUnavailableError(f"cannot reach the log at {urls}: {reason}", hint=hint)


class _Unreachable(Exception):
    """No server accepted a connection; the text says why."""


def _is_deaf(client: Client) -> bool:
    """Whether nobody reads the socket any more; the client may still call itself connected."""
    return client._reading_task is None or client._reading_task.done()


async def _discard(client: Client) -> None:
    """Close a client whatever state it is in, without waiting long."""
    subscriptions = list(client._subs.values())
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2):
            with cancellation_kept():
                await client.close()
    for subscription in subscriptions:
        subscription._stop_processing()
    tasks = (client._reading_task, client._flusher_task, client._ping_interval_task)
    for task in tasks:
        if task is not None and task is not asyncio.current_task():
            task.cancel()
