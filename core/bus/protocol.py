"""A NATS client that survives whatever bytes the server hands on.

The server lets a member publish subjects that are no UTF-8 or hold control characters, and header
blocks that are none. nats-py 2.16 ends its read loop over them: the connection is lost, and the
same message is delivered again. Here they become ordinary messages, which are refused where events
are read. It also looked at every character of every header name for white space; a republished
event carries eight headers, and that was the largest cost of a coordinator.
"""

from __future__ import annotations

import codecs
import json
from typing import NamedTuple

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

MAX_LINE_BYTES = 1024 * 1024
"""No line of the protocol is that long; a server that sends one is no NATS server."""

_END = b"\r\n"
_VERSION = b"NATS/1.0"


class _Head(NamedTuple):
    """The line of a message whose payload is still to come."""

    subject: bytes
    sid: int
    reply: bytes
    headers: int
    total: int


class LineParser(Parser):
    """Reads the protocol line by line: a subject is whatever stands between two spaces."""

    def reset(self) -> None:
        """Start over, as on a new connection."""
        super().reset()
        self._head: _Head | None = None

    async def parse(self, data: bytes = b"") -> None:
        """Act on all that is complete by now.

        Raises:
            ProtocolError: this is not what a server says.
        """
        self.buf += data
        while self.buf:
            if self._head is not None:
                if len(self.buf) < self._head.total + len(_END):
                    return
                await self._message(self._head)
                continue
            end = self.buf.find(_END)
            if end < 0:
                if len(self.buf) > MAX_LINE_BYTES:
                    raise ProtocolError
                return
            line = bytes(self.buf[:end])
            del self.buf[: end + len(_END)]
            await self._line(line)

    async def _line(self, line: bytes) -> None:
        command, _, rest = line.partition(b" ")
        if command in (b"MSG", b"HMSG"):
            self._head = _head(rest, with_headers=command == b"HMSG")
        elif command == b"PING":
            await self.nc._process_ping()
        elif command == b"PONG":
            await self.nc._process_pong()
        elif command == b"-ERR":
            await self.nc._process_err(_text(rest).strip().lower())
        elif command == b"INFO":
            await self.nc._process_info(json.loads(rest))
        elif command != b"+OK":
            raise ProtocolError

    async def _message(self, head: _Head) -> None:
        headers = bytes(self.buf[: head.headers])
        payload = bytes(self.buf[head.headers : head.total])
        del self.buf[: head.total + len(_END)]
        self._head = None
        await self.nc._process_msg(head.sid, head.subject, head.reply, payload, headers)


def _head(fields: bytes, *, with_headers: bool) -> _Head:
    """``subject sid [reply] [headers] total``, as the server writes it."""
    try:
        subject, sid, *reply, total = fields.split(b" ")
        headers = int(reply.pop()) if with_headers else 0
        head = _Head(subject, int(sid), b" ".join(reply), headers, int(total))
    except (ValueError, IndexError):
        raise ProtocolError from None
    if len(reply) > 1 or not 0 <= headers <= head.total:
        raise ProtocolError
    return head


class RobustClient(Client):
    """nats-py's client with another parser for protocol lines, subjects and header blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = LineParser(self)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """``Name: Value`` lines as a mapping, and the status in the first line, if there is one;
        lines without a colon or a name are skipped."""
        if not headers:
            return None
        first, *lines = _text(headers).split("\r\n")
        status, _, description = first[len(_VERSION) :].strip().partition(" ")
        parsed = {"Status": status} if status.isdigit() else {}
        if description:
            parsed["Description"] = description
        for line in lines:
            name, colon, value = line.partition(":")
            if colon and name:
                parsed[name] = value.strip()
        return parsed

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> object:
        return self.msg_class(
            subject=_text(subject),
            reply=_text(reply),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )


def _replace_each(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("mabeam.replace_each", _replace_each)


def _text(raw: bytes) -> str:
    """UTF-8 with one U+FFFD for every byte that is none: what the server itself makes of such a
    subject in the JSON of a single read, so that a record is the same by whatever way it comes."""
    return raw.decode("utf-8", "mabeam.replace_each")
