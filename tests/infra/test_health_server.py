"""Health requests over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from mabeam.infra.embedded_server import EmbeddedServerError
from mabeam.infra.health_server import Check, HealthServer


async def _request(port: int, text: bytes) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    try:
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    except ConnectionResetError:  # closed with unread bytes
        answer = ""
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head.split("\r\n")[0], body


async def test_paths_states_and_refusals() -> None:
    bus = True

    async def checks() -> Sequence[Check]:
        return (Check("bus", bus, "nats://x"),)

    server = HealthServer("127.0.0.1", 0, checks, lambda: b"mabeam_ready 1.0\n")
    await server.start()

    async def get(path: str) -> tuple[str, str]:
        return await _request(server.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    try:
        assert await get("/livez") == ("HTTP/1.1 200 OK", "ok\n")
        assert await get("/metrics?x=1") == ("HTTP/1.1 200 OK", "mabeam_ready 1.0\n")
        status, body = await get("/readyz")
        assert (status, json.loads(body)["ready"]) == ("HTTP/1.1 200 OK", True)
        bus = False
        status, body = await get("/readyz")
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert json.loads(body)["checks"] == [{"name": "bus", "ok": False, "detail": "nats://x"}]
        assert (await get("/nothing"))[0] == "HTTP/1.1 404 Not Found"
        post = await _request(server.port, b"POST /livez HTTP/1.1\r\n\r\n")
        assert post[0] == "HTTP/1.1 405 Method Not Allowed"
        garbage = await _request(server.port, b"\x00" * 40_000)
        assert garbage == ("", "")
        with pytest.raises(EmbeddedServerError, match="cannot listen"):
            await HealthServer("127.0.0.1", server.port, checks, lambda: b"").start()
    finally:
        await server.stop()
