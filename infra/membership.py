"""Membership: who may connect, sign and take part; admitted, rotated and revoked by the operator.

Each change has three parts, in an order that can be repeated after a crash: the event in
``_registry`` (the truth), the public file in ``members/`` and the server's configuration made from
all of them.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..core.author import Author
from ..core.bus.jetstream import JetStreamTransport
from ..core.errors import (
    LogUnavailableError,
    MabeamError,
    NotFoundError,
    SequenceConflictError,
    UsageError,
    VerificationError,
)
from ..core.host.registry import RegistryView
from ..core.identity import Certificate, KeyPair, Role, Secrets, issue_certificate
from ..core.kernel_events import AgentAdmitted, AgentKeyRotated, AgentRevoked
from ..core.keyring import Keyring
from ..core.log import Submission
from ..core.names import REGISTRY, ROOT_AUTHOR, AgentId, check_id
from ..core.telemetry import NoTelemetry
from ..core.transport import Transport
from ..protocols import PROTOCOLS
from .config import Config
from .home import OPERATOR, Home, Member
from .key_material import generate_secrets, nkey_of

RegistryBody = AgentAdmitted | AgentKeyRotated | AgentRevoked

CERTIFICATE_YEARS = 10
_YEAR_NS = 365 * 86_400 * 10**9
_ATTEMPTS = 20
_STEP = 200


class VoidKeyError(MabeamError):
    """A key that was revoked or rotated away does not come back."""

    code = "void_key"


class Applicant(msgspec.Struct, frozen=True):
    """Somebody to be admitted.

    Attributes:
        id: the id.
        roles: what it may do.
        node: node token of its subjects; empty for the deployment's default.
        controller: the owner; several ids may share one.
        sponsor: the id that vouches for it.
        event_key, nkey: public keys made elsewhere; by default those of the key file here, else
            those in force, else new ones in a new key file.
    """

    id: AgentId
    roles: tuple[Role, ...] = ("agent",)
    node: str = ""
    controller: AgentId = "ops"
    sponsor: AgentId = ROOT_AUTHOR
    event_key: bytes = b""
    nkey: str = ""


class Admission(msgspec.Struct, frozen=True):
    """An admitted member, and whether anything changed by admitting it."""

    member: Member
    changed: bool


@contextmanager
def exclusive(home: Home) -> Iterator[None]:
    """Let one program at a time change the members of a home."""
    with (home.path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def enrol(home: Home, applicant: Applicant, *, serial: int = 1) -> Member:
    """Give an id its keys (unless it has some), a certificate and its public file; no event yet."""
    root = home.root_key()
    check_id(applicant.id)
    if applicant.id in (ROOT_AUTHOR, REGISTRY):
        raise UsageError(f"the id {applicant.id!r} is reserved")
    if not applicant.event_key:
        has_key = home.key_path(applicant.id).exists()
        secrets = home.secrets(applicant.id) if has_key else home.new_secrets(applicant.id)
        applicant = _with_keys(applicant, secrets)
    member = _certify(home, root, applicant, serial)
    home.write_member(member)
    return member


async def admit(
    home: Home, transport: Transport, applicants: Sequence[Applicant], *, new_keys: bool = False
) -> list[Admission]:
    """Make ids known: keys, certificates, public files and ``agent.admitted`` events.

    The server's configuration is regenerated; have the server read it again before they connect.

    Args:
        home: the operator's directory.
        transport: the operator's connection.
        applicants: who; an id already admitted is admitted anew if something differs.
        new_keys: put void keys here aside and make new ones.

    Raises:
        VoidKeyError: a key was revoked or rotated away; nobody was admitted.
        UsageError: new keys for an id that has one in force.
    """
    with exclusive(home):
        registrar = Registrar(home, transport)
        await registrar.load()
        keyring = registrar.keyring
        void = _void_keys(keyring)
        if new_keys:
            for each in applicants:
                _put_void_keys_aside(home, each.id, keyring, void)
        applicants = [_with_known_keys(home, each, keyring) for each in applicants]
        for each in applicants:
            _check_not_void(each, void)
        admissions = []
        for each in applicants:
            member = _admitted_already(home, each, keyring)
            serial = registrar.next_serial(each.id)
            admissions.append(Admission(member or enrol(home, each, serial=serial), member is None))
        await registrar.append(
            [
                ("agent.admitted", AgentAdmitted(each.member.certificate))
                for each in admissions
                if each.changed
            ]
        )
        home.write_server_config()
    return admissions


def _void_keys(keyring: Keyring) -> set[bytes | str]:
    """Event keys and connection keys of any id that counted once and count no more."""
    entries = [entry for id in keyring.ids() for entry in keyring.history(id)]
    ended = (entry.certificate for entry in entries if entry.until is not None)
    in_force = (entry.certificate for entry in entries if entry.until is None)
    return _keys_of(ended) - _keys_of(in_force)


def _keys_of(holders: Iterable[Certificate | Applicant]) -> set[bytes | str]:
    return {key for each in holders for key in (each.event_key, each.nkey)}


def _put_void_keys_aside(home: Home, id: str, keyring: Keyring, void: set[bytes | str]) -> None:
    """Make room for new keys and a new journal, unless the keys here never counted."""
    if keyring.current(id) is not None:
        raise UsageError(f"{id!r} has a key in force", hint=f"Run 'mabeam key rotate {id}'.")
    if home.key_path(id).exists():
        old = home.secrets(id).key_pair()
        if old.public_key in void:
            _put_aside(home.journal_path(id), old)
            _put_aside(home.key_path(id), old)


def _put_aside(path: Path, old: KeyPair) -> None:
    if path.exists():
        path.rename(path.with_suffix(f".{old.key_id.hex()}"))


def _with_known_keys(home: Home, applicant: Applicant, keyring: Keyring) -> Applicant:
    """The applicant with the keys it has, if it has some."""
    if applicant.event_key:
        return applicant
    if home.key_path(applicant.id).exists():
        return _with_keys(applicant, home.secrets(applicant.id))
    entry = keyring.current(applicant.id)
    if entry is None:
        return applicant
    known = entry.certificate
    return msgspec.structs.replace(applicant, event_key=known.event_key, nkey=known.nkey)


def _check_not_void(applicant: Applicant, void: set[bytes | str]) -> None:
    if void.isdisjoint(_keys_of([applicant])):
        return
    raise VoidKeyError(
        f"the key of {applicant.id!r} was revoked or rotated away; it is not admitted again",
        hint=f"Make new keys with 'mabeam key admit {applicant.id} --new-key', or where the old "
        "ones were made, or admit another id.",
    )


def _admitted_already(home: Home, applicant: Applicant, keyring: Keyring) -> Member | None:
    """The member, if admitting the applicant would change nothing."""
    entry = keyring.current(applicant.id)
    if entry is None or not home.member_path(applicant.id).exists():
        return None
    member, known = home.member(applicant.id), entry.certificate
    same = (
        (applicant.event_key, applicant.nkey) == (known.event_key, known.nkey)
        and set(applicant.roles) == set(known.roles)
        and (applicant.controller, applicant.sponsor) == (known.controller, known.sponsor)
        and (applicant.node or home.config().node) == member.node
        and member.certificate == entry.certificate_wire
        and not member.revoked
        and time.time_ns() < known.not_after_ns
    )
    return member if same else None


async def announce(home: Home, transport: Transport) -> list[str]:
    """Admit members whose certificate never reached the registry (the operator's own, at first)."""
    with exclusive(home):
        registrar = Registrar(home, transport)
        await registrar.load()
        missing = [
            member
            for member in home.members()
            if not member.revoked and not registrar.keyring.history(member.id)
        ]
        await registrar.append(
            [("agent.admitted", AgentAdmitted(member.certificate)) for member in missing]
        )
    return [member.id for member in missing]


async def rotate(home: Home, transport: Transport, id: str) -> Member:
    """Replace both keys of an id; its daemon must be started again with the new key file.

    The old journal is put aside, so the id stays mute in coordinations it may have signed in.
    """
    with exclusive(home):
        member = home.member(id)
        old = home.secrets(id)
        registrar = Registrar(home, transport)
        await registrar.load()
        secrets = generate_secrets(id)
        applicant = _applicant(member, registrar.keyring)
        renewed = _certify(
            home,
            home.root_key(),
            _with_keys(applicant, secrets),
            registrar.next_serial(id),
        )
        scratch = home.key_path(id).with_suffix(".next")
        scratch.touch(mode=0o600)
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(secrets)) + b"\n")
        await registrar.append([("agent.key_rotated", AgentKeyRotated(renewed.certificate))])
        scratch.replace(home.key_path(id))
        home.write_member(renewed)
        _put_aside(home.journal_path(id), old.key_pair())
        home.write_server_config()
    return renewed


