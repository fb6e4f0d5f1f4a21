"""What every transport promises beside its log, checked in memory and on a real JetStream."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import pytest
from nacl.bindings import crypto_sign_seed_keypair
from waiting import wait_until_async

from mabeam.core.bus.jetstream import connect
from mabeam.core.bus.nkey import encode_user_seed, user_public_key
from mabeam.core.bus.server_config import Member, Role, ServerSettings, server_config
from mabeam.core.envelope import Header, sign_event
from mabeam.core.errors import UsageError
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.log import Submission
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.transport import Delivery, Transport
from mabeam.infra.nats_server import EmbeddedNats

ACK_WAIT_S = 1.0

ROLES: dict[str, Role] = {
    "operator": "operator",
    "coord": "coordinator",
    "client": "client",
    "ann": "agent",
    "bob": "agent",
}
SEEDS = {name: sha256(name.encode()) for name in ROLES}
SECRET_KEY = crypto_sign_seed_keypair(bytes(32))[1]

D = TypeVar("D", bound=Delivery)
Open = Callable[[str], Awaitable[Transport]]


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
async def transport_of(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens another connection of a member to one fresh deployment."""
    opened: list[Transport] = []
    broker = MemoryBroker(ack_wait_s=ACK_WAIT_S)
    url = "" if request.param == "memory" else request.getfixturevalue("nats").client_url

    async def open_one(name: str) -> Transport:
        transport: Transport = MemoryTransport(broker)
        if url:
            seed = encode_user_seed(SEEDS[name])
            transport = await connect(
                url, id=name, role=ROLES[name], nkey_seed=seed, request_ack_wait_s=ACK_WAIT_S
            )
            if name == "operator":
                await transport.provision(ack_wait_s=ACK_WAIT_S)
        opened.append(transport)
        return transport

    await open_one("operator")
    yield open_one
    for transport in opened:
        await transport.close()


def request_event(number: int) -> Submission:
    body = number.to_bytes(8, "big")
    header = Header(
        version=1,
        coordination=f"c{number}",
        epoch=b"",
        type="coordination.requested",
        author="client",
        key_id=bytes(8),
        author_seq=0,
        prev=ZERO32,
        refs=(),
        at_ns=1,
        body_sha256=sha256(body),
    )
    return Submission(sign_event(header, body, SECRET_KEY), "req", "n1")


class Taker(Generic[D]):
    """Collects deliveries in the background and leaves them unanswered."""

    def __init__(self, deliveries: AsyncIterator[D]) -> None:
        self.taken: list[D] = []
        self._task = asyncio.create_task(self._take(deliveries))

    async def _take(self, deliveries: AsyncIterator[D]) -> None:
        async for delivery in deliveries:
            self.taken.append(delivery)

    async def has(self, count: int) -> D:
        """The last of ``count`` deliveries, once they are there."""
        await wait_until_async(lambda: len(self.taken) >= count)
        return self.taken[count - 1]

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class TestRequests:
    async def test_shared_each_to_one(self, transport_of: Open) -> None:
        client = await transport_of("client")
        coordinators = [await transport_of("coord") for _ in range(2)]
        seen: list[int] = []

        async def serve(transport: Transport) -> None:
            async for request in transport.requests(3):
                seen.append(request.record.sequence)
                await request.ack()

        tasks = [asyncio.create_task(serve(c)) for c in coordinators]
        for number in range(30):
            await client.log.append(request_event(number))
        await wait_until_async(lambda: len(seen) >= 30)
        await asyncio.sleep(1.5 * ACK_WAIT_S)  # nothing may come again
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(seen) == list(range(1, 31))

    async def test_record_is_the_stored_event(self, transport_of: Open) -> None:
        client, coordinator = await transport_of("client"), await transport_of("coord")
        submission = request_event(7)
        await client.log.append(submission)
        async for request in coordinator.requests(1):
            assert not request.redelivered
            assert request.record == (await coordinator.log.read("c7"))[0]
            await request.ack()
            break

    async def test_unanswered_request_goes_to_another(self, transport_of: Open) -> None:
        client = await transport_of("client")
        dead = Taker((await transport_of("coord")).requests(1))
        await client.log.append(request_event(0))
        assert not (await dead.has(1)).redelivered
        await dead.stop()
        heir = Taker((await transport_of("coord")).requests(1))
        inherited = await heir.has(1)
        assert inherited.redelivered
        await inherited.ack()
        await heir.stop()

    async def test_progress_keeps_a_request(self, transport_of: Open) -> None:
        client, coordinator = await transport_of("client"), await transport_of("coord")
        holder, rival = Taker(coordinator.requests(1)), Taker(coordinator.requests(1))
        await client.log.append(request_event(0))
        await wait_until_async(lambda: bool(holder.taken or rival.taken))
        held = (holder.taken + rival.taken)[0]
        for _ in range(6):
            await asyncio.sleep(ACK_WAIT_S / 3)  # working, for longer than the lease
            await held.progress()
        assert len(holder.taken + rival.taken) == 1
        await held.ack()
        await holder.stop()
        await rival.stop()

    async def test_capacity_bounds_what_is_unanswered(self, transport_of: Open) -> None:
        client, coordinator = await transport_of("client"), await transport_of("coord")
        for number in range(4):
            await client.log.append(request_event(number))
        taker = Taker(coordinator.requests(2))
        await taker.has(2)
        await asyncio.sleep(ACK_WAIT_S / 4)  # a third would have come by now
        assert len(taker.taken) == 2
        await taker.taken[0].ack()
        await taker.has(3)
        for delivery in taker.taken:
            await delivery.ack()
        await (await taker.has(4)).ack()
        await taker.stop()

    async def test_released_request_returns(self, transport_of: Open) -> None:
        client, coordinator = await transport_of("client"), await transport_of("coord")
        await client.log.append(request_event(0))
        taker = Taker(coordinator.requests(1))
        await (await taker.has(1)).release()
        await (await taker.has(2)).release(delay_ms=50)
        third = await taker.has(3)
        assert third.redelivered
        await third.ack()
        await taker.stop()

    async def test_capacity_must_be_positive(self, transport_of: Open) -> None:
        coordinator = await transport_of("coord")
        with pytest.raises(UsageError):
            await anext(aiter(coordinator.requests(0)))


