"""The envelope: one value, one encoding, one id; whatever else arrives is refused with a reason."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from audit_log import key_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mabeam.core.envelope import (
    DOMAIN,
    MAX_EVENT_BYTES,
    MAX_REFS,
    VERSION,
    Event,
    Header,
    decode_event,
    sign_event,
    verify_signature,
)
from mabeam.core.errors import PeerProtocolError, UsageError
from mabeam.core.hashing import ZERO32, sha256

KEY = key_of("a-1")
BODY = b"\x80"
HEADER = Header(
    VERSION, "c1", b"", "simple.vote_cast", "a-1", KEY.key_id, 0, ZERO32, (), 5, sha256(BODY)
)
pack = msgspec.msgpack.encode

ids = st.from_regex(r"[a-z0-9_-]{1,32}", fullmatch=True)
bytes32 = st.binary(min_size=32, max_size=32)
naturals = st.integers(0, 2**63 - 1)


def headers(body: bytes) -> st.SearchStrategy[Header]:
    return st.builds(
        Header,
        st.just(VERSION),
        ids,
        st.one_of(st.just(b""), bytes32),
        st.from_regex(r"[a-z]{1,20}\.[a-z_]{1,40}", fullmatch=True),
        ids,
        st.binary(min_size=8, max_size=8),
        naturals,
        bytes32,
        st.lists(bytes32, max_size=3).map(tuple),
        naturals,
        st.just(sha256(body)),
    )


def _wire(fields: list[Any], signature: bytes = bytes(64), body: bytes = BODY) -> bytes:
    return pack([pack(fields), signature, body])


def _fields(**changes: Any) -> list[Any]:
    return list({**msgspec.structs.asdict(HEADER), **changes}.values())


def _reason(wire: bytes) -> str:
    with pytest.raises(PeerProtocolError) as refused:
        decode_event(wire)
    return refused.value.reason


@given(st.data(), st.binary(max_size=200))
def test_round_trip(data: st.DataObject, body: bytes) -> None:
    header = data.draw(headers(body))
    event = sign_event(header, body, KEY.secret_key)
    again = decode_event(event.wire)
    assert again == event
    assert again.header == header
    assert again.id == hashlib.sha256(event.header_bytes).digest()
    assert verify_signature(again.id, again.signature, KEY.public_key)
    assert not verify_signature(again.id, again.signature, key_of("a-2").public_key)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (_wire(_fields()) + b"\x00", "malformed"),
        (pack([pack(_fields()) + b"\x00", bytes(64), BODY]), "malformed"),
        (_wire(_fields()[:-1]), "malformed"),
        (_wire([*_fields(), 0]), "malformed"),
        (pack([pack(_fields()), bytes(64)]), "malformed"),
        (pack([pack(_fields()), bytes(64), BODY, b""]), "malformed"),
        (pack({"header": pack(_fields()), "signature": bytes(64), "body": BODY}), "malformed"),
        (_wire(_fields(), bytes(63)), "malformed"),
        (_wire(_fields(), bytes(65)), "malformed"),
        (_wire(_fields(version=0)), "unsupported_version"),
        (_wire(_fields(version=2)), "unsupported_version"),
        (_wire(_fields(version=-1)), "malformed"),
        (_wire(_fields(version=True)), "malformed"),
        (_wire(_fields(coordination="")), "malformed"),
        (_wire(_fields(coordination="C1")), "malformed"),
        (_wire(_fields(coordination="a" * 33)), "malformed"),
        (_wire(_fields(coordination="c1\n")), "malformed"),
        (_wire(_fields(coordination=b"c1")), "malformed"),
        (_wire(_fields(author="a.1")), "malformed"),
        (_wire(_fields(type="votecast")), "malformed"),
        (_wire(_fields(type="simple.Vote")), "malformed"),
        (_wire(_fields(epoch=bytes(31))), "malformed"),
        (_wire(_fields(epoch=bytes(33))), "malformed"),
        (_wire(_fields(epoch=None)), "malformed"),
        (_wire(_fields(key_id=bytes(7))), "malformed"),
        (_wire(_fields(author_seq=-1)), "malformed"),
        (_wire(_fields(author_seq=2**63)), "malformed"),
        (_wire(_fields(author_seq=1.0)), "malformed"),
        (_wire(_fields(prev=bytes(31))), "malformed"),
        (_wire(_fields(refs=[bytes(31)])), "malformed"),
        (_wire(_fields(refs=[ZERO32] * (MAX_REFS + 1))), "malformed"),
        (_wire(_fields(at_ns=float("nan"))), "malformed"),
        (_wire(_fields(body_sha256=ZERO32)), "body_mismatch"),
        (_wire(_fields(), body=b"\x81"), "body_mismatch"),
        (bytes(MAX_EVENT_BYTES + 1), "over_limit"),
        (b"\x91" * 100_000, "malformed"),
        (b"\xdd\xff\xff\xff\xff", "malformed"),
        (pack([b"\x9b" + b"\xdd\xff\xff\xff\xff", bytes(64), BODY]), "malformed"),
    ],
)
def test_refused(wire: bytes, reason: str) -> None:
    assert _reason(wire) == reason


def _long_forms() -> list[bytes]:
    """The valid event with one value in a longer encoding than needed."""
    header = pack(_fields())
    name = b"\xa2c1"
    longer = [
        (b"\x9b\x01", b"\xdc\x00\x0b\x01"),
        (b"\x9b\x01", b"\xdd\x00\x00\x00\x0b\x01"),
        (b"\x9b\x01", b"\x9b\xcc\x01"),
        (b"\x9b\x01", b"\x9b\xcd\x00\x01"),
        (b"\x9b\x01", b"\x9b\xd0\x01"),
        (name, b"\xd9\x02c1"),
        (name, b"\xda\x00\x02c1"),
        (b"\xc4\x08" + KEY.key_id, b"\xc5\x00\x08" + KEY.key_id),
    ]
    assert all(header.count(short) == 1 for short, _ in longer)
    wires = [pack([header.replace(short, long), bytes(64), BODY]) for short, long in longer]
    outer = _wire(_fields())
    assert outer[0] == 0x93
    return [*wires, b"\xdc\x00\x03" + outer[1:], b"\xdd\x00\x00\x00\x03" + outer[1:]]


@pytest.mark.parametrize("wire", _long_forms())
def test_only_the_shortest_encoding_is_accepted(wire: bytes) -> None:
    decode_event(_wire(_fields()))
    assert _reason(wire) == "malformed"


def _signed(body: bytes = BODY) -> Event:
    return sign_event(
        msgspec.structs.replace(HEADER, body_sha256=sha256(body)), body, KEY.secret_key
    )


def test_every_truncation_is_refused() -> None:
    wire = _signed().wire
    for length in range(len(wire)):
        assert _reason(wire[:length]) == "malformed"


def test_no_flipped_bit_survives() -> None:
    wire = _signed(pack({"a": "text", "b": 7})).wire
    for position in range(len(wire) * 8):
        changed = bytearray(wire)
        changed[position // 8] ^= 1 << position % 8
        try:
            event = decode_event(bytes(changed))
        except PeerProtocolError:
            continue
        assert not verify_signature(event.id, event.signature, KEY.public_key), position


@settings(max_examples=500)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused_with_a_reason(wire: bytes) -> None:
    assert _reason(wire) in {"malformed", "unsupported_version", "body_mismatch"}


@settings(max_examples=500)
@given(st.data())
def test_mutated_events_are_refused_or_not_signed(data: st.DataObject) -> None:
    wire = bytearray(_signed().wire)
    start = data.draw(st.integers(0, len(wire)))
    end = data.draw(st.integers(start, min(len(wire), start + 8)))
    wire[start:end] = data.draw(st.binary(max_size=8))
    try:
        event = decode_event(bytes(wire))
    except PeerProtocolError as error:
        reason = error.reason
    else:
        reason = ""
    if reason:
        assert reason in {"malformed", "unsupported_version", "body_mismatch"}
        return
    assert bytes(wire) == _signed().wire or not verify_signature(
        event.id, event.signature, KEY.public_key
    )


def test_signing_refuses_what_decoding_would_refuse() -> None:
    room = MAX_EVENT_BYTES - len(_signed(b"").wire)
    largest = _signed(bytes(room - 3))
    assert len(largest.wire) == MAX_EVENT_BYTES
    assert decode_event(largest.wire) == largest
    with pytest.raises(UsageError, match="limit is 262144"):
        _signed(bytes(room - 2))


def test_signatures_and_ids_agree_with_another_implementation() -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    for number in range(20):
        key = key_of(f"differential-{number}")
        theirs = ed25519.Ed25519PrivateKey.from_private_bytes(key.seed)
        assert theirs.public_key().public_bytes_raw() == key.public_key
        body = pack({"number": number})
        header = msgspec.structs.replace(HEADER, body_sha256=sha256(body), author_seq=number)
        event = sign_event(header, body, key.secret_key)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(event.header_bytes)
        assert digest.finalize() == event.id
        assert theirs.sign(DOMAIN + event.id) == event.signature
        theirs.public_key().verify(event.signature, DOMAIN + event.id)
        assert verify_signature(event.id, theirs.sign(DOMAIN + event.id), key.public_key)
        assert not verify_signature(event.id, theirs.sign(event.id), key.public_key)
