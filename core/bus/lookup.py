"""Single stored messages by position or subject, from the stream's leader or from any replica."""

from __future__ import annotations

import json

import msgspec

from ..errors import LogUnavailableError
from ..log import Head, Record
from .pipeline import Pipeline
from .wire import (
    NO_MESSAGE_CODE,
    MessageReply,
    StreamInfo,
    parse_time_ns,
    record_from_headers,
    status_of,
)

_message_reply = msgspec.json.Decoder(MessageReply)
_stream_info = msgspec.json.Decoder(StreamInfo)


class Lookup:
    """Reads one message at a time.

    Args:
        pipeline: carries the requests.
        from_leader: ask the leader (coordinators, projectors); otherwise any replica answers,
            which may lag behind, but needs no right to the JetStream API.
        stream: name of the stream.
    """

    def __init__(self, pipeline: Pipeline, *, from_leader: bool, stream: str = "EVT") -> None:
        self._pipeline = pipeline
        self._from_leader = from_leader
        self._stream = stream

    async def at(self, sequence: int) -> Record | None:
        """The message stored at ``sequence``."""
        return await self._get({"seq": sequence}) if sequence > 0 else None

    async def next(self, subject: str, sequence: int) -> Record | None:
        """The first message on ``subject`` (wildcards allowed) at or after ``sequence``."""
        return await self._get({"seq": max(sequence, 1), "next_by_subj": subject})

    async def last(self, subject: str) -> Record | None:
        """The last message on ``subject`` (wildcards allowed)."""
        return await self._get({"last_by_subj": subject})

    async def find(self, subject: str, wire: bytes, after: int = 0) -> int | None:
        """Sequence > ``after`` of the message on ``subject`` with exactly these bytes."""
        while (record := await self.next(subject, after + 1)) is not None:
            if record.wire == wire:
                return record.sequence
            after = record.sequence
        return None

    async def head(self, subjects: str) -> Head:
        """State of the stream; without access to the leader ``created_ns`` is 0 (unknown)."""
        if not self._from_leader:
            record = await self.last(subjects)
            return Head(0, record.sequence if record else 0)
        reply = await self._pipeline.request(f"$JS.API.STREAM.INFO.{self._stream}", b"")
        info = _stream_info.decode(reply.data)
        if info.error is not None:
            raise LogUnavailableError(
                f"stream {self._stream}: {info.error.description}",
                hint="Has the deployment been provisioned?",
            )
        return Head(parse_time_ns(info.created), info.state.last_seq)

    async def _get(self, query: dict[str, object]) -> Record | None:
        body = json.dumps(query).encode()
        if self._from_leader:
            return self._from_api(
                (await self._pipeline.request(f"$JS.API.STREAM.MSG.GET.{self._stream}", body)).data
            )
        message = await self._pipeline.request(f"$JS.API.DIRECT.GET.{self._stream}", body)
        if status := status_of(message):
            if status == "404":
                return None
            description = (message.headers or {}).get("Description", "")
            raise LogUnavailableError(f"reading the log: {status} {description}".rstrip())
        return record_from_headers(message)

    def _from_api(self, data: bytes) -> Record | None:
        reply = _message_reply.decode(data)
        if reply.message is not None:
            found = reply.message
            return Record(found.seq, parse_time_ns(found.time), found.subject, found.data)
        if reply.error is None or reply.error.err_code == NO_MESSAGE_CODE:
            return None
        raise LogUnavailableError(f"reading stream {self._stream}: {reply.error.description}")
