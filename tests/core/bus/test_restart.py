"""A server that dies without warning: nothing acknowledged is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from waiting import wait_until_async

from mabeam.core.envelope import decode_event
from mabeam.core.log import Appended, Record

pytestmark = pytest.mark.integration


async def _crash_twice(
    bus: Any, appended: dict[bytes, int], work: Callable[[int], Awaitable[Any]]
) -> None:
    """Do ``work(0)``, ``work(1)`` … and kill the server twice in the middle of it."""
    enough = asyncio.Event()

    async def go_on() -> None:
        number = 0
        while not enough.is_set():
            await work(number)
            number += 1

    task = asyncio.create_task(go_on())

    def reached(count: int) -> bool:
        return len(appended) >= count or task.done()

    for _ in range(2):
        await wait_until_async(partial(reached, len(appended) + 300), timeout_s=20)
        bus.server.kill()
        await bus.server.start_async()
    enough.set()
    await task


def _check_log(records: list[Record], appended: dict[bytes, int]) -> None:
    ids = [decode_event(record.wire).id for record in records]
    assert len(set(ids)) == len(ids)
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    stored = dict(zip(ids, (record.sequence for record in records), strict=True))
    assert {id: stored.get(id) for id in appended} == appended


async def test_single_appends(bus: Any) -> None:
    transport = await bus.connect("coord")
    appended: dict[bytes, int] = {}

    async def write(first: int) -> None:
        for number in range(first, first + 25):
            submission = bus.submission(number)
            appended[submission.event.id] = (await transport.log.append(submission)).sequence

    async def work(round_: int) -> None:
        await asyncio.gather(*(write(500 * round_ + 25 * n) for n in range(20)))

    await _crash_twice(bus, appended, work)
    assert transport.counters.reconnects >= 1
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

    async def work(round_: int) -> None:
        await asyncio.gather(
            *(single(400 * round_ + n) for n in range(400)),
            *(step(60 * round_ + n) for n in range(60)),
        )

    await _crash_twice(bus, appended, work)
    assert transport.counters.batches > 0
    assert transport.counters.reconnects >= 1
    _check_log(await bus.stored(), appended)


async def test_guarded_chain_survives(bus: Any) -> None:
    """A coordinator's lost answer must not look like a lost race."""
    transport = await bus.connect("coord")
    appended: dict[bytes, int] = {}
    positions = dict.fromkeys((f"chain{n}" for n in range(20)), 0)

    async def extend(name: str, first: int) -> None:
        for number in range(first, first + 20):
            event = bus.submission(number, coordination=name, expected=positions[name])
            positions[name] = (await transport.log.append(event)).sequence
            appended[event.event.id] = positions[name]

    async def work(round_: int) -> None:
        await asyncio.gather(*(extend(name, 20 * round_) for name in positions))

    await _crash_twice(bus, appended, work)
    assert transport.counters.reconnects >= 1
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
