"""Evidence: self-contained proofs of misbehaviour as pure yes/no functions (specification 13).

A proof is signed events. E1, E4 and E7 are the accused's own contradictions; whoever has its public
key can check them. The other rules belong to a protocol: their proofs may hold events of others and
are judged under the frozen configuration. The absence of a message is never evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from .admission import is_shallow
from .envelope import MAX_EVENT_BYTES, Event, decode_event, verify_signature
from .errors import PeerProtocolError
from .kernel_events import EventType, EvidenceSubmitted, build_catalog
from .machine import Context, LogEvent, Protocols

KeyLookup = Callable[[str, bytes], bytes | None]
"""Public key of an (author, key id), or ``None`` if it was never admitted."""

MAX_PROOF_BYTES = MAX_EVENT_BYTES - 8192
"""A proof with its ids, and with refs that repeat them, fits into one event."""

_BYTES_PER_EVENT = 5 + 2 * 34
"""What an event of a proof takes besides its own bytes: its length, its id, the id as ref."""


def evidence_of(rule: str, accused: str, events: Iterable[Event]) -> EvidenceSubmitted:
    """Bundle the accused's own events into a proof, ordered by id."""
    return evidence_in_order(rule, accused, sorted(events, key=lambda event: event.id))


def evidence_in_order(rule: str, accused: str, events: Iterable[Event]) -> EvidenceSubmitted:
    """Bundle events into a proof as they stand, the accused's offending one first."""
    given = tuple(events)
    return EvidenceSubmitted(
        rule, accused, tuple(event.id for event in given), tuple(event.wire for event in given)
    )


def proof_bytes(evidence: EvidenceSubmitted) -> int:
    """Bytes of the proof as it stands in an event that also refers to its ids."""
    return sum(len(wire) + _BYTES_PER_EVENT for wire in evidence.proof)


def fits(evidence: EvidenceSubmitted) -> bool:
    """Whether the proof fits into an event; a larger one is known only to who reads the log."""
    return proof_bytes(evidence) <= MAX_PROOF_BYTES and len(evidence.proof) <= 1024


def check_evidence(
    evidence: EvidenceSubmitted,
    public_key: KeyLookup,
    protocols: Protocols,
    context: Context | None = None,
) -> str:
    """Verify a proof.

    Args:
        evidence: what was submitted.
        public_key: keys of the authors.
        protocols: known protocols.
        context: the frozen configuration, for the rules of its protocol.

    Returns:
        The uniqueness key of the offence, for deduplication with (rule, accused).

    Raises:
        PeerProtocolError: ``invalid_proof``; nothing is proven.
    """
    try:
        if evidence.rule in _RULES:
            if len(evidence.proof) != 2:  # before any signature is checked: cheap to refuse
                raise _invalid("the proof needs two different events")
            events = _authentic(evidence, public_key)
            if any(event.header.author != evidence.accused for event in events):
                raise _invalid("an event of the proof is not by the accused")
            return _RULES[evidence.rule](events, protocols, evidence.rule)
        return _by_protocol(evidence, public_key, protocols, context)
    except PeerProtocolError as error:
        if error.reason == "invalid_proof":
            raise
        raise _invalid(error.message) from None


def uniqueness_key(event: Event, kind: EventType) -> tuple[Any, ...] | None:
    """The key under which only one such event may be signed, or ``None``.

    Raises:
        PeerProtocolError: ``malformed_body``.
    """
    if kind.uniqueness is None:
        return None
    body = _typed(event, kind)
    return (kind.name, *(getattr(body, name) for name in kind.uniqueness))


def _invalid(message: str) -> PeerProtocolError:
    return PeerProtocolError("invalid_proof", message)