class TestInvitations:
    async def test_reaches_its_agent_only(self, transport_of: Open) -> None:
        coordinator = await transport_of("coord")
        inboxes = {
            name: Taker((await transport_of(name)).invitations("n1", name, 10))
            for name in ("ann", "bob")
        }
        await coordinator.invite("n1", "ann", "c1", b"for ann")
        await coordinator.invite("n1", "bob", "c1", b"for bob")
        for name, taker in inboxes.items():
            delivery = await taker.has(1)
            assert delivery.payload == f"for {name}".encode()
            await delivery.ack()
            await taker.stop()
            assert len(taker.taken) == 1

    async def test_waits_for_an_absent_agent(self, transport_of: Open) -> None:
        coordinator = await transport_of("coord")
        for number in range(3):
            await coordinator.invite("n1", "ann", f"c{number}", str(number).encode())
        agent = await transport_of("ann")
        payloads = []
        async for invitation in agent.invitations("n1", "ann", 1):
            payloads.append(invitation.payload)
            await invitation.ack()
            if len(payloads) == 3:
                break
        assert sorted(payloads) == [b"0", b"1", b"2"]

    async def test_agent_may_listen_before_its_inbox_exists(self, transport_of: Open) -> None:
        taker = Taker((await transport_of("ann")).invitations("n1", "ann", 1))
        coordinator = await transport_of("coord")
        await coordinator.invite("n1", "ann", "c1", b"hello")
        await (await taker.has(1)).ack()
        await taker.stop()

    async def test_a_later_invitation_replaces_one_not_taken(self, transport_of: Open) -> None:
        coordinator = await transport_of("coord")
        for payload in (b"old", b"new"):
            await coordinator.invite("n1", "ann", "c1", payload)
        await coordinator.invite("n1", "ann", "c2", b"last")
        agent = await transport_of("ann")
        payloads = []
        async for invitation in agent.invitations("n1", "ann", 1):
            payloads.append(invitation.payload)
            await invitation.ack()
            if b"last" in payloads:
                break
        assert payloads == [b"new", b"last"]

    async def test_released_invitation_returns(self, transport_of: Open) -> None:
        coordinator, agent = await transport_of("coord"), await transport_of("ann")
        await coordinator.invite("n1", "ann", "c1", b"hello")
        taker = Taker(agent.invitations("n1", "ann", 1))
        await (await taker.has(1)).release()
        again = await taker.has(2)
        assert again.redelivered
        await again.ack()
        await taker.stop()


class TestHeartbeats:
    async def test_last_known_first_then_live(self, transport_of: Open) -> None:
        coordinator = await transport_of("coord")
        ann, bob = await transport_of("ann"), await transport_of("bob")
        early: dict[tuple[str, str], bytes] = {}
        late: dict[tuple[str, str], bytes] = {}

        async def watch(seen: dict[tuple[str, str], bytes]) -> None:
            async for node, agent, payload in coordinator.heartbeats():
                seen[node, agent] = payload

        tasks = [asyncio.create_task(watch(early))]
        await ann.beat("n1", "ann", b"1")
        known = {("n1", "ann"): b"2", ("n1", "bob"): b"3"}
        async with asyncio.timeout(10):
            while early != known:  # one sent while somebody begins to listen may be lost
                await ann.beat("n1", "ann", b"2")
                await bob.beat("n1", "bob", b"3")
                await asyncio.sleep(0.02)
        tasks.append(asyncio.create_task(watch(late)))
        await wait_until_async(lambda: late == known)
        await ann.beat("n1", "ann", b"4")
        await wait_until_async(lambda: early[("n1", "ann")] == late[("n1", "ann")] == b"4")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
