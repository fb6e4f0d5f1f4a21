"""Signed appends a second, against bare publishing of the same bytes and against the sign rate."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import nats
from nats.aio.msg import Msg

from ...core.author import Author
from ...core.hashing import sha256
from ...core.identity import KeyPair
from ...core.log import EventLog, Submission
from ...core.names import event_subject
from ...protocols.simple.events import VoteCast
from .result import Figure
from .signatures import sign_rate

NODE = "bench"
STEP = 500
IN_FLIGHT = 4
WINDOW = 1000


def vote_submissions(author: Author, coordination: str, count: int) -> list[Submission]:
    """``count`` freshly signed votes, the most common event there is."""
    digest, epoch = sha256(b"proposal"), sha256(b"epoch")
    return [
        Submission(
            author.sign(
                coordination,
                epoch,
                "simple.vote_cast",
                VoteCast(ballot=number + 1, proposal_digest=digest, option="agree"),
                (digest,),
            ),
            "pub",
            NODE,
        )
        for number in range(count)
    ]


async def bare_rate(url: str, seed: str | None, submissions: list[Submission]) -> float:
    """Publishes a second of the same bytes with nats-py alone: one inbox, a window, single acks."""
    connection = await nats.connect(url, nkeys_seed_str=seed)
    inbox = connection.new_inbox()
    slots = asyncio.Semaphore(WINDOW)
    done = asyncio.Event()
    left = len(submissions)

    async def on_ack(_: Msg) -> None:
        nonlocal left
        left -= 1
        slots.release()
        if left == 0:
            done.set()

    await connection.subscribe(f"{inbox}.*", cb=on_ack)
    started = time.perf_counter()
    for number, submission in enumerate(submissions):
        await slots.acquire()
        header = submission.event.header
        subject = event_subject(header.coordination, "pub", header.type, NODE, header.author)
        await connection.publish(subject, submission.event.wire, reply=f"{inbox}.{number}")
    await asyncio.wait_for(done.wait(), 120)
    rate = len(submissions) / (time.perf_counter() - started)
    await connection.close()
    return rate


async def signed_rate(log: EventLog, author: Author, count: int) -> float:
    """Events a second that are signed, chained, appended and acknowledged as durable.

    One thread signs the next step while the steps before it are on their way.
    """
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def append(step: list[Submission]) -> None:
        try:
            await log.append_many(step)
        finally:
            slots.release()

    started = time.perf_counter()
    with ThreadPoolExecutor(1) as signer:
        async with asyncio.TaskGroup() as group:
            signing = loop.run_in_executor(signer, vote_submissions, author, "append-0", STEP)
            for number in range(1, count // STEP + 1):
                step = await signing
                if number < count // STEP:
                    name = f"append-{number % 8}"
                    signing = loop.run_in_executor(signer, vote_submissions, author, name, STEP)
                await slots.acquire()
                group.create_task(append(step))
    return count / (time.perf_counter() - started)


async def single_latencies(log: EventLog, author: Author, count: int) -> list[float]:
    """Seconds from signing to acknowledgement, one event at a time, sorted."""
    latencies = []
    for number in range(count):
        started = time.perf_counter()
        submission = vote_submissions(author, f"single-{number}", 1)[0]
        await log.append(submission)
        latencies.append(time.perf_counter() - started)
    return sorted(latencies)


async def measure(log: EventLog, url: str, seed: str | None, count: int) -> list[Figure]:
    """The append figures.

    Args:
        log: an open log.
        url, seed: of a connection that may publish on every event subject.
        count: events appended in bulk.
    """
    author = Author("bench", NODE, KeyPair.generate(), time.time_ns)
    limit = sign_rate()
    bare = await bare_rate(url, seed, vote_submissions(author, "bare", min(count, 10_000)))
    signed = await signed_rate(log, author, count)
    latencies = await single_latencies(log, author, 300)
    return [
        Figure("Ed25519 signatures, one thread", limit, "/s"),
        Figure("bare pipelined publishing, same bytes", bare, "/s"),
        Figure("signed appends", signed, "/s", signed / limit, "sign rate", ">= 0.7"),
        Figure("signed appends", signed, "/s", signed / bare, "bare publishing"),
        Figure("single append, p50", latencies[len(latencies) // 2] * 1000, "ms"),
        Figure("single append, p99", latencies[len(latencies) * 99 // 100] * 1000, "ms"),
    ]
