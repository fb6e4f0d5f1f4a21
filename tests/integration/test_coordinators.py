"""Coordinators that race, stop and come back: real processes, real server."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from mabeam.core.author import Author
from mabeam.core.client import Client
from mabeam.core.envelope import decode_event
from mabeam.core.errors import SequenceConflictError
from mabeam.core.hashing import ZERO32
from mabeam.core.kernel_events import CoordinationClaimed
from mabeam.core.log import Submission
from mabeam.core.transport import Transport
from mabeam.infra.local import LocalDeployment

pytestmark = pytest.mark.integration

SCRIPT = {f"agent-{number}": [{"option": "agree", "rank": 24}] for number in (1, 2, 3)}


async def control_events(transport: Transport, coordination: str) -> list[tuple[str, str, int]]:
    """Type, author and sequence of the stored ``ctl`` events."""
    records = await transport.log.read(coordination)
    events = [(decode_event(record.wire).header, record) for record in records]
    return [
        (header.type, header.author, record.sequence)
        for header, record in events
        if record.subject.split(".")[4] == "ctl"
    ]


async def coordinator_of(client: Client, coordination: str) -> str:
    """Who opened the ballot."""
    async for step in client.watch(coordination):
        if step.event is not None and step.event.type == "simple.ballot_opened":
            return step.event.author
    raise AssertionError("no ballot")


async def test_a_coordinator_stopped_past_its_lease_appends_nothing_when_it_resumes(
    deployment: LocalDeployment,
) -> None:
    """The lease is 1.5 s; the votes come after six seconds, when another has long taken over."""
    client = await deployment.client("client")
    stopped = ""
    try:
        name = await client.request(
            "simple_consensus",
            {"proposal": {"script": SCRIPT}, "vote_timeout_ms": 20_000},
            sorted(SCRIPT),
        )
        stopped = await coordinator_of(client, name)
        deployment.kill(stopped, signal.SIGSTOP)
        decision = await client.result(name)
        other = decision.terminal.author
        assert other != stopped
        before = await control_events(client.transport, name)
        deployment.kill(stopped, signal.SIGCONT)
        resumed = await client.decide(
            "simple_consensus",
            {"proposal": {"script": {id: [{"option": "agree"}] for id in SCRIPT}}},
            sorted(SCRIPT),
        )
        await asyncio.to_thread(deployment.wait_ready, stopped)
        after = await control_events(client.transport, name)
    finally:
        if stopped:
            deployment.kill(stopped, signal.SIGCONT)
        await client.transport.close()
    assert resumed.outcome["decision"] == "agree"
    assert after == before
    authors = [author for kind, author, _ in after if kind == "coordination.claimed"]
    assert authors == [stopped, other]
    assert [kind for kind, _, _ in after].count("coordination.decided") == 1


async def test_a_killed_coordinator_is_replaced_before_the_votes_are_in(
    deployment: LocalDeployment,
) -> None:
    client = await deployment.client("client")
    killed = ""
    try:
        name = await client.request(
            "simple_consensus",
            {"proposal": {"script": SCRIPT}, "vote_timeout_ms": 20_000},
            sorted(SCRIPT),
        )
        killed = await coordinator_of(client, name)
        await asyncio.to_thread(deployment.kill, killed)
        started = time.monotonic()
        decision = await client.result(name)
        assert decision.outcome["decision"] == "agree"
        assert decision.terminal.author != killed
        assert time.monotonic() - started < 15
    finally:
        await client.transport.close()
        if killed:
            await asyncio.to_thread(deployment.spawn_coordinator, killed)


async def claim(transport: Transport, author: Author, coordination: str) -> bool:
    """Claim as the first; whether it was won."""
    body = CoordinationClaimed(1, ZERO32)
    event = author.sign(coordination, b"", "coordination.claimed", body)
    try:
        await transport.log.append(Submission(event, "ctl", author.node, 0))
    except SequenceConflictError:
        return False
    return True


async def test_of_two_racing_claims_one_wins_200_times(deployment: LocalDeployment) -> None:
    ids = ("coordinator-1", "coordinator-2")
    transports = [await deployment.connect(id) for id in ids]
    home = deployment.home
    authors = [Author(id, "site", home.secrets(id).key_pair(), time.time_ns) for id in ids]
    pairs = list(zip(transports, authors, strict=True))
    try:
        for number in range(200):
            name = f"race-{number}"
            pairs.reverse()
            won = await asyncio.gather(*(claim(*pair, name) for pair in pairs))
            assert sorted(won) == [False, True], name
            assert len(await control_events(transports[0], name)) == 1
    finally:
        for transport in transports:
            await transport.close()


async def test_cancelling_ends_a_coordination_once(deployment: LocalDeployment) -> None:
    client = await deployment.client("client")
    try:
        name = await client.request(
            "simple_consensus", {"proposal": {"script": SCRIPT}}, sorted(SCRIPT)
        )
        await coordinator_of(client, name)
        await client.cancel(name, "not needed")
        async for step in client.watch(name):
            fold = step.coordination
        assert fold.terminal is not None
        assert fold.terminal.type == "coordination.cancelled"
        assert fold.terminal.content.reason == "not needed"
    finally:
        await client.transport.close()
