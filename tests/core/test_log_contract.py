"""What every event log promises, checked on the memory log and on a real JetStream."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from nacl.bindings import crypto_sign_seed_keypair
from waiting import wait_until_async

from mabeam.core.bus.jetstream import JetStreamTransport, connect
from mabeam.core.bus.nkey import encode_user_seed, user_public_key
from mabeam.core.bus.server_config import Member, Role, ServerSettings, server_config
from mabeam.core.envelope import MAX_EVENT_BYTES, Event, Header, sign_event
from mabeam.core.errors import (
    AppendRefusedError,
    LimitError,
    LogFullError,
    LogUnavailableError,
    SequenceConflictError,
    SequenceGapError,
    UsageError,
)
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.log import Appended, EventLog, Record, Submission
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.transport import Transport
from mabeam.infra.nats_server import EmbeddedNats

T = TypeVar("T")

ROLES: dict[str, Role] = {"operator": "operator", "coord": "coordinator", "agent": "agent"}
SEEDS = {name: sha256(name.encode()) for name in ROLES}
SECRET_KEY = crypto_sign_seed_keypair(bytes(32))[1]


class Backend:
    """One fresh log; :meth:`open` gives another connection to it."""

    def __init__(self, open_one: Callable[[str], Awaitable[Transport]]) -> None:
        self._open_one = open_one
        self._opened: list[Transport] = []

    async def open(self, author: str = "coord") -> EventLog:
        transport = await self._open_one(author)
        self._opened.append(transport)
        return transport.log

    async def close(self) -> None:
        while self._opened:
            await self._opened.pop().close()


@pytest.fixture
def nats() -> Iterator[EmbeddedNats]:
    members = [
        Member(name, "n1", frozenset({role}), user_public_key(SEEDS[name]))
        for name, role in ROLES.items()
    ]
    directory = Path(tempfile.mkdtemp(prefix="mabeam-"))
    config = server_config(members, ServerSettings(http=None))
    with EmbeddedNats(directory, config=config) as server:
        yield server
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.integration)])
def make_backend(
    request: pytest.FixtureRequest,
) -> Callable[[int | None], Awaitable[Backend]]:
    """Makes the log, empty; the argument bounds its bytes."""

    async def make(max_bytes: int | None = None) -> Backend:
        if request.param == "memory":
            broker = MemoryBroker(max_bytes=max_bytes or 2**31)
            return Backend(lambda _: _ready(MemoryTransport(broker)))
        url = request.getfixturevalue("nats").client_url

        async def open_one(author: str) -> JetStreamTransport:
            seed = encode_user_seed(SEEDS[author])
            return await connect(url, id=author, role=ROLES[author], nkey_seed=seed)

        operator = await open_one("operator")
        await operator.provision(max_bytes=max_bytes)
        await operator.close()
        return Backend(open_one)

    return make


@pytest.fixture
async def backend(
    make_backend: Callable[[int | None], Awaitable[Backend]],
) -> AsyncIterator[Backend]:
    backend = await make_backend(None)
    yield backend
    await backend.close()


async def _ready(value: T) -> T:
    return value


async def _outcome(awaitable: Awaitable[T]) -> T | Exception:
    return (await asyncio.gather(awaitable, return_exceptions=True))[0]  # type: ignore[return-value]


def event(number: int, coordination: str = "c1", author: str = "coord", size: int = 10) -> Event:
    body = number.to_bytes(8, "big") + bytes(size)
    header = Header(
        version=1,
        coordination=coordination,
        epoch=b"",
        type="test.happened",
        author=author,
        key_id=bytes(8),
        author_seq=number,
        prev=ZERO32,
        refs=(),
        at_ns=1,
        body_sha256=sha256(body),
    )
    return sign_event(header, body, SECRET_KEY)


def control(number: int, expected: int | None = None, coordination: str = "c1") -> Submission:
    return Submission(event(number, coordination), "ctl", "n1", expected)


def public(number: int, coordination: str = "c1", author: str = "agent") -> Submission:
    return Submission(event(number, coordination, author), "pub", "n1")


async def fill(log: EventLog, count: int, coordination: str = "c1") -> None:
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        await log.append_many([control(n, coordination=coordination) for n in numbers])


async def everything(log: EventLog) -> list[Record]:
    return [record async for batch in log.read_all() for record in batch]


class TestAppend:
    async def test_sequences_are_contiguous_and_bytes_are_kept(self, backend: Backend) -> None:
        log = await backend.open()
        submissions = [control(n) for n in range(5)]
        sequences = [(await log.append(s)).sequence for s in submissions]
        assert sequences == [1, 2, 3, 4, 5]
        records = await everything(log)
        assert [r.wire for r in records] == [s.event.wire for s in submissions]
        assert {r.subject for r in records} == {"mabeam.v1.evt.c1.ctl.test_happened.n1.coord"}
        stored = [r.stored_ns for r in records]
        assert stored == sorted(stored)
        assert stored[0] > 10**18

    async def test_repeating_an_append_stores_nothing(self, backend: Backend) -> None:
        log = await backend.open()
        assert await log.append(control(0)) == Appended(1)
        await log.append(control(1))
        assert await log.append(control(0)) == Appended(1, duplicate=True)
        assert (await log.head()).sequence == 2

    async def test_concurrent_appends_keep_each_authors_order(self, backend: Backend) -> None:
        coordinator, agent = await backend.open(), await backend.open("agent")
        mine = [coordinator.append(control(n)) for n in range(1500)]
        theirs = [agent.append(public(n)) for n in range(1500)]
        appended = await asyncio.gather(*mine, *theirs)
        for author in (appended[:1500], appended[1500:]):
            assert [a.sequence for a in author] == sorted(a.sequence for a in author)
        assert sorted(a.sequence for a in appended) == list(range(1, 3001))
        assert len(await everything(coordinator)) == 3000

    async def test_appends_begun_one_after_another_stay_in_order(self, backend: Backend) -> None:
        """None may overtake those that have just been handed over, alone or in a group."""
        log = await backend.open()
        tasks = []
        for n in range(3000):
            tasks.append(asyncio.create_task(log.append(control(n))))
            if n % 5 == 0:
                await asyncio.sleep(0)
        appended = await asyncio.gather(*tasks)
        assert [a.sequence for a in appended] == list(range(1, 3001))

    async def test_guard_holds_only_for_control_events(self, backend: Backend) -> None:
        coordinator, agent = await backend.open(), await backend.open("agent")
        first = await coordinator.append(control(0, expected=0))
        await agent.append(public(0))
        await coordinator.append(control(5, coordination="c2"))
        second = await coordinator.append(control(1, expected=first.sequence))
        assert second.sequence == 4

    async def test_stale_guard_is_refused(self, backend: Backend) -> None:
        log = await backend.open()
        await log.append(control(0, expected=0))
        for stale in (0, 7):
            with pytest.raises(SequenceConflictError):
                await log.append(control(1, expected=stale))
        assert (await log.head()).sequence == 1

    async def test_of_fifty_racing_exactly_one_wins(self, backend: Backend) -> None:
        logs = [await backend.open() for _ in range(5)]
        position = 0
        for turn in range(10):
            rivals = [control(100 * turn + n, expected=position) for n in range(50)]
            results = await asyncio.gather(
                *(logs[n % 5].append(rival) for n, rival in enumerate(rivals)),
                return_exceptions=True,
            )
            won = [r for r in results if isinstance(r, Appended)]
            lost = [r for r in results if isinstance(r, SequenceConflictError)]
            assert (len(won), len(lost)) == (1, 49)
            position = won[0].sequence
        assert (await logs[0].head()).sequence == 10

    async def test_conflict_with_ones_own_stored_event_is_success(self, backend: Backend) -> None:
        """The answer to the first attempt was lost; meanwhile the log moved on."""
        log = await backend.open()
        first = await log.append(control(0, expected=0))
        await log.append(control(1, expected=first.sequence))
        assert await log.append(control(0, expected=0)) == Appended(1, duplicate=True)

    async def test_too_large_an_event_is_refused(self, backend: Backend) -> None:
        log = await backend.open()
        large = msgspec.structs.replace(event(0), wire=bytes(MAX_EVENT_BYTES + 1))
        with pytest.raises(AppendRefusedError):
            await log.append(Submission(large, "ctl", "n1"))
        largest = event(1, size=MAX_EVENT_BYTES - 500)
        await log.append(Submission(largest, "ctl", "n1"))
        assert [r.wire for r in await log.read("c1")] == [largest.wire]

    async def test_malformed_tokens_are_refused(self, backend: Backend) -> None:
        log = await backend.open()
        for node in ("n.1", "n1 x", "*", "", "n\r\nPUB"):
            with pytest.raises(UsageError):
                await log.append(Submission(event(0), "ctl", node))

    async def test_full_log_refuses_and_keeps(
        self, make_backend: Callable[[int | None], Awaitable[Backend]]
    ) -> None:
        backend = await make_backend(60_000)
        log = await backend.open()
        large = [Submission(event(n, size=2000), "ctl", "n1") for n in range(40)]
        results = [await _outcome(log.append(submission)) for submission in large]
        appended = sum(isinstance(result, Appended) for result in results)
        assert 10 < appended < 31
        assert {type(result) for result in results[appended:]} == {LogFullError}
        assert len(await everything(log)) == appended
        with pytest.raises(LogFullError):
            await log.append_many(
                [Submission(event(200 + n, size=8000), "ctl", "n1") for n in range(8)]
            )
        assert (await log.head()).sequence == appended
        await backend.close()

    async def test_closed_connection_says_so(self, backend: Backend) -> None:
        log = await backend.open()
        await backend.close()
        with pytest.raises(LogUnavailableError):
            await log.append(control(0))


class TestAppendMany:
    async def test_all_are_stored_side_by_side(self, backend: Backend) -> None:
        log = await backend.open()
        await log.append(control(99))
        step = [control(n, expected=1 if n == 0 else None) for n in range(5)]
        assert [a.sequence for a in await log.append_many(step)] == [2, 3, 4, 5, 6]
        assert [r.wire for r in await log.read("c1", 1)] == [s.event.wire for s in step]

    async def test_none_is_stored_on_conflict(self, backend: Backend) -> None:
        log = await backend.open()
        await log.append(control(0, expected=0))
        step = [control(1, 0, "c2"), control(2, 0, "c1"), control(3, coordination="c2")]
        with pytest.raises(SequenceConflictError):
            await log.append_many(step)
        assert (await log.head()).sequence == 1

    async def test_guards_of_several_coordinations(self, backend: Backend) -> None:
        log = await backend.open()
        await log.append(control(0, coordination="c1"))
        step = [control(1, 1, "c1"), control(2, 0, "c2"), control(3, coordination="c1")]
        assert [a.sequence for a in await log.append_many(step)] == [2, 3, 4]

    async def test_repeating_a_step_finds_it(self, backend: Backend) -> None:
        log = await backend.open()
        step = [control(n, expected=0 if n == 0 else None) for n in range(3)]
        first = await log.append_many(step)
        await log.append(control(9, expected=3))
        assert await log.append_many(step) == [Appended(a.sequence, True) for a in first]
        assert (await log.head()).sequence == 4

    async def test_a_step_with_a_stored_event_stores_the_rest(self, backend: Backend) -> None:
        log = await backend.open()
        await log.append(control(1))
        result = await log.append_many([control(n) for n in range(3)])
        assert result == [Appended(2), Appended(1, duplicate=True), Appended(3)]

    async def test_concurrent_steps_stay_whole(self, backend: Backend) -> None:
        log = await backend.open()
        steps = [
            [control(10 * n + i, 0 if i == 0 else None, f"s{n}") for i in range(4)]
            for n in range(100)
        ]
        results = await asyncio.gather(*(log.append_many(step) for step in steps))
        for appended in results:
            first = appended[0].sequence
            assert [a.sequence for a in appended] == list(range(first, first + 4))
        assert (await log.head()).sequence == 400

    async def test_a_losing_step_spares_its_neighbours(self, backend: Backend) -> None:
        """Steps sent at once may travel together; only the one at fault fails."""
        log = await backend.open()
        await log.append(control(0, coordination="s7"))
        steps = [[control(10 * n + i + 1, 0, f"s{n}")] for n in range(200) for i in range(1)]
        results = await asyncio.gather(
            *(log.append_many(step) for step in steps), return_exceptions=True
        )
        lost = [n for n, result in enumerate(results) if isinstance(result, Exception)]
        assert lost == [7]
        assert isinstance(results[7], SequenceConflictError)
        assert (await log.head()).sequence == 200

    async def test_bad_steps_are_refused(self, backend: Backend) -> None:
        log = await backend.open()
        with pytest.raises(LimitError):
            await log.append_many([control(n) for n in range(501)])
        with pytest.raises(UsageError):
            await log.append_many([control(0), control(0)])
        with pytest.raises(UsageError):
            await log.append_many([control(0), control(1, expected=0)])
        assert await log.append_many([]) == []
        assert (await log.head()).sequence == 0


class TestRead:
    async def test_one_coordination_after_a_position(self, backend: Backend) -> None:
        coordinator, agent = await backend.open(), await backend.open("agent")
        for n in range(4):
            await coordinator.append(control(n, coordination="c1"))
            await agent.append(public(n, coordination="c2"))
        for log in (coordinator, agent):
            assert [r.sequence for r in await log.read("c1")] == [1, 3, 5, 7]
            assert [r.sequence for r in await log.read("c1", 3)] == [5, 7]
            assert await log.read("c1", 7) == []
            assert await log.read("unknown") == []

    async def test_long_coordination(self, backend: Backend) -> None:
        log = await backend.open()
        await fill(log, 2300)
        assert [r.sequence for r in await log.read("c1", 100)] == list(range(101, 2301))

    async def test_read_all_is_contiguous(self, backend: Backend) -> None:
        logs = [await backend.open(), await backend.open("agent")]
        await fill(logs[0], 2500)
        for log in logs:
            assert [r.sequence for r in await everything(log)] == list(range(1, 2501))
            rest = [r.sequence async for batch in log.read_all(2000) for r in batch]
            assert rest == list(range(2001, 2501))
            assert [batch async for batch in log.read_all(2500)] == []

    async def test_position_beyond_the_end_is_an_error(self, backend: Backend) -> None:
        log = await backend.open()
        await fill(log, 3)
        with pytest.raises(SequenceGapError):
            await anext(aiter(log.read_all(4)))
        with pytest.raises(SequenceGapError):
            await anext(aiter(log.follow_all(4)))

    async def test_single_records_and_head(self, backend: Backend) -> None:
        log = await backend.open()
        empty = await log.head()
        assert empty.sequence == 0
        submission = control(0)
        await log.append(submission)
        record = await log.record_at(1)
        assert record is not None
        assert record.wire == submission.event.wire
        assert record == (await log.read("c1"))[0]
        assert await log.record_at(2) is None
        assert await log.record_at(0) is None
        head = await log.head()
        assert (head.created_ns, head.sequence) == (empty.created_ns, 1)


class TestFollow:
    @pytest.mark.parametrize("follower", ["coord", "agent"])
    async def test_stored_then_live_each_once(self, backend: Backend, follower: str) -> None:
        writer, reader = await backend.open(), await backend.open(follower)
        await fill(writer, 20)
        seen: list[int] = []

        async def follow() -> None:
            async for record in reader.follow("c1", 5):
                seen.append(record.sequence)

        task = asyncio.create_task(follow())
        await wait_until_async(lambda: len(seen) == 15)
        for n in range(20, 60):
            await writer.append(control(n))
            await writer.append(control(n, coordination="other"))
        await wait_until_async(lambda: len(seen) == 55)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert seen == [r.sequence for r in await writer.read("c1", 5)]

    async def test_following_while_others_write(self, backend: Backend) -> None:
        writer, reader = await backend.open(), await backend.open()
        seen: list[int] = []

        async def follow() -> None:
            async for record in reader.follow("c1"):
                seen.append(record.sequence)

        writing = asyncio.gather(*(writer.append(control(n)) for n in range(1000)))
        task = asyncio.create_task(follow())
        await writing
        await wait_until_async(lambda: len(seen) == 1000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert seen == list(range(1, 1001))

    async def test_follow_ends_with_aclose(self, backend: Backend) -> None:
        log = await backend.open()
        await log.append(control(0))
        following = log.follow("c1")
        assert (await anext(following)).sequence == 1
        await following.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(following)

    async def test_whole_log_from_the_start_and_from_now(self, backend: Backend) -> None:
        writer, reader = await backend.open(), await backend.open()
        await fill(writer, 1200)
        seen: dict[str, list[int]] = {"start": [], "now": []}
        ready = asyncio.Event()

        async def follow(name: str, after: int | None) -> None:
            async for batch in reader.follow_all(after):
                assert batch
                seen[name] += [record.sequence for record in batch]
                ready.set()

        tasks = [asyncio.create_task(follow("start", 0)), asyncio.create_task(follow("now", None))]
        await wait_until_async(lambda: len(seen["start"]) == 1200)
        number = 5000
        while not seen["now"]:  # until the second follower has found its place
            await writer.append(control(number, coordination="c2"))
            number += 1
            await asyncio.sleep(0)  # the memory log never suspends by itself
        await asyncio.gather(*(writer.append(control(n)) for n in range(2000, 2500)))
        head = (await writer.head()).sequence
        await wait_until_async(lambda: seen["start"][-1:] == seen["now"][-1:] == [head])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert seen["start"] == list(range(1, head + 1))
        assert seen["now"] == list(range(seen["now"][0], head + 1))
        assert seen["now"][0] > 1200
