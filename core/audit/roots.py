"""Whether a log belongs to a root key at all.

Under another deployment's key nothing in a log verifies: no event is authentic, so none is wrong
and none is missing. That must not be taken for a clean log.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..envelope import decode_event, verify_signature
from ..errors import PeerProtocolError, VerificationError
from ..identity import key_id_of
from ..log import Record
from ..names import REGISTRY, ROOT_AUTHOR, place_of

HINT = "Give the root.pub that 'mabeam init' wrote for the deployment this comes from."


def check_root(records: Iterable[Record], root_public_key: bytes) -> None:
    """Look for an event of the registry that the root signed.

    Args:
        records: those of the registry among them.
        root_public_key: 32 bytes.

    Raises:
        VerificationError: there are records of the registry, and the root signed none of them.
    """
    signers = set()
    for record in records:
        try:
            if place_of(record.subject).coordination != REGISTRY:
                continue
            event = decode_event(record.wire)
        except PeerProtocolError:
            continue
        header = event.header
        if header.author != ROOT_AUTHOR:
            continue
        signers.add(header.key_id.hex())
        if header.key_id == key_id_of(root_public_key) and verify_signature(
            event.id, event.signature, root_public_key
        ):
            return
    if signers:
        raise VerificationError(
            f"the root key {root_public_key.hex()} signed nothing here; it was the one with the "
            f"key id {' or '.join(sorted(signers))}",
            hint=HINT,
        )
