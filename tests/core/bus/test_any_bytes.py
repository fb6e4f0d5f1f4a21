"""What a member may publish under is nearly any bytes; all of it is read, by whatever way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.errors import ProtocolError

from mabeam.core.bus import reader
from mabeam.core.bus.protocol import MAX_LINE_BYTES, LineParser, RobustClient
from mabeam.core.log import Record

SUBJECTS = [
    b"\xff",  # no UTF-8
    b"\xe2\x82",  # the beginning of a character: two replacements, not one
    b"\xed\xa0\x80",  # a surrogate
    b"\x0b",  # white space for a regular expression, not for the server
    b"\x0c\x1c\xc2\x85\xe2\x80\xa8",  # line ends for str.splitlines
    b"\x00",
    b'"\\',
    b"\xc2\xa0",
]
HEADERS = [
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 404 \xff\r\n\r\n",
    b"NATS/1.0\r\n\xff: \xff\r\nNats-Sequence: x\r\n\r\n",
    b"NATS/1.0\r\n: nothing\r\nno colon\r\n\r\n",
]


async def _publish_nonsense(bus: Any) -> int:
    """As ``ann``, who composes her frames herself."""
    ann, token = await bus.raw("ann"), b"mabeam.v1.evt.c1.pub.%b.n1.ann"
    for subject in SUBJECTS:
        await ann._send_command(b"PUB %b 4\r\njunk\r\n" % (token % subject))
    for headers in HEADERS:
        frame = b"HPUB %b %d %d\r\n%b\r\n" % (token % b"x", len(headers), len(headers), headers)
        await ann._send_command(frame)
    await ann.flush()
    return len(SUBJECTS) + len(HEADERS)


async def _first(records: AsyncIterator[Any], count: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(10):
        async for one in records:
            found += one if isinstance(one, list) else [one]
            if len(found) >= count:
                break
    return found


@pytest.mark.integration
async def test_any_stored_subject_and_header_is_read_the_same_by_every_way(
    bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coord, agent, projector = [await bus.connect(name) for name in ("coord", "bob", "proj")]
    count = 5
    live = asyncio.create_task(_first(coord.log.follow_all(0), 22))
    for number in range(5):
        await coord.log.append(bus.submission(number))
    count += await _publish_nonsense(bus)
    for number in range(5, 10):
        await coord.log.append(bus.submission(number))
    count += 5
    assert (await coord.log.head()).sequence == count == 22
    singly = [await coord.log.record_at(sequence) for sequence in range(1, count + 1)]
    assert await live == singly
    assert await _first(agent.log.follow("c1"), count) == singly
    assert await _first(projector.log.read_all(), count) == singly
    monkeypatch.setattr(reader, "PAGE", 5)  # by a consumer
    assert await _first(projector.log.read_all(), count) == singly
    for transport in (coord, agent, projector):
        assert transport.counters.reconnects == 0


class _Heard(RobustClient):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[object] = []

    async def _process_msg(self, *message: object) -> None:
        self.heard.append(message)

    async def _process_info(self, info: object, initial_connection: bool = False) -> None:
        self.heard.append(info)

    async def _process_ping(self) -> None:
        self.heard.append("ping")

    async def _process_pong(self) -> None:
        self.heard.append("pong")

    async def _process_err(self, err_msg: str) -> None:
        self.heard.append(err_msg)


async def test_lines_and_messages_cut_anywhere() -> None:
    said = (
        b'INFO {"a":1} \r\nPING\r\n+OK\r\nPONG\r\nMSG a\xff 7 3\r\nabc\r\nMSG a\x0bb 7 r 0\r\n\r\n'
        b"HMSG s 8 12 14\r\nNATS/1.0\r\n\r\n\r\n\r\n-ERR 'Who \xff'\r\nHMSG s 8 r.1 0 1\r\nx\r\n"
    )
    heard = [
        {"a": 1},
        "ping",
        "pong",
        (7, b"a\xff", b"", b"abc", b""),
        (7, b"a\x0bb", b"r", b"", b""),
        (8, b"s", b"", b"\r\n", b"NATS/1.0\r\n\r\n"),
        "'who \ufffd'",
        (8, b"s", b"r.1", b"x", b""),
    ]
    for size in (1, 2, 3, 7, len(said)):
        client = _Heard()
        for start in range(0, len(said), size):
            await client._ps.parse(said[start : start + size])
        assert client.heard == heard


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 b c 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a b 1\r\n",
        b"HMSG a 1 5 3\r\n",
        b"HMSG a 1 5\r\n",
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
async def test_what_no_server_says_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await LineParser(_Heard()).parse(line)
