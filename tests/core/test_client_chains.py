"""Clients that share a key, or were killed, never use a number of their chain twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from deployment import Deployment
from stored import forks, stored
from voters import HeldVoter

from mabeam.core.client import Client
from mabeam.core.errors import LogUnavailableError, NotFoundError, UsageError, VerificationError
from mabeam.core.journal import Journal, JournalInUseError
from mabeam.core.log import Appended, Record, Submission
from mabeam.protocols import PROTOCOLS

CANCEL = "coordination.cancel_requested"
BALLOT = {"proposal": 1}


def slowly(client: Client) -> Client:
    """The same client; others get a turn between what it reads and what it appends."""
    log = client.transport.log
    read = log.read

    async def pause(coordination: str, after: int = 0) -> list[Record]:
        records = await read(coordination, after)
        await asyncio.sleep(0.01)
        return records

    log.read = pause  # type: ignore[method-assign]
    return client


async def sharing(deployment: Deployment) -> Client:
    """One of any number of processes that sign as ``client``."""
    if "client" not in deployment.keys:
        await deployment.admit("client", "client")

    async def journal() -> Journal:
        while True:
            try:
                return deployment.journal("client")
            except JournalInUseError:
                await asyncio.sleep(0.001)

    return Client(
        deployment.author("client"),
        deployment.connect("client"),
        PROTOCOLS,
        deployment.root.public_key,
        open_journal=journal,
    )


async def held(deployment: Deployment) -> tuple[Client, str]:
    """A coordination that stays open, and the client that asked for it."""
    await deployment.agent("a-1", HeldVoter())
    client = await sharing(deployment)
    name = await client.request("simple_consensus", BALLOT, ["a-1"], coordination="daily")
    return client, name


async def test_processes_that_share_a_key_sign_one_after_the_other(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        first, name = await held(deployment)
        others = [slowly(await sharing(deployment)) for _ in range(4)]
        clients = [first, *others, first, *others]
        await asyncio.gather(*(client.cancel(name) for client in clients))
        assert len(stored(deployment, name, CANCEL)) == len(clients)
        assert forks(deployment) == []


async def test_without_a_journal_they_fork(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        _, name = await held(deployment)
        others = [slowly(await deployment.client()) for _ in range(4)]
        await asyncio.gather(*(each.cancel(name) for each in others))
        assert forks(deployment)


@pytest.mark.parametrize("arrives", [False, True])
async def test_what_a_killed_client_had_signed_is_appended_again(
    tmp_path: Path, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Deployment(tmp_path) as deployment:
        client, name = await held(deployment)
        log = client.transport.log

        async def lost(submissions: Sequence[Submission]) -> list[Appended]:
            if arrives:
                await type(log).append_many(log, submissions)
            raise LogUnavailableError("killed before the answer came")

        with monkeypatch.context() as patch:
            patch.setattr(log, "append", lambda submission: lost([submission]))
            with pytest.raises(LogUnavailableError):
                await client.cancel(name, "first")
        await (await sharing(deployment)).cancel(name, "second")
        assert len(stored(deployment, name, CANCEL)) == 2
        assert [e.header.author_seq for e in stored(deployment, name, CANCEL)] == [1, 2]
        assert forks(deployment) == []


async def test_an_id_is_used_once(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        _, name = await held(deployment)
        again = await sharing(deployment)
        with pytest.raises(UsageError, match="already"):
            await again.request("simple_consensus", BALLOT, ["a-1"], coordination=name)
        assert len(stored(deployment, name, "coordination.requested")) == 1


async def test_a_request_that_never_arrived_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Deployment(tmp_path) as deployment:
        client = await sharing(deployment)

        async def lost(submission: Submission) -> Appended:
            raise LogUnavailableError("killed before it was sent")

        with monkeypatch.context() as patch:
            patch.setattr(client.transport.log, "append", lost)
            with pytest.raises(LogUnavailableError):
                await client.request("simple_consensus", BALLOT, ["a-1"], coordination="x")
        with pytest.raises(NotFoundError):
            await client.read("x")
        with pytest.raises(UsageError, match="already"):
            await (await sharing(deployment)).request(
                "simple_consensus", BALLOT, ["a-1"], coordination="x"
            )
        assert len(stored(deployment, "x", "coordination.requested")) == 1


async def test_a_key_used_elsewhere_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Deployment(tmp_path) as deployment:
        client, name = await held(deployment)

        async def lost(submission: Submission) -> Appended:
            raise LogUnavailableError("killed before it was sent")

        with monkeypatch.context() as patch:
            patch.setattr(client.transport.log, "append", lost)
            with pytest.raises(LogUnavailableError):
                await client.cancel(name)
        await (await deployment.client()).cancel(name)  # the same key, and no journal
        with pytest.raises(VerificationError, match="another event 1 of 'client'"):
            await (await sharing(deployment)).cancel(name)
        assert forks(deployment) == []
