"""Admission: from stored bytes to verified events, or to a rejection that says why.

Three steps, so that the expensive one (the signature) can run on a thread pool: ``examine`` decodes
and looks up the key, ``Candidate.verify`` checks the signature without touching shared state, and
``conclude`` decodes the body and applies the checks that depend on the position in the log.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from .envelope import Event, decode_event, verify_signature
from .errors import PeerProtocolError
from .identity import Role
from .kernel_events import Catalog, EventType
from .keyring import Keyring
from .log import Record
from .machine import LogEvent
from .names import REGISTRY, is_reserved, place_of

DEFAULT_CLOCK_SKEW_MS = 10_000

MAX_NESTING = 32
"""Depth of free-form values; an explicit bound, so that all readers agree whatever their stack."""

_CLASS_ROLES: dict[str, frozenset[Role]] = {
    "ctl": frozenset({"coordinator", "operator"}),
    "req": frozenset({"client", "coordinator", "operator"}),
    "pub": frozenset({"agent", "coordinator", "client", "operator"}),
}
_OPERATOR_TYPES = frozenset({"agent.admitted", "agent.key_rotated", "agent.revoked"})


@cache
def _decoder(body: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(body)


class Rejection(msgspec.Struct, frozen=True):
    """A stored record that has no effect, and why.

    Attributes:
        sequence: its position.
        stored_ns: the log's storage time.
        subject: where it is stored.
        reason: rejection reason.
        message: the same for people.
        event_id: its id if it could be decoded, else empty.
        coordination, author, type: as claimed by header or subject, empty if unreadable.
        proven: the signature was good, so the named author is accountable.
    """

    sequence: int
    stored_ns: int
    subject: str
    reason: str
    message: str
    event_id: bytes = b""
    coordination: str = ""
    author: str = ""
    type: str = ""
    proven: bool = False


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A well-formed record whose signature is still to be checked."""

    record: Record
    event: Event
    kind: EventType
    public_key: bytes

    def verify(self) -> bool:
        """Check the signature; thread-safe."""
        return verify_signature(self.event.id, self.event.signature, self.public_key)


