"""Whatever is thrown into the log is rejected with its own reason, seen in SQL, and changes
nothing.

The attacker here is stronger than any member: it publishes on every subject (a compromised server
or operator connection) and holds the keys of one participant, of an outsider and of a revoked
agent.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import nats
import pytest
from nats.js import JetStreamContext

from mabeam.core.author import Author
from mabeam.core.client import Client
from mabeam.core.coordination import Coordination
from mabeam.core.envelope import MAX_EVENT_BYTES, Event, sign_event
from mabeam.core.hashing import sha256
from mabeam.core.identity import KeyPair
from mabeam.core.names import event_subject
from mabeam.infra.home import OPERATOR
from mabeam.infra.local import LocalDeployment
from mabeam.infra.sql_reading import rows_of
from mabeam.protocols.simple.events import VoteCast

pytestmark = pytest.mark.integration

HONEST = ("agent-1", "agent-2", "agent-3")
VOTE_RANK = 10


@dataclass
class Scene:
    """A coordination whose honest votes are still to come, and an attacker."""

    deployment: LocalDeployment
    stream: JetStreamContext
    fold: Coordination
    ballot: Event
    digest: bytes

    def author(self, id: str, clock_ns: Callable[[], int] = time.time_ns) -> Author:
        """A signer with the true key of a member."""
        return Author(id, "site", self.deployment.home.secrets(id).key_pair(), clock_ns)

    def vote(self, author: Author, option: str = "disagree", **changes: Any) -> Event:
        """A vote in the open ballot."""
        epoch = changes.pop("epoch", self.fold.epoch)
        body = VoteCast(1, self.digest, option, **changes)
        return author.sign(self.fold.id, epoch, "simple.vote_cast", body, (self.ballot.id,))

    async def put(self, event: Event, subject: str = "") -> int:
        """Store an event, by default where it belongs; returns its sequence."""
        header = event.header
        return await self.put_raw(
            event.wire,
            subject
            or event_subject(header.coordination, "pub", header.type, "site", header.author),
        )

    async def put_raw(self, payload: bytes, subject: str) -> int:
        """Store any bytes anywhere."""
        acknowledged = await self.stream.publish(subject, payload)
        return acknowledged.seq


@pytest.fixture
async def operator_stream(deployment: LocalDeployment) -> AsyncIterator[JetStreamContext]:
    """A connection that may publish everywhere."""
    home = deployment.home
    connection = await nats.connect(
        home.config().url,
        nkeys_seed_str=home.secrets(OPERATOR).nkey_seed,
        inbox_prefix=f"_INBOX_{OPERATOR}".encode(),
    )
    yield connection.jetstream()
    await connection.close()


async def begin(
    deployment: LocalDeployment,
    stream: JetStreamContext,
    client: Client,
    *members: str,
    honest: tuple[str, ...] = HONEST,
    rank: int = VOTE_RANK,
    **config: Any,
) -> Scene:
    """Open a coordination in which the honest agents agree some seconds later."""
    script = {id: [{"option": "agree", "rank": rank}] for id in honest}
    name = await client.request(
        "simple_consensus",
        {"proposal": {"script": script}, "vote_timeout_ms": 15_000}
        | (config or {"rule": "majority"}),
        [*honest, *members],
    )
    async for step in client.watch(name):
        if step.event is not None and step.event.type == "simple.ballot_opened":
            opened = step.event
            return Scene(
                deployment, stream, step.coordination, opened.event, opened.content.proposal_digest
            )
    raise AssertionError("the ballot was never opened")


async def rejections(deployment: LocalDeployment, upto: int) -> dict[int, str]:
    """Reasons by sequence once the projection has reached ``upto``."""
    url = deployment.home.database_url(deployment.home.config())
    deadline = time.monotonic() + 20
    while True:
        reached = await asyncio.to_thread(rows_of, url, "SELECT max(sequence) AS s FROM event")
        if (reached[0]["s"] or 0) >= upto:
            break
        assert time.monotonic() < deadline, "the projection does not catch up"
        await asyncio.sleep(0.05)
    rows = await asyncio.to_thread(rows_of, url, "SELECT sequence, reason FROM rejection")
    return {row["sequence"]: row["reason"] for row in rows}


async def store_attacks(scene: Scene) -> dict[int, str]:
    """Everything an attacker can store; the reason expected for each, by sequence."""
    mallory = scene.author("mallory")
    outsider = scene.author("outsider")
    stranger = Author("agent-1", "site", KeyPair.generate(), time.time_ns)
    honest = scene.vote(mallory, "abstain")
    header = msgspec.structs.replace(
        honest.header, author="agent-1", key_id=scene.author("agent-1").key.key_id
    )
    forged = sign_event(header, honest.body, stranger.key.secret_key)
    late_clock = scene.author("mallory", lambda: time.time_ns() + 3600 * 10**9)
    bad_body = sign_event(
        msgspec.structs.replace(honest.header, body_sha256=sha256(b"\x81\xa1x\x01")),
        b"\x81\xa1x\x01",
        mallory.key.secret_key,
    )
    home = event_subject(scene.fold.id, "pub", "simple.vote_cast", "site", "mallory")
    elsewhere = event_subject("elsewhere", "pub", "simple.vote_cast", "site", "mallory")
    as_other = event_subject(scene.fold.id, "pub", "simple.vote_cast", "site", "agent-2")
    as_control = event_subject(scene.fold.id, "ctl", "simple.vote_cast", "site", "mallory")
    flipped = bytes([*forged.wire[:-1], forged.wire[-1] ^ 1])
    noise = random.Random(7)
    expected = {
        await scene.put(forged): "bad_signature",
        await scene.put(scene.vote(stranger)): "unknown_key",
        await scene.put(scene.vote(scene.author("revoked"))): "revoked_key",
        await scene.put(honest, elsewhere): "wrong_coordination",
        await scene.put(honest, as_other): "subject_mismatch",
        await scene.put(honest, as_control): "subject_mismatch",
        await scene.put(scene.vote(outsider)): "not_participant",
        await scene.put(scene.vote(late_clock)): "clock_skew",
        await scene.put(bad_body): "malformed_body",
        await scene.put_raw(flipped, home): "body_mismatch",
        await scene.put_raw(honest.wire[:-7], home): "malformed",
        await scene.put_raw(honest.wire + b"\0", home): "malformed",
        await scene.put_raw(os.urandom(MAX_EVENT_BYTES + 100), home): "over_limit",
    }
    for _ in range(40):
        expected[await scene.put_raw(noise.randbytes(noise.randint(0, 300)), home)] = "malformed"
    return expected


async def test_every_attack_is_rejected_with_its_reason(
    deployment: LocalDeployment, operator_stream: JetStreamContext
) -> None:
    if "revoked" not in {member.id for member in deployment.home.members()}:
        await asyncio.to_thread(deployment.admit, "revoked", ("agent",), "site")
        await asyncio.to_thread(deployment.revoke, "revoked")
    client = await deployment.client("client")
    try:
        scene = await begin(deployment, operator_stream, client, "mallory", "agent-4")
        expected = await store_attacks(scene)
        decision = await client.result(scene.fold.id)
    finally:
        await client.transport.close()
    assert decision.outcome["decision"] == "agree"
    assert decision.outcome["vote_ratio_ppm"] == 600_000
    assert sorted(decision.outcome["silent"]) == ["agent-4", "mallory"]
    assert decision.outcome["void"] == []
    seen = await rejections(deployment, decision.terminal.sequence)
    assert {sequence: seen.get(sequence) for sequence in expected} == expected


async def test_a_participant_that_cheats_is_named_and_its_vote_is_void(
    deployment: LocalDeployment, operator_stream: JetStreamContext
) -> None:
    """Stale epoch, an equivocation (E1) and a fork of its own chain (E7)."""
    client = await deployment.client("client")
    try:
        scene = await begin(deployment, operator_stream, client, "mallory", "agent-4")
        mallory = scene.author("mallory")
        stale = await scene.put(scene.vote(mallory, epoch=sha256(b"another config")))
        await scene.put(scene.vote(mallory, "agree"))
        second = await scene.put(scene.vote(mallory, "disagree"))
        fork_of_mallory = scene.author("mallory")
        fork = await scene.put(scene.vote(fork_of_mallory, "abstain"))
        decision = await client.result(scene.fold.id)
    finally:
        await client.transport.close()
    assert decision.outcome["decision"] == "agree"
    assert decision.outcome["void"] == ["mallory"]
    seen = await rejections(deployment, decision.terminal.sequence)
    assert (seen[stale], seen[second], seen[fork]) == (
        "wrong_epoch",
        "equivocation",
        "equivocation",
    )
    url = deployment.home.database_url(deployment.home.config())
    query = "SELECT rule, accused FROM evidence WHERE coordination = :id ORDER BY rule"
    rows = await asyncio.to_thread(rows_of, url, query.replace(":id", f"'{scene.fold.id}'"))
    assert [(row["rule"], row["accused"]) for row in rows] == [
        ("E1", "mallory"),
        ("E7", "mallory"),
    ]


async def test_5_equivocation_while_the_ballot_is_open(
    deployment: LocalDeployment, operator_stream: JetStreamContext
) -> None:
    """Worked example 5: seven equal voters, T = 5; the cheat is void, five of the others agree."""
    client = await deployment.client("client")
    honest = tuple(f"agent-{number}" for number in range(1, 6))
    try:
        scene = await begin(
            deployment,
            operator_stream,
            client,
            "agent-6",
            "mallory",
            honest=honest,
            threshold_ppm=600_000,
        )
        mallory = scene.author("mallory")
        await scene.put(scene.vote(mallory, "agree"))
        await scene.put(scene.vote(mallory, "disagree"))
        decision = await client.result(scene.fold.id)
    finally:
        await client.transport.close()
    outcome = decision.outcome
    assert (outcome["decision"], outcome["vote_ratio_ppm"]) == ("agree", 714_285)
    assert (outcome["void"], outcome["silent"]) == (["mallory"], ["agent-6"])
    assert decision.terminal.content.cut.count == 5


async def test_5_equivocation_after_the_decision(
    deployment: LocalDeployment, operator_stream: JetStreamContext
) -> None:
    """Worked example 5: the decision stands, the evidence remains."""
    client = await deployment.client("client")
    honest = tuple(f"agent-{number}" for number in range(1, 5))
    try:
        scene = await begin(
            deployment,
            operator_stream,
            client,
            "agent-5",
            "agent-6",
            "mallory",
            honest=honest,
            threshold_ppm=600_000,
        )
        mallory = scene.author("mallory")
        await scene.put(scene.vote(mallory, "agree"))
        decision = await client.result(scene.fold.id)
        second = await scene.put(scene.vote(mallory, "disagree"))
    finally:
        await client.transport.close()
    assert (decision.outcome["decision"], decision.outcome["void"]) == ("agree", [])
    assert (await rejections(deployment, second))[second] == "equivocation"
    url = deployment.home.database_url(deployment.home.config())
    query = f"SELECT rule, accused FROM evidence WHERE coordination = '{scene.fold.id}'"
    rows = await asyncio.to_thread(rows_of, url, query)
    assert [(row["rule"], row["accused"]) for row in rows] == [("E1", "mallory")]


async def test_a_chain_gap_is_reported_until_it_is_filled(
    deployment: LocalDeployment, operator_stream: JetStreamContext
) -> None:
    client = await deployment.client("client")
    url = deployment.home.database_url(deployment.home.config())
    try:
        scene = await begin(deployment, operator_stream, client, "mallory", "agent-4")
        mallory = scene.author("mallory")
        withheld = scene.vote(mallory, "abstain")
        query = f"SELECT * FROM chain_gap WHERE coordination = '{scene.fold.id}'"
        reached = await scene.put(scene.vote(mallory, "abstain", failure="again"))
        await rejections(deployment, reached)
        gaps = await asyncio.to_thread(rows_of, url, query)
        assert [(gap["author"], gap["first"], gap["last"]) for gap in gaps] == [("mallory", 0, 0)]
        await rejections(deployment, await scene.put(withheld))
        assert await asyncio.to_thread(rows_of, url, query) == []
        decision = await client.result(scene.fold.id)
    finally:
        await client.transport.close()
    assert decision.outcome["decision"] == "agree"
