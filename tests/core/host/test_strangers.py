"""A record that is read before the registry knows its author is taken as soon as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from deployment import Deployment
from waiting import wait_until_async

from mabeam.core.author import Author
from mabeam.core.host.strangers import MAX_STRANGERS, Strangers
from mabeam.core.identity import KeyPair
from mabeam.core.log import Record, Submission
from mabeam.protocols.byzantine.events import REQUEST, RequestSubmitted

COORDINATION = "c-1"


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with Deployment(tmp_path) as it:
        await it.admit("old", "client")
        yield it


async def _said(deployment: Deployment, author: Author) -> Record:
    """Somebody says something in a coordination."""
    event = author.sign(COORDINATION, bytes(32), REQUEST, RequestSubmitted(1, author.id))
    await deployment.connect(author.id).log.append(Submission(event, "pub", "n1"))
    return (await deployment.connect(author.id).log.read(COORDINATION, 0))[-1]


async def test_a_newcomer_is_heard_once_the_registry_names_it(deployment: Deployment) -> None:
    log = deployment.connect("reader").log
    registry = deployment.view()
    await registry.load(log)
    await deployment.admit("newcomer", "client")
    record = await _said(deployment, deployment.author("newcomer"))
    taken: list[Record] = []
    strangers = Strangers(registry, log, taken.append)
    introducing = asyncio.create_task(strangers.introduce())
    try:
        assert registry.admit(record) is None
        strangers.note(record)
        await asyncio.sleep(0)
        assert taken == []
        await registry.load(log)
        await wait_until_async(lambda: taken == [record])
        assert registry.admit(taken[0]) is not None
        await deployment.admit("another", "client")
        await registry.load(log)
        await asyncio.sleep(0.01)
        assert taken == [record], "once"
    finally:
        introducing.cancel()


async def test_only_unknown_keys_are_remembered_and_not_too_many(deployment: Deployment) -> None:
    registry = deployment.view()
    await registry.load(deployment.connect("reader").log)
    strangers = Strangers(registry, deployment.connect("reader").log, lambda record: None)
    strangers.note(await _said(deployment, deployment.author("old")))
    strangers.note(Record(7, 7, "mabeam.v1.evt.c-1.pub.x.n1.x", b"garbage"))
    assert len(strangers) == 0
    unknown = Author("nobody", "n1", KeyPair.generate(), lambda: 1)
    event = unknown.sign(COORDINATION, bytes(32), REQUEST, RequestSubmitted(1, 1))
    for sequence in range(MAX_STRANGERS + 10):
        strangers.note(Record(sequence, 1, "mabeam.v1.evt.c-1.pub.x.n1.x", event.wire))
    assert len(strangers) == MAX_STRANGERS
