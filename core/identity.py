"""Identity: event keys, admission certificates and the files they live in.

The operator's root key signs one certificate per id. Nothing else makes an id known: whoever holds
the root public key can check every signature in the log from there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from .envelope import Bytes32, Natural
from .errors import KeyFileError, VerificationError
from .hashing import sha256
from .names import ROOT_AUTHOR, AgentId

Role = Literal["agent", "coordinator", "client", "projector", "operator"]

CERTIFICATE_DOMAIN = b"mabeam/certificate/v1\0"
MAX_CERTIFICATE_BYTES = 4096


def key_id_of(public_key: bytes) -> bytes:
    """First 8 bytes of SHA-256 of the public key."""
    return sha256(public_key)[:8]


def check_public_key(public_key: bytes) -> None:
    """Refuse small-order, non-canonical or wrongly sized Ed25519 keys.

    Raises:
        VerificationError: the key must not be admitted.
    """
    if len(public_key) != 32 or not crypto_core_ed25519_is_valid_point(public_key):
        raise VerificationError(
            f"{public_key.hex()} is not a usable Ed25519 public key",
            hint="Create keys with 'mabeam key new'.",
        )


class KeyPair:
    """An Ed25519 event key.

    Attributes:
        public_key: 32 bytes.
        key_id: first 8 bytes of SHA-256 of the public key.
        secret_key: 64 bytes as libsodium wants them; never printed.
    """

    __slots__ = ("key_id", "public_key", "secret_key", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise KeyFileError(f"an event seed has 32 bytes, not {len(seed)}")
        self.seed = seed
        self.public_key, self.secret_key = crypto_sign_seed_keypair(seed)
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def generate(cls) -> KeyPair:
        """A new key from the operating system's generator."""
        return cls(os.urandom(32))

    def __repr__(self) -> str:
        return f"KeyPair(key_id={self.key_id.hex()})"


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator states about an id.

    Attributes:
        id: the admitted id.
        roles: what it may do.
        event_key: public key that signs its events.
        nkey: public key of its NATS connection (``U…``).
        controller: the owner; several ids may share one.
        sponsor: the id that vouched for it, or ``root``.
        not_before_ns, not_after_ns: storage times between which its events count.
        serial: grows with every certificate of the id.
    """

    id: AgentId
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=5)]
    event_key: Bytes32
    nkey: Annotated[str, msgspec.Meta(max_length=64)]
    controller: AgentId
    sponsor: AgentId
    not_before_ns: Natural
    not_after_ns: Natural
    serial: Natural

    @property
    def key_id(self) -> bytes:
        """Key id of :attr:`event_key`."""
        return key_id_of(self.event_key)


class _SignedCertificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    certificate: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


_certificate_decoder = msgspec.msgpack.Decoder(Certificate)
_signed_decoder = msgspec.msgpack.Decoder(_SignedCertificate)


def issue_certificate(certificate: Certificate, root: KeyPair) -> bytes:
    """Sign a certificate with the root key; returns its wire form."""
    check_public_key(certificate.event_key)
    if certificate.id == ROOT_AUTHOR:
        raise VerificationError(f"the id {ROOT_AUTHOR!r} is reserved for the operator's root key")
    encoded = msgspec.msgpack.encode(certificate)
    signature = crypto_sign(CERTIFICATE_DOMAIN + sha256(encoded), root.secret_key)[:64]
    return msgspec.msgpack.encode(_SignedCertificate(encoded, signature))


def verify_certificate(wire: bytes, root_public_key: bytes) -> Certificate:
    """Decode a certificate and check the root's signature.

    Raises:
        VerificationError: damaged, not signed by this root, or an unusable key.
    """
    try:
        signed = _signed_decoder.decode(wire)
        certificate = _certificate_decoder.decode(signed.certificate)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise VerificationError(f"not a certificate: {error}") from None
    if (
        len(wire) > MAX_CERTIFICATE_BYTES
        or msgspec.msgpack.encode(certificate) != signed.certificate
        or msgspec.msgpack.encode(signed) != wire
    ):
        raise VerificationError(f"the certificate of {certificate.id!r} is not canonical")
    try:
        crypto_sign_open(
            signed.signature + CERTIFICATE_DOMAIN + sha256(signed.certificate), root_public_key
        )
    except BadSignatureError:
        raise VerificationError(
            f"the certificate of {certificate.id!r} is not signed by this root key",
            hint="Check that the root public key is the one of this deployment.",
        ) from None
    check_public_key(certificate.event_key)
    return certificate


class Secrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of a key file.

    Attributes:
        id: whose keys these are.
        event_seed: hex seed of the event key.
        nkey_seed: seed of the NATS connection key (``SU…``), empty for the root key.
    """

    id: AgentId
    event_seed: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    nkey_seed: str = ""

    def __repr__(self) -> str:
        return f"Secrets(id={self.id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id)]

    def key_pair(self) -> KeyPair:
        """The event key."""
        return KeyPair(bytes.fromhex(self.event_seed))


def write_secrets(path: Path, secrets: Secrets) -> None:
    """Create a key file with mode 0600; refuses to overwrite one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"key file {path} exists already", hint="Choose another id or remove the file yourself."
        ) from None
    except OSError as error:
        raise KeyFileError(f"cannot create key file {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(secrets)) + b"\n")


def read_secrets(path: Path) -> Secrets:
    """Read a key file.

    Raises:
        KeyFileError: missing, readable by others, or damaged.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError(
            f"key file {path} does not exist", hint="Create it with 'mabeam key new ID'."
        ) from None
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"key file {path} is open to others (mode {stat.S_IMODE(mode):04o})",
            hint=f"Run: chmod 600 {path}",
        )
    try:
        return msgspec.json.decode(data, type=Secrets)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise KeyFileError(f"key file {path} is damaged: {error}") from None
