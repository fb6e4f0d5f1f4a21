"""What is refused here never reaches the server, which would end the connection."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from mabeam.core.bus.invitations import InvitationSender
from mabeam.core.errors import AppendRefusedError
from mabeam.core.transport import MAX_INVITATION_BYTES


async def test_a_too_large_invitation_is_refused_before_it_is_sent() -> None:
    sent: list[tuple[str, int]] = []

    async def request(subject: str, payload: bytes) -> Any:
        sent.append((subject, len(payload)))
        return SimpleNamespace(data=json.dumps({"stream": "WORK", "seq": 1}).encode())

    connection: Any = SimpleNamespace(on_connected=[])
    pipeline: Any = SimpleNamespace(request=request)
    sender = InvitationSender(connection, pipeline)
    with pytest.raises(AppendRefusedError, match=f"'ann' has {MAX_INVITATION_BYTES + 1} bytes"):
        await sender.invite("n1", "ann", "c1", bytes(MAX_INVITATION_BYTES + 1))
    assert sent == []
    await sender.invite("n1", "ann", "c1", bytes(MAX_INVITATION_BYTES))
    assert sent[0][1] == MAX_INVITATION_BYTES
