"""Keys, certificates and the files they live in."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest
from audit_log import key_of
from hypothesis import given
from hypothesis import strategies as st

from mabeam.core.errors import KeyFileError, VerificationError
from mabeam.core.hashing import sha256
from mabeam.core.identity import (
    Certificate,
    KeyPair,
    Secrets,
    check_public_key,
    issue_certificate,
    read_secrets,
    verify_certificate,
    write_secrets,
)

ROOT = key_of("root")
P = 2**255 - 19
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


def _certificate(key: bytes = key_of("a-1").public_key, id: str = "a-1") -> Certificate:
    return Certificate(id, ("agent",), key, "", "ops", "root", 0, 2**62, 1)


def _sign(certificate: Certificate) -> bytes:
    """What :func:`issue_certificate` signs, without its checks."""
    from nacl.bindings import crypto_sign

    encoded = msgspec.msgpack.encode(certificate)
    signed = crypto_sign(b"mabeam/certificate/v1\0" + sha256(encoded), ROOT.secret_key)[:64]
    return msgspec.msgpack.encode([encoded, signed])


def _bad_keys() -> list[bytes]:
    non_canonical = [(P + y).to_bytes(32, "little") for y in (0, 1, 2, 3, 4, 18)]
    off_curve = [(2).to_bytes(32, "little"), bytes(31) + b"\x7f"]
    sizes = [b"", bytes(31), bytes(33), key_of("a-1").public_key + b"\0"]
    return [*map(bytes.fromhex, SMALL_ORDER), *non_canonical, *off_curve, *sizes]


@pytest.mark.parametrize("key", _bad_keys(), ids=lambda key: key.hex()[:8])
def test_unusable_keys_are_refused(key: bytes) -> None:
    with pytest.raises(VerificationError, match="not a usable"):
        check_public_key(key)
    with pytest.raises(VerificationError):
        issue_certificate(_certificate(key), ROOT)
    with pytest.raises(VerificationError):
        verify_certificate(_sign(_certificate(key)), ROOT.public_key)


def test_key_with_a_small_order_component_is_refused() -> None:
    """A good point plus one of order two: verifiers disagree about such keys."""
    from nacl.bindings import crypto_core_ed25519_add

    order_two = bytes.fromhex(SMALL_ORDER[1])
    mixed = crypto_core_ed25519_add(key_of("a-1").public_key, order_two)
    with pytest.raises(VerificationError):
        check_public_key(mixed)


def test_certificate_round_trip() -> None:
    certificate = _certificate()
    wire = issue_certificate(certificate, ROOT)
    assert verify_certificate(wire, ROOT.public_key) == certificate
    assert certificate.key_id == sha256(certificate.event_key)[:8] == key_of("a-1").key_id


def test_wrong_root_is_refused() -> None:
    wire = issue_certificate(_certificate(), key_of("other root"))
    with pytest.raises(VerificationError, match="not signed by this root"):
        verify_certificate(wire, ROOT.public_key)


def test_root_id_is_reserved() -> None:
    with pytest.raises(VerificationError, match="reserved"):
        issue_certificate(_certificate(id="root"), ROOT)


def test_no_flipped_bit_of_a_certificate_survives() -> None:
    wire = issue_certificate(_certificate(), ROOT)
    for position in range(len(wire) * 8):
        changed = bytearray(wire)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            verify_certificate(bytes(changed), ROOT.public_key)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_certificate(wire: bytes) -> None:
    with pytest.raises(VerificationError):
        verify_certificate(wire, ROOT.public_key)


def test_certificate_in_another_encoding_is_refused() -> None:
    certificate = _certificate()
    fields = msgspec.structs.asdict(certificate)
    shuffled = dict(sorted(fields.items()))
    encoded = msgspec.msgpack.encode(shuffled)
    from nacl.bindings import crypto_sign

    signed = crypto_sign(b"mabeam/certificate/v1\0" + sha256(encoded), ROOT.secret_key)[:64]
    with pytest.raises(VerificationError, match="not canonical"):
        verify_certificate(msgspec.msgpack.encode([encoded, signed]), ROOT.public_key)


# Key files ----------------------------------------------------------------------------------------

SECRETS = Secrets("a-1", key_of("a-1").seed.hex(), "SUAEXAMPLE")


def test_key_file_is_private_and_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "a-1.json"
    write_secrets(path, SECRETS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secrets(path) == SECRETS
    assert read_secrets(path).key_pair().public_key == key_of("a-1").public_key


def test_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a-1.json"
    write_secrets(path, SECRETS)
    with pytest.raises(KeyFileError, match="exists already"):
        write_secrets(path, Secrets("a-1", "00" * 32))
    assert read_secrets(path) == SECRETS


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644, 0o666, 0o777])
def test_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a-1.json"
    write_secrets(path, SECRETS)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="open to others") as refused:
        read_secrets(path)
    assert SECRETS.event_seed not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"id":"a-1"}',
        b'{"id":"a-1","event_seed":"xyz"}',
        b'{"id":"A 1","event_seed":"' + b"0" * 64 + b'"}',
        b'{"id":"a-1","event_seed":"' + b"0" * 64 + b'","more":1}',
        b'{"id":"a\xff","event_seed":"' + b"0" * 64 + b'"}',
    ],
)
def test_damaged_key_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a-1.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="damaged"):
        read_secrets(path)


def test_missing_key_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="does not exist"):
        read_secrets(tmp_path / "none.json")
    with pytest.raises(KeyFileError, match="cannot create"):
        write_secrets(tmp_path / "none" / "a.json", SECRETS)
    with pytest.raises(KeyFileError, match="32 bytes"):
        KeyPair(b"short")


def test_secrets_are_in_no_representation() -> None:
    pair = SECRETS.key_pair()
    shown = [f"{each!r} {each} {[each]} {each!s}" for each in (SECRETS, pair)]
    shown.append(repr(list(SECRETS.__rich_repr__())))
    for text in shown:
        assert SECRETS.event_seed not in text
        assert SECRETS.nkey_seed not in text
        assert repr(pair.secret_key) not in text
    assert len({KeyPair.generate().seed for _ in range(8)}) == 8
