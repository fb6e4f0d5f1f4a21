"""Ranges of the log in contiguous batches: a hole is an error, whatever path the records took."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator

import msgspec
from nats.aio.msg import Msg

from ..errors import LogUnavailableError, SequenceGapError
from ..log import Record
from ..names import EVENT_SUBJECTS
from .connection import Connection
from .direct import PAGE, DirectReader
from .lookup import Lookup
from .pipeline import BUDGET_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, Pipeline
from .pull import PullLoop
from .wire import ApiReply, parse_ack_subject

BUFFER = 4000
"""Records requested ahead of the reader."""

PULL_BYTES = 16 * 1024 * 1024
IDLE_S = 30
"""Seconds after which the server removes an unused consumer."""

_api_reply = msgspec.json.Decoder(ApiReply)


class RangeReader:
    """Reads ``(after, upto]`` of the whole log.

    Args:
        connection: carries everything.
        pipeline: for requests to the JetStream API.
        direct: for short ranges, and for all if there is no right to create consumers.
        lookup: decides whether a hole is real.
        may_consume: whether the connection may create consumers.
    """

    def __init__(
        self,
        connection: Connection,
        pipeline: Pipeline,
        direct: DirectReader,
        lookup: Lookup,
        *,
        may_consume: bool,
    ) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._direct = direct
        self._lookup = lookup
        self._may_consume = may_consume

    async def read(self, after: int, upto: int) -> AsyncGenerator[list[Record], None]:
        """Every record with ``after`` < sequence <= ``upto``, which the log is known to have.

        Raises:
            SequenceGapError: the log has a hole.
            LogUnavailableError: no progress for 20 s.
        """
        loop = asyncio.get_running_loop()
        expires = loop.time() + BUDGET_S
        pause = FIRST_PAUSE_S
        while after < upto:
            by_pull = self._may_consume and upto - after > PAGE
            batches = self._pull(after, upto) if by_pull else self._pages(after)
            async for batch in batches:
                usable = _contiguous(batch, after, upto)
                if usable:
                    after = usable[-1].sequence
                    yield usable
                    expires, pause = loop.time() + BUDGET_S, FIRST_PAUSE_S
                if len(usable) < len(batch):
                    break
            if after < upto:
                # Either records were lost on the way to us, or a replica lags, or there is a hole.
                await self._check_hole(after + 1)
                if loop.time() > expires:
                    raise LogUnavailableError(f"the log does not go on after {after}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _check_hole(self, sequence: int) -> None:
        following = await self._lookup.next(EVENT_SUBJECTS, sequence)
        if following is not None and following.sequence != sequence:
            raise SequenceGapError(
                f"the log has no event {sequence}, the next one is {following.sequence}",
                hint="Stop, compare the stream's files with a replica or a backup, then rebuild.",
            )

    async def _pages(self, after: int) -> AsyncGenerator[list[Record], None]:
        more = True
        while more:
            page, more = await self._direct.page(EVENT_SUBJECTS, after)
            if page:
                yield page
                after = page[-1].sequence

    async def _pull(self, after: int, upto: int) -> AsyncGenerator[list[Record], None]:
        """Everything a consumer of our own delivers, until it stalls, disappears or is done."""
        consumer = f"r{secrets.token_hex(8)}"
        arrived: deque[Msg] = deque()
        wake = asyncio.Event()
        gone = False

        def deliver(message: Msg) -> None:
            arrived.append(message)
            wake.set()

        def lose() -> None:
            nonlocal gone
            gone = True
            wake.set()

        def room() -> int:
            return min(BUFFER - len(arrived), upto - after - len(arrived))

        await self._create_consumer(consumer, after + 1)
        pull = PullLoop(
            self._connection,
            "EVT",
            consumer,
            room=room,
            deliver=deliver,
            gone=lose,
            least=min(BUFFER // 2, upto - after),
            max_bytes=PULL_BYTES,
        )
        self._connection.on_lost.append(lose)
        await pull.open()
        try:
            while after < upto and not (gone and not arrived):
                wake.clear()
                if not arrived:
                    async with asyncio.timeout(BUDGET_S):
                        await wake.wait()
                    continue
                batch = [_record(message) for message in arrived]
                arrived.clear()
                after = batch[-1].sequence
                pull.poke()
                yield batch
        except TimeoutError:
            return
        finally:
            self._connection.on_lost.remove(lose)
            await pull.close()
            await self._delete_consumer(consumer)

    async def _create_consumer(self, name: str, start: int) -> None:
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": IDLE_S * 10**9,
        }
        body = json.dumps({"stream_name": "EVT", "config": config}).encode()
        reply = await self._pipeline.request(f"$JS.API.CONSUMER.CREATE.EVT.{name}", body)
        error = _api_reply.decode(reply.data).error
        if error is not None:
            raise LogUnavailableError(f"cannot read the log: {error.description}")

    async def _delete_consumer(self, name: str) -> None:
        """Best effort: the server removes an unused one by itself."""
        try:
            await self._connection.publish(f"$JS.API.CONSUMER.DELETE.EVT.{name}", b"")
        except LogUnavailableError:
            return


def _record(message: Msg) -> Record:
    tokens = parse_ack_subject(message.reply)
    return Record(tokens.sequence, tokens.stored_ns, message.subject, message.data)


def _contiguous(batch: list[Record], after: int, upto: int) -> list[Record]:
    """The prefix of ``batch`` that follows ``after`` without a hole and ends at ``upto``."""
    if batch and batch[0].sequence == after + 1 and batch[-1].sequence - after == len(batch):
        return batch[: upto - after]
    usable: list[Record] = []
    for record in batch:
        if record.sequence != after + 1 or record.sequence > upto:
            break
        after = record.sequence
        usable.append(record)
    return usable
