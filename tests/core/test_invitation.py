"""Invitations stay within what a transport carries, whatever a coordinator before has signed."""

from __future__ import annotations

import msgspec
import pytest

from mabeam.core.envelope import MAX_EVENT_BYTES
from mabeam.core.errors import AppendRefusedError
from mabeam.core.log import Record
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.transport import MAX_INVITATION_BYTES, Invitation, encode_invitation


def _records(count: int, size: int, node: str = "n1") -> list[Record]:
    subject = f"mabeam.v1.evt.c1.ctl.test_happened.{node}.coord"
    return [Record(2**63 - count + at, 2**63 - 1, subject, bytes(size)) for at in range(count)]


def _kept(records: list[Record]) -> list[Record]:
    payload = encode_invitation("c" * 32, records)
    assert len(payload) <= MAX_INVITATION_BYTES
    return list(msgspec.msgpack.decode(payload, type=Invitation).records)


def test_everything_is_sent_if_there_is_room() -> None:
    records = _records(100, 1000)
    assert _kept(records) == records


@pytest.mark.parametrize(("count", "size"), [(9, MAX_EVENT_BYTES), (5000, 200), (20_000, 0)])
@pytest.mark.parametrize("node", ["n1", "é" * 50])
def test_the_opening_and_the_newest_are_sent(count: int, size: int, node: str) -> None:
    records = _records(count, size, node)
    kept = _kept(records)
    assert 3 <= len(kept) < count
    assert kept == [records[0], *records[1 - len(kept) :]]


async def test_a_larger_one_is_refused() -> None:
    transport = MemoryTransport(MemoryBroker())
    await transport.invite("n1", "ann", "c1", bytes(MAX_INVITATION_BYTES))
    with pytest.raises(AppendRefusedError):
        await transport.invite("n1", "ann", "c1", bytes(MAX_INVITATION_BYTES + 1))
