"""A server that dies without warning: nothing acknowledged is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from functools import partial
from typing import Any

import pytest
from waiting import wait_until_async

from mabeam.core.envelope import decode_event
from mabeam.core.log import Appended, Record

pytestmark = pytest.mark.integration


async def _crash_during(bus: Any, work: Awaitable[Any], progress: Any) -> Any:
    """Kill and restart the server twice while ``work`` goes on."""
    task = asyncio.ensure_future(work)

    def reached(threshold: int) -> bool:
        return bool(progress() >= threshold or task.done())

    for threshold in (300, 900):
        await wait_until_async(partial(reached, threshold))
        bus.server.kill()
        await bus.server.start_async()
    return await task


def _check_log(records: list[Record], appended: dict[bytes, int]) -> None:
    ids = [decode_event(record.wire).id for record in records]
    assert len(set(ids)) == len(ids)
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    stored = dict(zip(ids, (record.sequence for record in records), strict=True))
    assert {id: stored.get(id) for id in appended} == appended


async def test_single_appends(bus: Any) -> None:
    log = (await bus.connect("coord")).log
    submissions = [bus.submission(n) for n in range(3000)]
    appended: dict[bytes, int] = {}
    source = iter(submissions)

    async def write() -> None:
        for submission in source:
            appended[submission.event.id] = (await log.append(submission)).sequence
            await asyncio.sleep(random.random() / 1000)

    work = asyncio.gather(*(write() for _ in range(20)))
    await _crash_during(bus, work, lambda: len(appended))
    assert len(appended) == 3000
    _check_log(await bus.stored(), appended)


async def test_group_commit_and_steps(bus: Any) -> None:
    transport = await bus.connect("coord")
    log = transport.log
    appended: dict[bytes, int] = {}

    async def single(number: int) -> None:
        submission = bus.submission(number, coordination="single")
        appended[submission.event.id] = (await log.append(submission)).sequence

    async def step(number: int) -> None:
        events = [
            bus.submission(n, coordination=f"s{number}", expected=0 if n == 0 else None)
            for n in range(4)
        ]
        result = await log.append_many(events)
        first = result[0].sequence
        assert [a.sequence for a in result] == list(range(first, first + 4))
        for event, each in zip(events, result, strict=True):
            appended[event.event.id] = each.sequence

    work = asyncio.gather(*(single(n) for n in range(2000)), *(step(n) for n in range(300)))
    await _crash_during(bus, work, lambda: len(appended))
    assert len(appended) == 2000 + 4 * 300
    assert transport.counters.batches > 0
    assert transport.counters.reconnects >= 1
    _check_log(await bus.stored(), appended)


async def test_guarded_chain_survives(bus: Any) -> None:
    """A coordinator's lost answer must not look like a lost race."""
    log = (await bus.connect("coord")).log
    appended: dict[bytes, int] = {}

    async def chain(name: str) -> None:
        position = 0
        for number in range(60):
            event = bus.submission(number, coordination=name, expected=position)
            position = (await log.append(event)).sequence
            appended[event.event.id] = position

    work = asyncio.gather(*(chain(f"chain{n}") for n in range(20)))
    await _crash_during(bus, work, lambda: len(appended))
    assert len(appended) == 1200
    _check_log(await bus.stored(), appended)


async def test_followers_go_on(bus: Any) -> None:
    writer = (await bus.connect("coord")).log
    whole = (await bus.connect("proj")).log
    one = (await bus.connect("ann")).log
    seen_whole: list[int] = []
    seen_one: list[int] = []

    async def follow_whole() -> None:
        async for batch in whole.follow_all(0):
            seen_whole.extend(record.sequence for record in batch)

    async def follow_one() -> None:
        async for record in one.follow("c1"):
            seen_one.append(record.sequence)

    def have_seen(count: int) -> bool:
        return len(seen_whole) == len(seen_one) == count

    tasks = [asyncio.create_task(follow_whole()), asyncio.create_task(follow_one())]
    for round_ in range(3):
        for n in range(50):
            await writer.append(bus.submission(100 * round_ + n))
        await wait_until_async(partial(have_seen, 50 * (round_ + 1)), timeout_s=20)
        if round_ < 2:
            bus.server.kill()
            await bus.server.start_async()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen_whole == seen_one == list(range(1, 151))


async def test_queues_go_on(bus: Any) -> None:
    coordinator, agent = await bus.connect("coord"), await bus.connect("ann")
    client = await bus.connect("client")
    requested: list[int] = []
    invited: list[bytes] = []

    async def serve() -> None:
        async for request in coordinator.requests(4):
            requested.append(request.record.sequence)
            await request.ack()

    async def listen() -> None:
        async for invitation in agent.invitations("n1", "ann", 4):
            invited.append(invitation.payload)
            await invitation.ack()

    def have_come(number: int) -> bool:
        return len(requested) > number and str(number).encode() in invited

    tasks = [asyncio.create_task(serve()), asyncio.create_task(listen())]
    for number in range(2):
        request = bus.submission(number, "req", author="client", coordination=f"q{number}")
        assert isinstance(await client.log.append(request), Appended)
        await coordinator.invite("n1", "ann", f"q{number}", str(number).encode())
        await wait_until_async(partial(have_come, number))
        bus.server.kill()
        await bus.server.start_async()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
