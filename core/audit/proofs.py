"""Proofs of equivocation: two signed events convict their author, without the rest of the log."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import PeerProtocolError
from ..evidence import KeyLookup, check_evidence, evidence_of
from ..kernel_events import EvidenceSubmitted
from ..machine import LogEvent, Protocols


def prove_equivocation(
    ids: tuple[bytes, ...],
    events: Mapping[bytes, LogEvent],
    public_key: KeyLookup,
    protocols: Protocols,
) -> tuple[EvidenceSubmitted, str] | None:
    """A proof under E7 (one author sequence) or E1 or E4 (one uniqueness key), verified on its own.

    Returns:
        The proof and the uniqueness key of the offence, or ``None`` if the events prove nothing.
    """
    found = [events[event_id].event for event_id in ids if event_id in events]
    if len(found) != len(ids) or not found:
        return None
    for rule in ("E7", "E1", "E4"):
        evidence = evidence_of(rule, found[0].header.author, found)
        try:
            return evidence, check_evidence(evidence, public_key, protocols)
        except PeerProtocolError:
            continue
    return None
