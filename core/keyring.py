"""The keyring: a fold of ``_registry`` that says which keys count at which point of the log."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .envelope import Event
from .errors import PeerProtocolError, VerificationError
from .hashing import ZERO32, sha256
from .identity import Certificate, Role, key_id_of, verify_certificate
from .kernel_events import (
    AgentAdmitted,
    AgentKeyRotated,
    AgentRegistered,
    AgentRevoked,
    Health,
    HealthChanged,
)
from .machine import LogEvent
from .names import REGISTRY, ROOT_AUTHOR


class KeyEntry(msgspec.Struct, frozen=True):
    """One key of an id and the stretch of the log in which it counts.

    Attributes:
        certificate: the root's statement.
        certificate_wire: the same as signed.
        key_id: key id of the certificate's key.
        since: sequence of the event that admitted it; events after it may use it.
        until: sequence of the event that ended it, or ``None`` while it counts.
        end_reason: ``revoked_key`` or ``rotated_key`` once ended.
    """

    certificate: Certificate
    certificate_wire: bytes
    key_id: bytes
    since: int
    until: int | None = None
    end_reason: str = ""


class Agent(msgspec.Struct, frozen=True):
    """What the registry says about an id besides its keys."""

    registered: AgentRegistered | None = None
    registered_sequence: int = 0
    health: Health = "unknown"
    health_sequence: int = 0


class Keyring:
    """All admitted ids of a deployment as of one position of the log.

    Attributes:
        root_public_key: the operator's root key.
        sequence: last registry event folded.
        digest: hash over the ids of the registry events folded, in order.
    """

    def __init__(self, root_public_key: bytes) -> None:
        self.root_public_key = root_public_key
        self.root_key_id = key_id_of(root_public_key)
        self.sequence = 0
        self.digest = ZERO32
        self._keys: dict[str, list[KeyEntry]] = {}
        self._agents: dict[str, Agent] = {}

    def copy(self) -> Keyring:
        """An independent keyring at the same position."""
        twin = Keyring(self.root_public_key)
        twin.sequence, twin.digest = self.sequence, self.digest
        twin._keys = {author: list(entries) for author, entries in self._keys.items()}
        twin._agents = dict(self._agents)
        return twin

    # Reading ----------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """All ids ever admitted, sorted."""
        return sorted(self._keys)

    def current(self, author: str) -> KeyEntry | None:
        """The key of ``author`` that counts now, or ``None`` (unknown or revoked)."""
        entries = self._keys.get(author)
        return entries[-1] if entries and entries[-1].until is None else None

    def history(self, author: str) -> tuple[KeyEntry, ...]:
        """All keys ``author`` ever had, oldest first."""
        return tuple(self._keys.get(author, ()))

    def was_operator(self, author: str) -> bool:
        """Whether a key of ``author`` ever had a say in which keys count."""
        return author == ROOT_AUTHOR or any(
            "operator" in entry.certificate.roles for entry in self.history(author)
        )

    def agent(self, author: str) -> Agent:
        """Registration and health of ``author``."""
        return self._agents.get(author, _UNKNOWN)

    def registered(self) -> Iterator[tuple[str, Agent]]:
        """All ids that registered, sorted."""
        for author in sorted(self._agents):
            if self._agents[author].registered is not None:
                yield author, self._agents[author]

    def public_key(self, author: str, key_id: bytes) -> bytes | None:
        """The key of that id, whether or not it still counts; ``None`` if never admitted."""
        if author == ROOT_AUTHOR:
            return self.root_public_key if key_id == self.root_key_id else None
        for entry in self._keys.get(author, ()):
            if entry.key_id == key_id:
                return entry.certificate.event_key
        return None

    def roles_at(self, event: Event, sequence: int, stored_ns: int) -> tuple[Role, ...]:
        """Roles under which the event's key may act at ``sequence``.

        Raises:
            PeerProtocolError: ``unknown_author``, ``unknown_key``, ``revoked_key``, ``rotated_key``
                or ``expired_key``.
        """
        author, key_id = event.header.author, event.header.key_id
        if author == ROOT_AUTHOR:
            if key_id != self.root_key_id:
                raise PeerProtocolError("unknown_key", f"{key_id.hex()} is not the root key")
            return ("operator",)
        entries = self._keys.get(author)
        if not entries:
            raise PeerProtocolError("unknown_author", f"{author!r} was never admitted")
        for entry in reversed(entries):
            if entry.key_id != key_id:
                continue
            if sequence <= entry.since:
                continue  # the same key may have been certified before
            if entry.until is not None and sequence > entry.until:
                raise PeerProtocolError(
                    entry.end_reason,
                    f"key {key_id.hex()} of {author!r} is void since sequence {entry.until}",
                )
            certificate = entry.certificate
            if not certificate.not_before_ns <= stored_ns < certificate.not_after_ns:
                raise PeerProtocolError(
                    "expired_key", f"the certificate of {author!r} is not valid at that time"
                )
            return certificate.roles
        raise PeerProtocolError("unknown_key", f"{author!r} has no key {key_id.hex()} here")

    # Folding ----------------------------------------------------------------------------------

    def apply(self, event: LogEvent) -> None:
        """Fold one admitted event of ``_registry``.

        Raises:
            PeerProtocolError: ``not_authorised``, ``invalid_certificate``, ``stale_serial`` or
                ``unknown_author``; the event then has no effect.
        """
        if event.coordination != REGISTRY:
            raise ValueError(f"{event.coordination!r} is not the registry")
        content = event.content
        if isinstance(content, AgentAdmitted | AgentKeyRotated):
            self._admit(content.certificate, event.sequence)
        elif isinstance(content, AgentRevoked):
            self._revoke(content, event)
        elif isinstance(content, AgentRegistered):
            self._agents[event.author] = msgspec.structs.replace(
                self.agent(event.author),
                registered=content,
                registered_sequence=event.sequence,
            )
        elif isinstance(content, HealthChanged):
            if content.agent_id not in self._keys:
                raise PeerProtocolError("unknown_author", f"{content.agent_id!r} is not admitted")
            if content.after_sequence != self.agent(content.agent_id).health_sequence:
                raise PeerProtocolError("late", f"{content.agent_id!r} changed since it was seen")
            self._agents[content.agent_id] = msgspec.structs.replace(
                self.agent(content.agent_id),
                health=content.health,
                health_sequence=event.sequence,
            )
        else:
            raise PeerProtocolError("wrong_phase", f"{event.type} does not belong in the registry")
        self.sequence = event.sequence
        self.digest = sha256(self.digest + event.id)

    def _admit(self, wire: bytes, sequence: int) -> None:
        try:
            certificate = verify_certificate(wire, self.root_public_key)
        except VerificationError as error:
            raise PeerProtocolError("invalid_certificate", str(error)) from None
        entries = self._keys.setdefault(certificate.id, [])
        if entries:
            last = entries[-1]
            if certificate.serial <= last.certificate.serial:
                raise PeerProtocolError(
                    "stale_serial",
                    f"serial {certificate.serial} of {certificate.id!r} is not above "
                    f"{last.certificate.serial}",
                )
            if last.until is None:
                entries[-1] = msgspec.structs.replace(
                    last, until=sequence, end_reason="rotated_key"
                )
        entries.append(KeyEntry(certificate, wire, certificate.key_id, sequence))

    def _revoke(self, content: AgentRevoked, event: LogEvent) -> None:
        entries = self._keys.get(content.agent_id)
        if not entries:
            raise PeerProtocolError("unknown_author", f"{content.agent_id!r} is not admitted")
        self._keys[content.agent_id] = [
            msgspec.structs.replace(entry, until=event.sequence, end_reason="revoked_key")
            if entry.until is None
            else entry
            for entry in entries
        ]


_UNKNOWN = Agent()
