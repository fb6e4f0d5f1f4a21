"""Evidence: self-contained proofs of misbehaviour as pure yes/no functions (specification 13).

A proof is the accused's own signed events. Whoever has the accused's public key can check it;
the absence of a message is never evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from .envelope import Event, decode_event, verify_signature
from .errors import PeerProtocolError
from .kernel_events import EventType, EvidenceSubmitted
from .machine import Protocols

KeyLookup = Callable[[str, bytes], bytes | None]
"""Public key of an (author, key id), or ``None`` if it was never admitted."""


def evidence_of(rule: str, accused: str, events: Iterable[Event]) -> EvidenceSubmitted:
    """Bundle the events into a proof, ordered by id."""
    ordered = sorted(events, key=lambda event: event.id)
    return EvidenceSubmitted(
        rule,
        accused,
        tuple(event.id for event in ordered),
        tuple(event.wire for event in ordered),
    )


def check_evidence(evidence: EvidenceSubmitted, public_key: KeyLookup, protocols: Protocols) -> str:
    """Verify a proof.

    Returns:
        The uniqueness key of the offence, for deduplication with (rule, accused).

    Raises:
        PeerProtocolError: ``invalid_proof``; nothing is proven.
    """
    rule = _RULES.get(evidence.rule)
    if rule is None:
        raise _invalid(f"rule {evidence.rule} cannot be checked on its own")
    if len(evidence.proof) != 2:  # before any signature is checked: proofs are cheap to refuse
        raise _invalid("the proof needs two different events")
    events = [_authentic(wire, evidence, public_key) for wire in evidence.proof]
    if tuple(event.id for event in events) != evidence.proof_ids:
        raise _invalid("the ids named are not those of the proof's events")
    try:
        return rule(events, protocols)
    except PeerProtocolError as error:
        raise _invalid(error.message) from None


def uniqueness_key(event: Event, kind: EventType) -> tuple[Any, ...] | None:
    """The key under which only one such event may be signed, or ``None``.

    Raises:
        PeerProtocolError: ``malformed_body``.
    """
    if kind.uniqueness is None:
        return None
    try:
        body = msgspec.msgpack.decode(event.body, type=kind.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError("malformed_body", str(error)) from None
    return (kind.name, *(getattr(body, name) for name in kind.uniqueness))


def _invalid(message: str) -> PeerProtocolError:
    return PeerProtocolError("invalid_proof", message)


def _authentic(wire: bytes, evidence: EvidenceSubmitted, public_key: KeyLookup) -> Event:
    try:
        event = decode_event(wire)
    except PeerProtocolError as error:
        raise _invalid(f"an event of the proof is damaged: {error}") from None
    if event.header.author != evidence.accused:
        raise _invalid(f"an event of the proof is by {event.header.author!r}, not the accused")
    key = public_key(event.header.author, event.header.key_id)
    if key is None or not verify_signature(event.id, event.signature, key):
        raise _invalid("an event of the proof is not signed by the accused")
    return event


def _pair(events: list[Event]) -> tuple[Event, Event]:
    if events[0].id == events[1].id:
        raise _invalid("the proof needs two different events")
    if events[0].header.coordination != events[1].header.coordination:
        raise _invalid("the two events belong to different coordinations")
    return events[0], events[1]


def _two_answers(events: list[Event], protocols: Protocols) -> str:
    """E1: one uniqueness key, two contents."""
    first, second = _pair(events)
    kinds = _kinds(protocols)
    kind = kinds.get(first.header.type)
    if kind is None or first.header.epoch != second.header.epoch:
        raise _invalid("the events have no common uniqueness key")
    key = uniqueness_key(first, kind)
    other = kinds.get(second.header.type)
    if key is None or other is None or key != uniqueness_key(second, other):
        raise _invalid("the events have no common uniqueness key")
    if first.body == second.body:
        raise _invalid("the two events say the same")
    return ":".join((first.header.coordination, *map(str, key)))


def _fork(events: list[Event], protocols: Protocols) -> str:
    """E7: one author sequence number, two events."""
    first, second = _pair(events)
    if first.header.author_seq != second.header.author_seq:
        raise _invalid("the events have different numbers in their author's chain")
    return f"{first.header.coordination}:{first.header.author_seq}"


def _kinds(protocols: Protocols) -> Mapping[str, EventType]:
    return {kind.name: kind for spec in protocols.values() for kind in spec.event_types}


_RULES: dict[str, Callable[[list[Event], Protocols], str]] = {"E1": _two_answers, "E7": _fork}
