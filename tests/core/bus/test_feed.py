"""A feed that loses messages: every loss is noticed and made up for from the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg
from waiting import wait_until_async

from mabeam.core.bus import live_feed
from mabeam.core.bus.live_feed import LiveFeed
from mabeam.core.errors import SequenceGapError
from mabeam.core.log import EventLog

pytestmark = pytest.mark.integration


def _lose(monkeypatch: pytest.MonkeyPatch, lost: set[int]) -> None:
    """Keep the feed messages with these sequences from every follower."""
    deliver = LiveFeed._on_message

    async def lossy(self: LiveFeed, message: Msg) -> None:
        if int((message.headers or {})["Nats-Sequence"]) not in lost:
            await deliver(self, message)

    monkeypatch.setattr(LiveFeed, "_on_message", lossy)


class _Whole:
    def __init__(self, log: EventLog, pause: asyncio.Event | None = None) -> None:
        self.seen: list[int] = []
        self._log = log
        self._pause = pause
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for batch in self._log.follow_all(0):
            self.seen += [record.sequence for record in batch]
            if self._pause is not None:
                await self._pause.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_follow_all_fills_every_hole(bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _lose(monkeypatch, {2, 5, 6, 7, 40} | set(range(100, 150)))
    writer, follower = await bus.connect("coord"), await bus.connect("proj")
    whole = _Whole(follower.log)
    for n in range(200):
        await writer.log.append(bus.submission(n))
    await wait_until_async(lambda: len(whole.seen) == 200)
    await whole.stop()
    assert whole.seen == list(range(1, 201))
    assert follower.counters.feed_gaps > 0


async def test_loss_at_the_end_is_noticed_in_time(
    bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later message reveals it; only a comparison with the log does."""
    monkeypatch.setattr(live_feed.LiveFeed.__init__, "__kwdefaults__", {"check_s": 0.2})
    _lose(monkeypatch, {3})
    writer, follower = await bus.connect("coord"), await bus.connect("ann")
    whole = _Whole((await bus.connect("proj")).log)
    following = follower.log.follow("c1")
    for n in range(3):
        await writer.log.append(bus.submission(n))
    assert [(await asyncio.wait_for(anext(following), 5)).sequence for _ in range(3)] == [1, 2, 3]
    await wait_until_async(lambda: whole.seen == [1, 2, 3])
    await whole.stop()
    await following.aclose()


async def test_overload_falls_back_to_the_log(bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "MAX_RECORDS", 50)
    writer, follower = await bus.connect("coord"), await bus.connect("proj")
    pause = asyncio.Event()
    whole = _Whole(follower.log, pause)
    await writer.log.append(bus.submission(0))
    await wait_until_async(lambda: whole.seen == [1])
    await asyncio.gather(*(writer.log.append(bus.submission(n)) for n in range(1, 1500)))
    pause.set()
    await wait_until_async(lambda: len(whole.seen) == 1500)
    await whole.stop()
    assert whole.seen == list(range(1, 1501))
    assert follower.counters.feed_overflows > 0


async def test_follow_one_reads_again_after_a_gap(
    bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lose(monkeypatch, {3, 4})
    writer, follower = await bus.connect("coord"), await bus.connect("ann")
    following = follower.log.follow("c1")
    await writer.log.append(bus.submission(0))
    assert (await anext(following)).sequence == 1
    seen = asyncio.ensure_future(_take(following, 5))
    for n in range(1, 6):
        await writer.log.append(bus.submission(n))
    assert await asyncio.wait_for(seen, 4) == [2, 3, 4, 5, 6]
    await following.aclose()


async def test_follow_one_never_hands_out_a_late_event(
    bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost on its subject, overtaken on another: order cannot be kept, so the follower says so."""
    _lose(monkeypatch, {2})
    writer, other, follower = [await bus.connect(name) for name in ("coord", "ann", "bob")]
    following = follower.log.follow("c1")
    await writer.log.append(bus.submission(0))
    assert (await anext(following)).sequence == 1
    nexts = asyncio.ensure_future(_take(following, 2))
    await writer.log.append(bus.submission(1))
    await other.log.append(bus.submission(0, "pub", author="ann"))
    await writer.log.append(bus.submission(2))
    with pytest.raises(SequenceGapError, match="event 2 was missed"):
        await asyncio.wait_for(nexts, 4)


async def _take(following: Any, count: int) -> list[int]:
    return [(await anext(following)).sequence for _ in range(count)]
