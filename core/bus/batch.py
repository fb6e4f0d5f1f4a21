"""Atomic batches (ADR-50): several messages stored side by side, or none of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

from ..errors import LogUnavailableError, PermissionRefusedError
from ..log import Appended
from .connection import Connection
from .counters import Counters
from .frames import header, publish_frame
from .lookup import Lookup
from .pipeline import ATTEMPT_S, BUDGET_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, Pipeline
from .publisher import Outgoing, decode_ack, refusal
from .wire import BATCH_DUPLICATE_CODE, BATCH_RETRY_CODES, CONFLICT_CODES, ApiError

MAX_BATCH = 1000
"""Messages the server takes in one batch."""


class BatchRefusedError(Exception):
    """The server refused a batch; nothing of it is stored."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.description)
        self.error = error


class BatchSender:
    """Sends atomic batches and settles what an unanswered one has done."""

    def __init__(
        self, connection: Connection, pipeline: Pipeline, lookup: Lookup, counters: Counters
    ) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._lookup = lookup
        self._counters = counters
        self._refused: dict[str, None] = {}
        connection.on_refused.append(self._note_refused)

    async def send(self, messages: Sequence[Outgoing]) -> int:
        """Send one batch once; returns the sequence of its first message.

        Raises:
            BatchRefusedError: nothing was stored.
            LogUnavailableError: no answer; the batch is stored as a whole or not at all.
            PermissionRefusedError: one of the subjects is not permitted.
        """
        batch = header("Nats-Batch-Id", secrets.token_hex(8))
        *rest, final = messages
        frames = b"".join(
            publish_frame(
                message.subject,
                "",
                b"%s%sNats-Batch-Sequence: %d\r\n" % (message.headers, batch, number),
                message.wire,
            )
            for number, message in enumerate(rest, 1)
        )
        last = len(messages)
        commit = b"%s%sNats-Batch-Sequence: %d\r\nNats-Batch-Commit: 1\r\n"
        reply = await self._pipeline.request(
            final.subject,
            final.wire,
            commit % (final.headers, batch, last),
            budget_s=ATTEMPT_S,
            resend=False,
            before=frames,
        )
        ack = decode_ack(reply.data)
        if ack.error is not None:
            self._check_permitted(messages)
            raise BatchRefusedError(ack.error)
        self._counters.batches += 1
        return ack.seq - last + 1

    async def append_step(self, messages: Sequence[Outgoing]) -> list[Appended]:
        """Store one step atomically; see :meth:`mabeam.core.log.EventLog.append_many`."""
        loop = asyncio.get_running_loop()
        expires = loop.time() + BUDGET_S
        pause = FIRST_PAUSE_S
        stored: dict[str, int] = {}
        while True:
            missing = [m for m in messages if m.id not in stored]
            try:
                first = await self.send(missing)
                new = {m.id: first + n for n, m in enumerate(missing)}
                return [_appended(m.id, new, stored) for m in messages]
            except BatchRefusedError as refused:
                if refused.error.err_code in (CONFLICT_CODES | {BATCH_DUPLICATE_CODE}):
                    stored = await self._locate(messages)
                    if len(stored) == len(messages):
                        return [_appended(m.id, {}, stored) for m in messages]
                if refused.error.err_code in CONFLICT_CODES:
                    self._counters.conflicts += 1
                if refused.error.err_code not in BATCH_RETRY_CODES:
                    what = f"step of {len(messages)} events on {messages[0].subject}"
                    raise refusal(refused.error, what) from None
            except LogUnavailableError:
                if loop.time() + pause > expires:
                    raise
            if loop.time() + pause > expires:
                raise LogUnavailableError(f"no step of {len(messages)} events could be stored")
            self._counters.retries += len(missing)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(expires):
                    await self._connection.wait_connected()

    async def _locate(self, messages: Sequence[Outgoing]) -> dict[str, int]:
        """Sequences, by message id, of the events that are stored already."""
        stored = {}
        for message in messages:
            found = await self._lookup.find(message.subject, message.wire, message.expected)
            if found is not None:
                self._counters.duplicates += 1
                stored[message.id] = found
        return stored

    def _note_refused(self, subject: str) -> None:
        self._refused[subject] = None
        while len(self._refused) > MAX_BATCH:
            del self._refused[next(iter(self._refused))]

    def _check_permitted(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            if self._refused.pop(message.subject.lower(), "") is None:
                raise PermissionRefusedError(f"not permitted to publish on {message.subject}")


def _appended(key: str, new: dict[str, int], stored: dict[str, int]) -> Appended:
    return Appended(new[key]) if key in new else Appended(stored[key], duplicate=True)