async def revoke(home: Home, transport: Transport, id: str, reason: str = "") -> bool:
    """Void all keys of an id and take its right to connect; ``False`` if it was revoked already."""
    with exclusive(home):
        registrar = Registrar(home, transport)
        await registrar.load()
        if not registrar.keyring.history(check_id(id)):
            raise NotFoundError(f"{id!r} was never admitted", hint="See 'mabeam agent ls'.")
        in_force = registrar.keyring.current(id) is not None
        if in_force:
            await registrar.append([("agent.revoked", AgentRevoked(id, reason))])
        if home.member_path(id).exists():
            home.write_member(msgspec.structs.replace(home.member(id), revoked=True))
        home.write_server_config()
    return in_force


class Registrar:
    """Signs registry events as the root and carries them into the log as the operator."""

    def __init__(self, home: Home, transport: Transport) -> None:
        self._log = transport.log
        self._node = home.member(OPERATOR).node
        self._root = home.root_key()
        self._skew_ms = home.config().max_clock_skew_ms
        self._view = self._new_view()

    def _new_view(self) -> RegistryView:
        return RegistryView(
            self._root.public_key, PROTOCOLS, NoTelemetry(), max_clock_skew_ms=self._skew_ms
        )

    @property
    def keyring(self) -> Keyring:
        """The registry as last loaded."""
        return self._view.keyring

    async def load(self) -> None:
        """Catch up with the registry."""
        await self._view.load(self._log)

    def next_serial(self, id: str) -> int:
        """Serial of the next certificate of an id."""
        history = self.keyring.history(id)
        return history[-1].certificate.serial + 1 if history else 1

    async def append(self, events: Sequence[tuple[str, RegistryBody]]) -> None:
        """Append events, up to 200 of them as one atomic step, guarded by what the registry holds.

        The guard keeps two operators from forking the root's chain, and makes a late arrival of an
        append that was given up harmless.

        Raises:
            VerificationError: the registry did not accept an event, for instance because this
                machine's clock runs ahead of the log's.
        """
        for at in range(0, len(events), _STEP):
            last = await self._append_step(events[at : at + _STEP])
            await self.load()
            if self._view.keyring.sequence != last:
                raise VerificationError(
                    f"the registry did not accept {events[at][0]}",
                    hint="Is this machine's clock right? See 'mabeam doctor'.",
                )

    async def _append_step(self, events: Sequence[tuple[str, RegistryBody]]) -> int:
        for _ in range(_ATTEMPTS):
            author = Author(ROOT_AUTHOR, self._node, self._root, time.time_ns)
            author.resume(REGISTRY, *self._view.chains.head(ROOT_AUTHOR))
            submissions = [
                Submission(
                    author.sign(REGISTRY, b"", kind, body),
                    "ctl",
                    self._node,
                    None if number else self._view.control_sequence,
                )
                for number, (kind, body) in enumerate(events)
            ]
            try:
                return (await self._log.append_many(submissions))[-1].sequence
            except SequenceConflictError:
                await self.load()
        raise LogUnavailableError("the registry keeps changing; nothing was appended")