def _typed(event: Event, kind: EventType) -> Any:
    try:
        body = msgspec.msgpack.decode(event.body, type=kind.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError("malformed_body", str(error)) from None
    if not all(is_shallow(getattr(body, field)) for field in body.free_form):
        raise PeerProtocolError("malformed_body", f"body of {kind.name} is nested too deep")
    return body


def _authentic(evidence: EvidenceSubmitted, public_key: KeyLookup) -> list[Event]:
    """The proof's events, each signed by its author; everything cheap is checked first."""
    if len(evidence.proof) != len(evidence.proof_ids) or not fits(evidence):
        raise _invalid("the proof is too large, or names other events than it holds")
    try:
        events = [decode_event(wire) for wire in evidence.proof]
    except PeerProtocolError as error:
        raise _invalid(f"an event of the proof is damaged: {error}") from None
    if tuple(event.id for event in events) != evidence.proof_ids:
        raise _invalid("the ids named are not those of the proof's events")
    if len({event.id for event in events}) != len(events):
        raise _invalid("the proof holds an event twice")
    for event in events:
        key = public_key(event.header.author, event.header.key_id)
        if key is None or not verify_signature(event.id, event.signature, key):
            raise _invalid(f"an event of the proof is not signed by {event.header.author!r}")
    return events


# Rules of the protocols ---------------------------------------------------------------------------


def _by_protocol(
    evidence: EvidenceSubmitted,
    public_key: KeyLookup,
    protocols: Protocols,
    context: Context | None,
) -> str:
    spec = protocols.get(context.opened.protocol) if context is not None else None
    rule = spec.proofs.get(evidence.rule) if spec is not None else None
    if context is None or spec is None or rule is None:
        raise _invalid(f"rule {evidence.rule} cannot be checked here on its own")
    kinds = build_catalog((*spec.event_types, *spec.ordering_types))
    keys = {member.agent_id: member.key_id for member in context.participants}
    events = []
    for event in _authentic(evidence, public_key):
        header = event.header
        kind = kinds.get(header.type)
        if (header.coordination, header.epoch) != (context.coordination, context.epoch):
            raise _invalid("an event of the proof was not signed under this configuration")
        if kind is None or keys.get(header.author, header.key_id) != header.key_id:
            raise _invalid(f"{header.type} of {header.author!r} does not belong here")
        events.append(LogEvent(0, 0, event, _typed(event, kind)))
    if events[0].author != evidence.accused:
        raise _invalid("the first event of the proof is not by the accused")
    return rule(evidence.accused, tuple(events), context)


# Rules of the kernel ------------------------------------------------------------------------------


def _two_contents(events: list[Event], protocols: Protocols, rule: str) -> str:
    """E1, and E4 for types that say so: one uniqueness key, two contents."""
    first, second = events
    _require_one_coordination(first, second)
    kinds = {kind.name: kind for spec in protocols.values() for kind in spec.event_types}
    kind = kinds.get(first.header.type)
    other = kinds.get(second.header.type)
    if kind is None or other is None or first.header.epoch != second.header.epoch:
        raise _invalid("the events have no common uniqueness key")
    key = uniqueness_key(first, kind)
    if key is None or key != uniqueness_key(second, other):
        raise _invalid("the events have no common uniqueness key")
    if kind.contradiction != rule:
        raise _invalid(f"two different {kind.name} are {kind.contradiction}, not {rule}")
    if first.body == second.body:
        raise _invalid("the two events say the same")
    return ":".join((first.header.coordination, *map(str, key)))


def _fork(events: list[Event], protocols: Protocols, rule: str) -> str:
    """E7: one author sequence number, two events."""
    first, second = events
    _require_one_coordination(first, second)
    if first.header.author_seq != second.header.author_seq:
        raise _invalid("the events have different numbers in their author's chain")
    return f"{first.header.coordination}:{first.header.author_seq}"


def _require_one_coordination(first: Event, second: Event) -> None:
    if first.header.coordination != second.header.coordination:
        raise _invalid("the two events belong to different coordinations")


_RULES: Mapping[str, Callable[[list[Event], Protocols, str], str]] = {
    "E1": _two_contents,
    "E4": _two_contents,
    "E7": _fork,
}
