"""Openings recomputed: certificates, participants, weights, parameters, and refusals.

``coordination.opened`` is a pure function of the request and of the registry as of the snapshot
it cites. The digest of that snapshot is a hash over all registry events before it, so where it
matches, nothing was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from ..author import encode_body
from ..errors import VerificationError
from ..identity import Certificate, verify_certificate
from ..kernel_events import CoordinationFailed, CoordinationOpened
from ..keyring import Keyring
from ..machine import LogEvent, Protocols
from ..names import ROOT_AUTHOR
from ..opening import OpeningError, open_request
from .findings import Finding, about, blame, differences
from .registry import RegistryHistory

SNAPSHOTS_TRIED = 256
"""Registry positions tried for a refusal, which cites none."""

UNCHECKED_CODES = frozenset({"internal_error", "too_many_open_coordinations"})
"""Failures that depend on the coordinator's own state; nobody else can recompute them."""


def check_opened(
    event: LogEvent,
    request: LogEvent,
    registry: RegistryHistory,
    protocols: Protocols,
    *,
    whole_log: bool,
) -> Iterator[Finding]:
    """Findings about a ``coordination.opened`` in force.

    Args:
        whole_log: the whole registry is in view, so that a digest which does not follow from it is
            wrong rather than incomplete.
    """
    opened: CoordinationOpened = event.content
    problems = list(_certificate_problems(event, opened, registry.keyring.root_public_key))
    if problems:
        yield blame("wrong_certificates", event, "; ".join(problems[:4]))
    spec = protocols.get(opened.protocol)
    if spec is not None and spec.version != opened.protocol_version:
        yield about(
            "incomplete",
            "unknown_protocol",
            event,
            f"{opened.protocol} version {opened.protocol_version} is not known to this program",
        )
        return
    snapshot = opened.registry_snapshot
    if snapshot.sequence >= event.sequence:
        yield blame(
            "wrong_opening",
            event,
            f"it cites the registry as of {snapshot.sequence}, which is not before it",
        )
        return
    keyring = registry.at(snapshot.sequence)
    if keyring is None:
        yield about(
            "incomplete", "snapshot_unavailable", event, "the registry it cites is too long ago"
        )
    elif (keyring.sequence, keyring.digest) != (snapshot.sequence, snapshot.digest):
        yield _unreproducible(event, keyring, whole_log=whole_log)
    else:
        yield from _recompute(event, request, keyring, protocols)
        yield from _stale(event, opened, registry.keyring)


def is_reproduced(event: LogEvent, registry: RegistryHistory) -> bool:
    """Whether the registry that an opening cites is the one read here, event by event."""
    snapshot = event.content.registry_snapshot
    if snapshot.sequence >= event.sequence:
        return False
    keyring = registry.at(snapshot.sequence)
    cited = (snapshot.sequence, snapshot.digest)
    return keyring is not None and (keyring.sequence, keyring.digest) == cited


def _unreproducible(event: LogEvent, keyring: Keyring, *, whole_log: bool) -> Finding:
    snapshot = event.content.registry_snapshot
    message = (
        f"it cites registry {snapshot.digest.hex()[:12]} as of {snapshot.sequence}; the registry "
        f"events here give {keyring.digest.hex()[:12]} as of {keyring.sequence}"
    )
    if whole_log:
        # Whether the coordinator invented it or the log lost registry events cannot be told.
        return about("wrong", "snapshot_mismatch", event, message)
    return about("incomplete", "registry_incomplete", event, f"{message}: some are not here")


def _recompute(
    event: LogEvent, request: LogEvent, keyring: Keyring, protocols: Protocols
) -> Iterator[Finding]:
    try:
        due = open_request(request, keyring, event.author, protocols)
    except OpeningError as error:
        yield blame(
            "wrong_opening", event, f"the request had to be refused: {error.failure}, {error}"
        )
        return
    if encode_body(due) != event.event.body:
        yield blame(
            "wrong_opening", event, differences(event.content, due) or "the encoding differs"
        )


def _stale(event: LogEvent, opened: CoordinationOpened, now: Keyring) -> Iterator[Finding]:
    gone = [
        member.agent_id
        for member in opened.participants
        if (entry := now.current(member.agent_id)) is None
        or entry.certificate.key_id != member.key_id
    ]
    if gone:
        yield about(
            "warning",
            "stale_snapshot",
            event,
            f"the keys of {', '.join(gone[:5])} ended between the snapshot and the opening",
        )


def _certificate_problems(
    event: LogEvent, opened: CoordinationOpened, root_public_key: bytes
) -> Iterator[str]:
    """What is wrong with the embedded certificates; none are embedded where they are too many."""
    if not opened.certificates:
        return
    certificates: dict[str, Certificate] = {}
    for wire in opened.certificates:
        try:
            certificate = _verified(wire, root_public_key)
        except VerificationError as error:
            yield str(error)
            continue
        if certificate.id in certificates:
            yield f"two certificates of {certificate.id!r}"
        certificates[certificate.id] = certificate
    members = {member.agent_id: member for member in opened.participants}
    for stranger in sorted(certificates.keys() - members.keys() - {event.author}):
        yield f"{stranger!r} has a certificate but no part"
    for agent_id, member in members.items():
        known = certificates.get(agent_id)
        if known is None:
            yield f"no certificate of {agent_id!r}"
        elif (known.key_id, known.controller) != (member.key_id, member.controller):
            yield f"{agent_id!r} takes part with another key or controller than certified"
        elif "agent" not in known.roles:
            yield f"{agent_id!r} is not certified as an agent"
    signer = certificates.get(event.author)
    if event.author != ROOT_AUTHOR and (
        signer is None or signer.key_id != event.event.header.key_id
    ):
        yield f"no certificate of the key with which {event.author!r} signed"


@lru_cache(maxsize=4096)
def _verified(wire: bytes, root_public_key: bytes) -> Certificate:
    """Openings embed the same certificates again and again."""
    return verify_certificate(wire, root_public_key)


def check_refused(
    event: LogEvent, request: LogEvent | None, registry: RegistryHistory, protocols: Protocols
) -> Finding | None:
    """The finding about a ``coordination.failed`` in force before anything was opened."""
    failed: CoordinationFailed = event.content
    if request is None:
        return blame("unfounded_failure", event, "it answers no request of this log")
    if failed.code in UNCHECKED_CODES:
        return about(
            "warning",
            "unchecked_failure",
            event,
            f"failed with {failed.code!r}, which only the coordinator can know: {failed.message}",
        )
    if _is_due(event, request, registry.recent(SNAPSHOTS_TRIED), protocols):
        return None
    try:
        open_request(request, registry.keyring, event.author, protocols)
    except OpeningError as error:
        return blame(
            "wrong_failure", event, differences(failed, error.body()) or "the encoding differs"
        )
    return blame(
        "unfounded_failure", event, f"failed with {failed.code!r}, but the request can be opened"
    )


def _is_due(
    event: LogEvent, request: LogEvent, keyrings: Iterable[Keyring], protocols: Protocols
) -> bool:
    for keyring in keyrings:
        try:
            open_request(request, keyring, event.author, protocols)
        except OpeningError as error:
            if encode_body(error.body()) == event.event.body:
                return True
    return False
