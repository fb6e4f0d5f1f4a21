"""What an admitted agent with a client of its own may try, and that it gets nowhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats.errors
import pytest
from waiting import wait_until_async

from mabeam.core.bus.publisher import message_id
from mabeam.core.errors import AppendRefusedError

pytestmark = pytest.mark.integration

OWN = "mabeam.v1.evt.c1.pub.test_happened.n1.ann"
VICTIM = "mabeam.v1.evt.c1.pub.test_happened.n1.bob"
CONTROL = "mabeam.v1.evt.c1.ctl.test_happened.n1.coord"


async def _forbidden(client: Any, subject: str, payload: bytes = b"") -> None:
    """A request that the server must not answer because it never lets it through."""
    with pytest.raises(nats.errors.TimeoutError):
        await client.request(subject, payload, timeout=0.15)


@pytest.mark.parametrize("subject", [VICTIM, CONTROL, OWN.replace("pub", "req"), OWN + ".x"])
async def test_foreign_subjects(bus: Any, subject: str) -> None:
    await _forbidden(await bus.raw("ann"), subject, b"forged")
    assert await bus.stored() == []


@pytest.mark.parametrize(
    "target", [VICTIM, CONTROL, "mabeam.v1.presence.n1.bob", "mabeam.v1.work.n1.bob.c1"]
)
async def test_reply_subject_injection(bus: Any, target: str) -> None:
    """Have the server write its acknowledgement, or a page of the log, where I may not write."""
    client = await bus.raw("ann")
    operator = await bus.connect("operator")
    await operator.log.append(bus.submission(0, author="operator", coordination="c2"))
    await client.publish(OWN, b"bait", reply=target)
    query = b'{"seq":1,"batch":10,"next_by_subj":"mabeam.v1.evt.>"}'
    await client.publish("$JS.API.DIRECT.GET.EVT", query, reply=target)
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.WORK.n1=ann", b"1", reply=target)
    await client.flush()
    await asyncio.sleep(0.2)  # for what must not happen
    assert {record.subject for record in await bus.stored()} <= {
        OWN,
        "mabeam.v1.evt.c2.ctl.test_happened.n1.operator",
    }
    for stream in ("WORK", "PRESENCE"):
        raw = await bus.raw("operator")
        info = json.loads((await raw.request(f"$JS.API.STREAM.INFO.{stream}")).data)
        assert info["state"]["messages"] == 0


async def test_taking_the_message_id_first(bus: Any) -> None:
    """Whoever knew the id beforehand could swallow the event; the author notices."""
    submission = bus.submission(0, "pub", author="bob")
    attacker = await bus.raw("ann")
    headers = {"Nats-Msg-Id": message_id(submission.event.signature)}
    await attacker.request(OWN, b"first", headers=headers)
    victim = await bus.connect("bob")
    with pytest.raises(AppendRefusedError, match="taken by"):
        await victim.log.append(submission)


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": VICTIM},
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Stream-Source": "EVT 1 > >"},
        {"Nats-Scheduler": OWN},
    ],
    ids=lambda headers: ",".join(headers),
)
async def test_dangerous_headers(bus: Any, headers: dict[str, str]) -> None:
    """Refused, or stored as an ordinary message: never obeyed."""
    coordinator = await bus.connect("coord")
    await coordinator.log.append(bus.submission(0))
    attacker = await bus.raw("ann")
    reply = json.loads((await attacker.request(OWN, b"attack", headers=headers)).data)
    await asyncio.sleep(0.1)
    subjects = [record.subject for record in await bus.stored()]
    assert subjects == ([CONTROL] if "error" in reply else [CONTROL, OWN])
    info_client = await bus.raw("operator")
    info = json.loads((await info_client.request("$JS.API.STREAM.INFO.EVT")).data)
    assert info["state"]["messages"] == len(subjects)


async def test_forged_position_headers_change_nothing(bus: Any) -> None:
    """Headers that look like the server's own, with and without a payload."""
    coordinator = await bus.connect("coord")
    reader = await bus.connect("bob")
    whole = (await bus.connect("proj")).log.follow_all(0)
    attacker = await bus.raw("ann")
    forged = {
        "Nats-Sequence": "999",
        "Nats-Subject": CONTROL,
        "Nats-Last-Sequence": "7",
        "Nats-Time-Stamp": "2001-01-01T00:00:00Z",
        "Nats-Num-Pending": "0",
        "Status": "204",
    }
    await coordinator.log.append(bus.submission(0))
    for payload in (b"", b"x"):
        await attacker.request(OWN, payload, headers=forged)
    await coordinator.log.append(bus.submission(1))
    expected = [(1, CONTROL), (2, OWN), (3, OWN), (4, CONTROL)]
    for log in (reader.log, coordinator.log):
        assert [(r.sequence, r.subject) for r in await log.read("c1")] == expected
    assert [(r.sequence, r.subject) for r in await bus.stored()] == expected
    live: list[tuple[int, str]] = []
    async with asyncio.timeout(5):
        async for batch in whole:
            live += [(r.sequence, r.subject) for r in batch]
            if len(live) == 4:
                break
    assert live == expected
    assert await reader.log.record_at(2) == (await bus.stored())[1]


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.DELETE.EVT",
        "$JS.API.STREAM.PURGE.EVT",
        "$JS.API.STREAM.UPDATE.EVT",
        "$JS.API.STREAM.MSG.DELETE.EVT",
        "$JS.API.STREAM.MSG.GET.EVT",
        "$JS.API.STREAM.INFO.EVT",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.CONSUMER.CREATE.EVT.mine",
        "$JS.API.CONSUMER.CREATE.WORK.mine",
        "$JS.API.CONSUMER.DELETE.WORK.n1=bob",
        "$JS.API.CONSUMER.MSG.NEXT.WORK.n1=bob",
        "$JS.API.CONSUMER.MSG.NEXT.EVT.requests",
        "$JS.API.DIRECT.GET.PRESENCE",
        "$JS.ACK.WORK.n1=bob.1.1.1.1.0",
        "mabeam.v1.feed.c1.ctl.test_happened.n1.coord",
        "mabeam.v1.work.n1.bob.c1",
        "mabeam.v1.presence.n1.bob",
    ],
)
async def test_api_subjects(bus: Any, subject: str) -> None:
    await _forbidden(await bus.raw("ann"), subject, b"{}")


