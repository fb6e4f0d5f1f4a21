"""Following the log: the live feed for speed, the log itself for truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from ..errors import LogUnavailableError, SequenceGapError
from ..log import Record
from ..names import EVENT_SUBJECTS, FEED_SUBJECTS, feed_filter
from .connection import Connection
from .live_feed import Live, LiveFeed
from .lookup import Lookup
from .position import check_position
from .reader import RangeReader

LAG_PAUSE_S = 0.002
LONGEST_LAG_PAUSE_S = 0.2
"""Pauses while a replica does not have yet what the feed has announced."""


async def follow_all(
    connection: Connection, lookup: Lookup, reader: RangeReader, after: int | None
) -> AsyncGenerator[list[Record], None]:
    """The whole log from ``after`` on; see :meth:`mabeam.core.log.EventLog.follow_all`.

    Sequence numbers of the feed are contiguous over the stream, so every loss shows; what is
    missing is read from the log. A follower that cannot keep up reads the log only.
    """
    feed = LiveFeed(connection, FEED_SUBJECTS)
    await feed.open()
    try:
        target = (await lookup.head(EVENT_SUBJECTS)).sequence
        position = target if after is None else after
        check_position(position, target)
        while True:
            async for batch in reader.read(position, target):
                position = batch[-1].sequence
                yield batch
            await feed.wait()
            taken, overflowed = feed.take()
            live = _successors(taken, position)
            if live:
                position = live[-1].sequence
                yield live
            if overflowed or (taken and taken[-1].record.sequence > position):
                connection.counters.feed_gaps += not overflowed
                target = feed.latest
            elif feed.doubtful:
                feed.doubtful = False
                target = await _head_sequence(lookup, position)
    finally:
        await feed.close()


async def follow_one(
    connection: Connection,
    read: Callable[[str, int], Awaitable[list[Record]]],
    coordination: str,
    after: int | None,
) -> AsyncGenerator[Record, None]:
    """One coordination from ``after`` on; see :meth:`mabeam.core.log.EventLog.follow`.

    On a single server the feed of one connection cannot lose a message without losing the
    connection, so live copies are used as they are, with a check of each subject's predecessor. In
    a cluster a broken route could swallow the only message of a subject unseen; there the feed only
    says when to read the log.
    """
    feed = LiveFeed(connection, feed_filter(coordination))
    await feed.open()
    known_empty, after = after is None, after or 0
    position = after
    heads: dict[str, int] = {}
    pause = LAG_PAUSE_S
    try:
        while True:
            feed.doubtful = False
            if not known_empty:
                for record in await read(coordination, position):
                    position = heads[record.subject] = record.sequence
                    yield record
            known_empty = False
            if feed.latest > position:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_LAG_PAUSE_S)
                continue
            pause = LAG_PAUSE_S
            while not feed.doubtful:
                await feed.wait()
                taken, overflowed = feed.take()
                if overflowed or (taken and connection.is_clustered):
                    break
                live = [item for item in taken if item.record.sequence > position]
                if any(not _follows(item, heads, after, position) for item in live):
                    connection.counters.feed_gaps += 1
                    break
                for record, _ in live:
                    position = heads[record.subject] = record.sequence
                    yield record
    finally:
        await feed.close()


def _successors(taken: list[Live], position: int) -> list[Record]:
    """The records that follow ``position`` without a hole."""
    records = []
    for record, _ in taken:
        if record.sequence == position + 1:
            position += 1
            records.append(record)
        elif record.sequence > position:
            break
    return records


def _follows(item: Live, heads: dict[str, int], after: int, position: int) -> bool:
    """Whether nothing is missing on the item's subject.

    Raises:
        SequenceGapError: something is, and later events have been handed out already.
    """
    known = heads.get(item.record.subject, 0)
    if item.previous == known or (known == 0 and item.previous <= after):
        heads[item.record.subject] = item.record.sequence
        return True
    if known < item.previous <= position:
        raise SequenceGapError(
            f"event {item.previous} was missed; events up to {position} were handed out without it",
            hint="Fold the coordination again from the log.",
        )
    return False


async def _head_sequence(lookup: Lookup, position: int) -> int:
    """Where the log ends; the present position while that cannot be found out."""
    try:
        head = (await lookup.head(EVENT_SUBJECTS)).sequence
    except LogUnavailableError:
        return position
    check_position(position, head)
    return head