def _with_keys(applicant: Applicant, secrets: Secrets) -> Applicant:
    return msgspec.structs.replace(
        applicant, event_key=secrets.key_pair().public_key, nkey=nkey_of(secrets)
    )


def _certify(home: Home, root: KeyPair, applicant: Applicant, serial: int) -> Member:
    now_ns = time.time_ns()
    node = check_id(applicant.node or home.config().node, "node")
    certificate = Certificate(
        id=applicant.id,
        roles=applicant.roles,
        event_key=applicant.event_key,
        nkey=applicant.nkey,
        controller=applicant.controller,
        sponsor=applicant.sponsor,
        not_before_ns=now_ns - 3600 * 10**9,
        not_after_ns=now_ns + CERTIFICATE_YEARS * _YEAR_NS,
        serial=serial,
    )
    wire = issue_certificate(certificate, root)
    return Member(applicant.id, node, applicant.roles, certificate.nkey, wire)


def _applicant(member: Member, keyring: Keyring) -> Applicant:
    """What the member would apply with today."""
    entry = keyring.current(member.id)
    if entry is None:
        raise NotFoundError(
            f"{member.id!r} has no key in force",
            hint=f"Run 'mabeam key admit {member.id} --new-key'.",
        )
    certificate = entry.certificate
    return Applicant(
        member.id, certificate.roles, member.node, certificate.controller, certificate.sponsor
    )


async def provision_streams(config: Config, transport: JetStreamTransport) -> None:
    """Create or check the streams as the settings want them; safe to repeat."""
    await transport.provision(
        replicas=config.replicas,
        max_bytes=config.max_bytes or None,
        ack_wait_s=config.lease_ms / 1000,
    )


def set_up(home: Home, **settings: str | int) -> None:
    """Create a home: settings, root key, and the operator's own keys and certificate."""
    home.create(**settings)
    enrol(home, Applicant(OPERATOR, ("operator",)))
    home.write_server_config()
