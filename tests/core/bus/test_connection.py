"""A connection repairs itself, or says in one line why it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from waiting import wait_until_async

from mabeam.core.bus import connection as connection_module
from mabeam.core.bus.connection import Connection
from mabeam.core.bus.jetstream import JetStreamTransport, connect
from mabeam.core.bus.nkey import encode_user_seed
from mabeam.core.errors import LogUnavailableError, PermissionRefusedError, UsageError
from mabeam.infra.embedded_server import free_port

pytestmark = pytest.mark.integration


async def test_dead_read_loop_is_noticed_at_once(bus: Any) -> None:
    """The client library still calls itself connected then."""
    transport = await bus.connect("coord")
    client = transport.connection._client
    client._reading_task.cancel()
    await wait_until_async(lambda: transport.counters.reconnects == 1, timeout_s=2)
    assert (await transport.log.append(bus.submission(0))).sequence == 1


async def test_append_under_way_survives_a_dead_read_loop(bus: Any) -> None:
    transport = await bus.connect("coord")
    appends = [asyncio.create_task(transport.log.append(bus.submission(n))) for n in range(10)]
    transport.connection._client._reading_task.cancel()
    results = await asyncio.gather(*appends)
    assert sorted(result.sequence for result in results) == list(range(1, 11))
    assert (await transport.log.head()).sequence == 10


async def test_silent_server_is_given_up(bus: Any) -> None:
    """The socket stays open but nobody answers: only an unanswered ping tells."""
    connection = Connection(
        [bus.server.client_url],
        member_id="coord",
        nkey_seed=bus.seed("coord"),
        ping_interval_s=0.1,
        ping_timeout_s=0.2,
    )
    await connection.open()
    transport = JetStreamTransport(connection, from_leader=True)
    await transport.open()
    os.kill(bus.server.pid, signal.SIGSTOP)
    try:
        append = asyncio.create_task(transport.log.append(bus.submission(0)))
        await wait_until_async(lambda: connection.counters.unanswered_pings >= 1)
    finally:
        os.kill(bus.server.pid, signal.SIGCONT)
    assert (await asyncio.wait_for(append, 10)).sequence == 1
    assert connection.counters.reconnects >= 1
    await transport.close()


async def test_closing_ends_a_supervisor_whose_cancellation_the_client_swallows(
    bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = await bus.connect("coord")
    swallowing = asyncio.Event()
    log_in = Connection._log_in

    async def swallow(self: Connection, client: Any, url: str) -> None:
        swallowing.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        await log_in(self, client, url)

    monkeypatch.setattr(Connection, "_log_in", swallow)
    transport.connection.suspect()
    await swallowing.wait()
    async with asyncio.timeout(4):
        await transport.close()


async def test_unreachable_server_is_named(bus: Any) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(LogUnavailableError) as raised:
        await connect(url, id="ann", role="agent", timeout_s=0.3)
    assert url in raised.value.message
    assert "\n" not in raised.value.message
    assert url in raised.value.hint


async def test_no_server_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        await connect(" , ", id="ann", role="agent")


async def test_unknown_key_is_told_at_once(bus: Any) -> None:
    stranger = encode_user_seed(bytes(32))
    with pytest.raises(LogUnavailableError, match="refuses the key"):
        async with asyncio.timeout(2):
            await connect(bus.server.client_url, id="ann", role="agent", nkey_seed=stranger)


async def test_revoked_key_becomes_a_typed_error_and_recovers(bus: Any) -> None:
    transport = await bus.connect("ann")
    await transport.log.append(bus.submission(0, "pub", author="ann"))
    bus.write_config(without="ann")
    bus.server.reload()
    await wait_until_async(lambda: transport.connection.is_refused)
    with pytest.raises(LogUnavailableError, match="refuses the key"):
        await transport.log.append(bus.submission(1, "pub", author="ann"))
    bus.write_config()
    bus.server.reload()
    await wait_until_async(lambda: transport.connection.is_connected)
    assert (await transport.log.append(bus.submission(1, "pub", author="ann"))).sequence == 2


class TestPermissions:
    """The server reports a forbidden publish beside the request; it must reach its append."""

    async def test_single_append(self, bus: Any) -> None:
        transport = await bus.connect("ann")
        good = asyncio.create_task(transport.log.append(bus.submission(0, "pub", author="ann")))
        async with asyncio.timeout(1):
            for forbidden in (
                bus.submission(1, "pub", author="bob"),
                bus.submission(1, "ctl", author="ann"),
                bus.submission(1, "req", author="ann"),
            ):
                with pytest.raises(PermissionRefusedError, match="not permitted"):
                    await transport.log.append(forbidden)
            assert (await good).sequence == 1
        assert transport.counters.permission_errors >= 3

    async def test_step(self, bus: Any) -> None:
        transport = await bus.connect("ann")
        step = [bus.submission(0, "pub", author=name) for name in ("ann", "bob", "ann")][:2]
        step.append(bus.submission(1, "pub", author="ann"))
        async with asyncio.timeout(1):
            with pytest.raises(PermissionRefusedError):
                await transport.log.append_many(step)
        assert (await transport.log.head()).sequence == 0

    async def test_one_of_many(self, bus: Any) -> None:
        """A forbidden event spoils the batch it travels in, but not its neighbours."""
        transport = await bus.connect("ann")
        events = [bus.submission(n, "pub", author="ann") for n in range(200)]
        events[150] = bus.submission(150, "pub", author="bob")
        results = await asyncio.gather(
            *(transport.log.append(event) for event in events), return_exceptions=True
        )
        refused = [n for n, result in enumerate(results) if isinstance(result, Exception)]
        assert refused == [150]
        assert isinstance(results[150], PermissionRefusedError)

    async def test_feed(self, bus: Any) -> None:
        """Presence is for coordinators; a subscription refused is an error, not silence."""
        transport = await bus.connect("ann")
        refused = asyncio.Event()

        async def ignore(_: Any) -> None:
            raise AssertionError("nothing may arrive")

        subscription = await transport.connection.subscribe("mabeam.v1.presence.>", ignore)
        subscription.on_refused = refused.set
        async with asyncio.timeout(1):
            await refused.wait()
        assert isinstance(subscription.refused, PermissionRefusedError)


NONSENSE = [
    b"INFO 5\r\n",
    b"INFO []\r\n",
    b"INFO null\r\n",
    b'INFO {"connect_urls": 5}\r\nPONG\r\n',
    b"INFO {}\r\n-ERR \xff\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\xff\xfe\r\n",
]


@contextlib.asynccontextmanager
async def _saying(text: bytes, port: int = 0) -> AsyncIterator[str]:
    """A server that says the same to everybody and hangs up."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("text", NONSENSE)
