"""Checking a proof with nothing but the opening of its coordination and the root public key.

``coordination.opened`` embeds the certificates of the coordinator and of every participant. Each is
signed by the root, and everything signed in the coordination names the digest of that opening as
its epoch; so whoever has these three things needs neither the log nor the registry.
"""

from __future__ import annotations

import msgspec

from .coordination import Coordination
from .envelope import Event, decode_event, verify_signature
from .errors import PeerProtocolError, VerificationError
from .evidence import KeyLookup, check_evidence
from .identity import verify_certificate
from .kernel_events import CoordinationOpened, EvidenceSubmitted
from .machine import Context, LogEvent, Protocols

OPENED = "coordination.opened"


def read_opening(
    wire: bytes, root_public_key: bytes, protocols: Protocols
) -> tuple[Context, KeyLookup]:
    """The frozen configuration behind an opening, and the keys of everybody named in it.

    Args:
        wire: the ``coordination.opened`` event as transported.
        root_public_key: the deployment's root key, 32 bytes.
        protocols: known protocols.

    Raises:
        PeerProtocolError: it is no opening by a coordinator of this root, or of an unknown
            protocol.
    """
    event = decode_event(wire)
    if event.header.type != OPENED:
        raise PeerProtocolError("wrong_phase", f"{event.header.type} is no opening")
    try:
        opened = msgspec.msgpack.decode(event.body, type=CoordinationOpened)
        keys = {}
        for each in opened.certificates:
            certificate = verify_certificate(each, root_public_key)
            keys[certificate.id, certificate.key_id] = certificate
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, VerificationError) as error:
        raise PeerProtocolError("malformed_body", f"the opening is damaged: {error}") from None
    signer = keys.get((event.header.author, event.header.key_id))
    if signer is None or "coordinator" not in signer.roles:
        raise PeerProtocolError("not_authorised", f"{event.header.author!r} is no coordinator here")
    if not verify_signature(event.id, event.signature, signer.event_key):
        raise PeerProtocolError("bad_signature", "the opening is not signed by its author")

    def public_key(author: str, key_id: bytes) -> bytes | None:
        certificate = keys.get((author, key_id))
        return certificate.event_key if certificate is not None else None

    return _configuration(event, opened, public_key, protocols), public_key


def _configuration(
    event: Event, opened: CoordinationOpened, public_key: KeyLookup, protocols: Protocols
) -> Context:
    fold = Coordination(event.header.coordination, protocols, public_key, invited=True)
    fold.apply(LogEvent(0, 0, event, opened))
    assert fold.context is not None
    return fold.context


def check_alone(
    evidence: EvidenceSubmitted, opening: bytes, root_public_key: bytes, protocols: Protocols
) -> str:
    """Verify a proof from the opening and the root key alone.

    Returns:
        The uniqueness key of the offence.

    Raises:
        PeerProtocolError: the opening is none, or ``invalid_proof``.
    """
    context, public_key = read_opening(opening, root_public_key, protocols)
    return check_evidence(evidence, public_key, protocols, context)
