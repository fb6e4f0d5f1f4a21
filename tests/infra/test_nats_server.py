"""The embedded nats-server: data survives a crash, ports survive a restart, nothing survives us."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from waiting import wait_until

from mabeam.infra.embedded_server import EmbeddedServerError
from mabeam.infra.nats_server import EmbeddedNats

pytestmark = pytest.mark.integration


async def _connect(server: EmbeddedNats) -> Client:
    return await nats.connect(server.client_url, allow_reconnect=False)


async def _publish(server: EmbeddedNats, count: int) -> None:
    client = await _connect(server)
    stream = client.jetstream()
    await stream.add_stream(name="LOG", subjects=["log.>"])
    for number in range(count):
        await stream.publish("log.entry", str(number).encode())
    await client.close()


async def _stored(server: EmbeddedNats) -> list[bytes | None]:
    client = await _connect(server)
    stream = client.jetstream()
    last = (await stream.stream_info("LOG")).state.last_seq
    messages = [await stream.get_msg("LOG", seq) for seq in range(1, last + 1)]
    await client.close()
    return [message.data for message in messages]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


async def test_acknowledged_messages_survive_a_crash(server_directory: Path) -> None:
    async with EmbeddedNats(server_directory) as server:
        await _publish(server, 20)
        first_pid, url = server.pid, server.client_url
        server.kill()
        assert not server.is_running
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", server.client_port)
        await server.start_async()
        assert server.pid != first_pid
        assert server.client_url == url
        assert await _stored(server) == [str(number).encode() for number in range(20)]


async def test_restart_keeps_ports_and_data(server_directory: Path) -> None:
    async with EmbeddedNats(server_directory) as server:
        await _publish(server, 3)
        before = (server.client_url, server.monitor_url, server.pid)
        await server.restart_async()
        assert (server.client_url, server.monitor_url) == before[:2]
        assert server.pid != before[2]
        assert await _stored(server) == [b"0", b"1", b"2"]
    assert not server.is_running


def test_wrong_configuration_is_reported_with_the_servers_own_words(server_directory: Path) -> None:
    server = EmbeddedNats(server_directory, config="jetstream { sync_interval: sometimes }")
    with pytest.raises(EmbeddedServerError, match="sync_interval") as caught:
        server.start()
    assert str(server.log_path) in caught.value.hint
    assert not server.is_running


def test_configuration_file_is_used_and_ports_stay_ours(server_directory: Path) -> None:
    config = server_directory / "given.conf"
    config.write_text('listen: "0.0.0.0:4222"\nauthorization { token: secret }\n')
    with EmbeddedNats(server_directory, config=config) as server:
        opened = server.log_path.read_text()
        assert f"Listening for client connections on 127.0.0.1:{server.client_port}" in opened
        with socket.create_connection(("127.0.0.1", server.client_port), 5.0) as client:
            assert b'"auth_required":true' in client.makefile("rb").readline()


def test_stop_twice_is_harmless(server_directory: Path) -> None:
    server = EmbeddedNats(server_directory)
    server.start()
    server.stop()
    server.stop()
    assert server.pid is None


def test_server_ends_when_its_program_is_killed(server_directory: Path) -> None:
    program = (
        "import sys, pathlib; from mabeam.infra.nats_server import EmbeddedNats\n"
        "server = EmbeddedNats(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(server_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        server_pid = int(owner.stdout.readline())
        assert _exists(server_pid)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not _exists(server_pid), timeout_s=20)


async def test_shared_server_syncs_every_write(nats_server: EmbeddedNats) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.monitor_port)
    writer.write(b"GET /jsz?config=true HTTP/1.0\r\n\r\n")
    page = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b'"sync_always": true' in page


def test_not_ready_in_time_is_an_error(server_directory: Path) -> None:
    routes = "cluster { name: c, listen: 127.0.0.1:-1, routes: [nats-route://127.0.0.1:9] }\n"
    config = "server_name: a\njetstream { }\n" + routes  # alone it never elects a meta leader
    server = EmbeddedNats(server_directory, config=config)
    started = time.monotonic()
    with pytest.raises(EmbeddedServerError, match=r"not ready within 1 s"):
        server.start(timeout_s=1.0)
    assert server.is_running
    assert time.monotonic() - started < 20
    server.stop()