@pytest.mark.parametrize("request_", ["DELETE", "PURGE", "UPDATE"])
async def test_coordinators_cannot_touch_the_stream(bus: Any, request_: str) -> None:
    await _forbidden(await bus.raw("coord"), f"$JS.API.STREAM.{request_}.EVT", b"{}")


async def test_even_the_operator_cannot_delete_or_purge(bus: Any) -> None:
    await (await bus.connect("coord")).log.append(bus.submission(0))
    operator = await bus.raw("operator")
    for request, body in (
        ("PURGE.EVT", b"{}"),
        ("MSG.DELETE.EVT", b'{"seq":1}'),
    ):
        reply = json.loads((await operator.request(f"$JS.API.STREAM.{request}", body)).data)
        assert "error" in reply
    assert len(await bus.stored()) == 1


@pytest.mark.parametrize("subject", ["_INBOX.>", "_INBOX_bob.>", ">", "mabeam.v1.evt.>", "$JS.>"])
async def test_sniffing(bus: Any, subject: str) -> None:
    victim = await bus.connect("bob")
    attacker = await bus.raw("ann")
    heard: list[bytes] = []

    async def listen(message: Any) -> None:
        heard.append(message.data)

    await attacker.subscribe(subject, cb=listen)
    await attacker.flush()
    for n in range(5):
        await victim.log.append(bus.submission(n, "pub", author="bob"))
    await attacker.flush()
    assert heard == []


async def test_flood_beyond_the_largest_size(bus: Any) -> None:
    attacker = await bus.raw("ann")
    reply = json.loads((await attacker.request(OWN, bytes(300 * 1024))).data)
    assert reply["error"]["err_code"] == 10054
    await attacker.publish(OWN, b"ok")
    await attacker.flush()
    attacker._max_payload = 10**9
    await attacker.publish(OWN, bytes(2 * 1024 * 1024))
    await wait_until_async(lambda: not attacker.is_connected)
    assert [record.wire for record in await bus.stored()] == [b"ok"]