async def test_what_is_no_server_is_unreachable(text: bytes) -> None:
    async with _saying(text) as url:
        with pytest.raises(LogUnavailableError, match="cannot reach the log"):
            await Connection([url], member_id="coord").open(0.05)


async def test_nonsense_at_the_address_of_the_server_does_not_end_the_repair(
    bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = await bus.connect("coord")
    connection, servers = transport.connection, list(transport.connection._servers)
    attempts = 0
    connect_once = Connection._connect

    async def counted(self: Connection) -> Any:
        nonlocal attempts
        attempts += 1
        return await connect_once(self)

    monkeypatch.setattr(Connection, "_connect", counted)
    async with _saying(b"INFO null\r\n") as url:
        connection._servers[:] = [url]
        connection.suspect()
        await wait_until_async(lambda: attempts >= 2)
    connection._servers[:] = servers
    assert (await transport.log.append(bus.submission(0))).sequence == 1
    assert connection.counters.reconnects == 1


async def test_a_fault_of_the_supervisor_is_told_and_the_connection_repaired(
    bus: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_module, "LONGEST_DELAY_S", 0.1)
    transport = await bus.connect("coord")
    connection, faults = transport.connection, [ValueError("listener"), KeyError("supervisor")]
    connect_again = Connection._connect_again

    def fail() -> None:
        raise faults[0]

    async def fail_once(self: Connection) -> Any:
        if len(faults) > 1:
            raise faults.pop()
        return await connect_again(self)

    connection.on_lost.append(fail)
    monkeypatch.setattr(Connection, "_connect_again", fail_once)
    connection.suspect()
    await wait_until_async(lambda: connection.counters.reconnects == 1)
    assert (await transport.log.append(bus.submission(0))).sequence == 1
    told = [str(each.exc_info[1]) for each in caplog.records if each.exc_info]
    assert told == ["listener", "'supervisor'", "listener"]
