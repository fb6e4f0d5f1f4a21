"""Clients of a replicated service: they pipeline numbered requests and see them committed.

The load believes what the log shows (verifying is the replicas' business here), so it costs one
decoding an event. A request counts as committed when commits of a quorum of distinct replicas for
its slot are in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from ...core.author import Author
from ...core.envelope import Event, decode_event
from ...core.log import EventLog, Record, Submission
from ...protocols.byzantine.events import REQUEST, CommitSent, PrePrepareSent, RequestSubmitted

SERVICE = "service"
"""Id of the coordination."""

CHUNK = 100
"""Requests sent in one append."""

_pre_prepare = msgspec.msgpack.Decoder(PrePrepareSent)
_commit = msgspec.msgpack.Decoder(CommitSent)


class OrderingLoad:
    """Keeps a number of requests in flight.

    Args:
        log: where the service runs.
        epoch: of the service.
        authors: its clients.
        quorum: commits that make a certificate.
        in_flight: requests sent and not committed, over all clients.
        operations: operations in one request.

    Attributes:
        committed: requests committed.
        appends: records stored per type token of their subject.
        latencies: seconds from signing to seeing the commit certificate.
    """

    def __init__(
        self,
        log: EventLog,
        epoch: bytes,
        authors: Sequence[Author],
        quorum: int,
        in_flight: int,
        operations: int = 1,
    ) -> None:
        self.committed = 0
        self.appends: dict[str, int] = {}
        self.latencies: list[float] = []
        self._in_flight = in_flight
        self._operations = operations
        self._epoch = epoch
        self._log = log
        self._authors = authors
        self._numbers = [0] * len(authors)
        self._quorum = quorum
        self._sent = 0
        self._sent_at: dict[bytes, float] = {}
        self._position = 0
        self._batches: dict[bytes, tuple[bytes, ...]] = {}
        self._done: set[int] = set()
        self._voters: dict[tuple[int, int, bytes], set[str]] = {}
        self._moved = asyncio.Event()

    @property
    def slots(self) -> int:
        """Slots committed."""
        return len(self._done)

    async def resume_chains(self) -> None:
        """Continue the clients' chains behind what the log holds of them."""
        names = {author.id: author for author in self._authors}
        for record in await self._log.read(SERVICE):
            event = decode_event(record.wire)
            author = names.get(event.header.author)
            if author is not None and event.header.coordination == SERVICE:
                author.resume(SERVICE, event.header.author_seq + 1, event.id, event.header.at_ns)

    async def run(self, requests: int) -> float:
        """Have that many more requests committed; seconds it took.

        Raises:
            TimeoutError: nothing was committed for a minute.
        """
        goal = self.committed + requests
        following = asyncio.create_task(self._follow())
        started = time.perf_counter()
        try:
            while self.committed < goal:
                await self._send(min(goal - self._sent, self._room()))
                self._moved.clear()
                async with asyncio.timeout(60):
                    await self._moved.wait()
                if following.done():
                    following.result()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        return time.perf_counter() - started

    def _room(self) -> int:
        return self._in_flight - (self._sent - self.committed)

    async def _send(self, count: int) -> None:
        while count > 0:
            chunk = [self._request() for _ in range(min(count, CHUNK))]
            submissions = [Submission(event, "pub", author.node) for event, author in chunk]
            await self._log.append_many(submissions)
            count -= len(chunk)

    def _request(self) -> tuple[Event, Author]:
        which = self._sent % len(self._authors)
        self._sent += 1
        self._numbers[which] += 1
        body = RequestSubmitted(self._numbers[which], [{"add": self._sent}] * self._operations)
        author = self._authors[which]
        event = author.sign(SERVICE, self._epoch, REQUEST, body)
        self._sent_at[event.id] = time.perf_counter()
        return event, author

    async def _follow(self) -> None:
        async with aclosing(self._log.follow(SERVICE, self._position)) as records:
            async for record in records:
                self._position = record.sequence
                self._take(record)

    def _take(self, record: Record) -> None:
        token = record.subject.split(".")[5]
        self.appends[token] = self.appends.get(token, 0) + 1
        if token == "byzantine_pre_prepare_sent":
            proposal = _pre_prepare.decode(decode_event(record.wire).body)
            self._batches[proposal.batch_digest] = proposal.request_ids
        elif token == "byzantine_commit_sent":
            event = decode_event(record.wire)
            vote = _commit.decode(event.body)
            voters = self._voters.setdefault((vote.view, vote.sequence, vote.batch_digest), set())
            voters.add(event.header.author)
            if len(voters) == self._quorum:
                self._commit(vote)

    def _commit(self, vote: CommitSent) -> None:
        if vote.sequence in self._done:
            return  # in an earlier view
        self._done.add(vote.sequence)
        now = time.perf_counter()
        for request_id in self._batches.pop(vote.batch_digest, ()):
            sent_at = self._sent_at.pop(request_id, None)
            if sent_at is not None:
                self.committed += 1
                self.latencies.append(now - sent_at)
        self._moved.set()