class Admission:
    """Decides what counts as an event.

    Args:
        catalog: known event types.
        keyring: the registry as of the position being read; the caller keeps it in step.
        max_clock_skew_ms: how far an author's clock may run ahead of the log's.
    """

    def __init__(
        self, catalog: Catalog, keyring: Keyring, max_clock_skew_ms: int = DEFAULT_CLOCK_SKEW_MS
    ) -> None:
        self.keyring = keyring
        self._skew_ns = max_clock_skew_ms * 1_000_000
        self._catalog = catalog
        self._bodies = {name: _decoder(kind.body) for name, kind in catalog.items()}

    def admit(self, record: Record) -> LogEvent | Rejection:
        """All three steps at once."""
        candidate = self.examine(record)
        if isinstance(candidate, Rejection):
            return candidate
        return self.conclude(candidate, candidate.verify())

    def examine(self, record: Record) -> Candidate | Rejection:
        """Decode the envelope, compare it with its subject and find the author's key."""
        try:
            event = decode_event(record.wire)
        except PeerProtocolError as error:
            return _unreadable(record, error)
        try:
            kind = self._catalog.get(event.header.type)
            if kind is None:
                raise PeerProtocolError("unknown_type", f"unknown event type {event.header.type}")
            self._check_subject(record, event, kind)
            public_key = self.keyring.public_key(event.header.author, event.header.key_id)
            if public_key is None:
                self.keyring.roles_at(event, record.sequence, record.stored_ns)
                raise PeerProtocolError("unknown_key", "the key was never admitted")
        except PeerProtocolError as error:
            return reject(record, event, error, proven=False)
        return Candidate(record, event, kind, public_key)

    def conclude(self, candidate: Candidate, signature_ok: bool) -> LogEvent | Rejection:
        """Finish admission of a candidate at its position in the log."""
        record, event = candidate.record, candidate.event
        try:
            if not signature_ok:
                raise PeerProtocolError("bad_signature", "the signature does not verify")
            roles = self.keyring.roles_at(event, record.sequence, record.stored_ns)
            self._check_roles(record, event, roles)
            _check_name(event)
            if event.header.at_ns > record.stored_ns + self._skew_ns:
                raise PeerProtocolError(
                    "clock_skew",
                    f"the author's clock is {(event.header.at_ns - record.stored_ns) // 10**6} ms "
                    f"ahead of the log's",
                )
            content = self.decode_body(event)
        except PeerProtocolError as error:
            return reject(record, event, error, proven=signature_ok)
        return LogEvent(record.sequence, record.stored_ns, event, content)

    def recall(self, record: Record) -> LogEvent:
        """A record that was admitted before, from a store this program trusts; nothing is checked
        but the encoding."""
        event = decode_event(record.wire)
        return LogEvent(record.sequence, record.stored_ns, event, self.decode_body(event))

    def decode_body(self, event: Event) -> Any:
        """The typed body; ``malformed_body`` if it is not one."""
        try:
            body = self._bodies[event.header.type].decode(event.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PeerProtocolError(
                "malformed_body", f"body of {event.header.type}: {error}"
            ) from None
        for field in body.free_form:
            if not is_shallow(getattr(body, field)):
                raise PeerProtocolError(
                    "malformed_body",
                    f"body of {event.header.type}: {field} is nested more than {MAX_NESTING} deep",
                )
        return body

    def _check_subject(self, record: Record, event: Event, kind: EventType) -> None:
        header = event.header
        place = place_of(record.subject)
        if (
            place.event_class not in kind.classes
            or place.type_name != header.type
            or place.author != header.author
            or place.coordination != header.coordination
        ):
            reason = (
                "wrong_coordination"
                if place.coordination not in ("", header.coordination)
                else "subject_mismatch"
            )
            raise PeerProtocolError(
                reason, f"{header.type} of {header.author!r} is stored under {record.subject!r}"
            )

    def _check_roles(self, record: Record, event: Event, roles: tuple[Role, ...]) -> None:
        allowed = _CLASS_ROLES[place_of(record.subject).event_class]
        if event.header.type in _OPERATOR_TYPES:
            allowed = frozenset({"operator"})
        if allowed.isdisjoint(roles):
            raise PeerProtocolError(
                "not_authorised",
                f"{event.header.author!r} ({', '.join(roles)}) may not sign {event.header.type}",
            )


def _check_name(event: Event) -> None:
    """Nobody requests a standing coordination; the registry's own fold refuses it there, as its
    author chains hold whatever was signed."""
    name = event.header.coordination
    if event.header.type == "coordination.requested" and is_reserved(name) and name != REGISTRY:
        raise PeerProtocolError("wrong_coordination", f"the name {name!r} is reserved")


def reject(
    record: Record, event: Event, error: PeerProtocolError, *, proven: bool = True
) -> Rejection:
    """The rejection of a readable event."""
    return Rejection(
        record.sequence,
        record.stored_ns,
        record.subject,
        error.reason,
        error.message,
        event.id,
        event.header.coordination,
        event.header.author,
        event.header.type,
        proven,
    )


def _unreadable(record: Record, error: PeerProtocolError) -> Rejection:
    tokens = record.subject.split(".")
    coordination, author = (tokens[3], tokens[7]) if len(tokens) == 8 else ("", "")
    return Rejection(
        record.sequence,
        record.stored_ns,
        record.subject,
        error.reason,
        error.message,
        coordination=coordination,
        author=author,
    )


def is_shallow(value: Any, levels: int = MAX_NESTING) -> bool:
    """Whether a free-form value is nested at most ``levels`` deep."""
    if isinstance(value, dict):
        return levels > 0 and all(is_shallow(each, levels - 1) for each in value.values())
    if isinstance(value, list):
        return levels > 0 and all(is_shallow(each, levels - 1) for each in value)
    return True
