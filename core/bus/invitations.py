"""The WORK stream: sending invitations and keeping every agent's inbox in being.

Inboxes are memory-only consumers that only coordinators may create. They vanish with the server
that holds them, so whoever sends something, or sees an agent's heartbeat, makes sure that its inbox
exists.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import msgspec

from ..errors import AppendRefusedError, LogUnavailableError
from ..names import PREFIX, check_id, work_subject
from ..transport import MAX_INVITATION_BYTES
from .connection import Connection
from .pipeline import Pipeline
from .publisher import decode_ack, refusal
from .server_config import inbox_name
from .wire import CONSUMER_EXISTS_CODE, ApiReply

INBOX_ACK_WAIT_S = 30.0
INBOX_MAX_UNANSWERED = 1000
LOOK_BACK = timedelta(minutes=10)
"""A recreated inbox starts with invitations of this age, not with a whole day's."""

KNOWN_FOR_S = 30.0
"""How long an inbox is believed to exist; the server that holds it may restart unnoticed."""

MAX_KNOWN = 20_000

_api_reply = msgspec.json.Decoder(ApiReply)


class InvitationSender:
    """Sends invitations on behalf of coordinators."""

    def __init__(self, connection: Connection, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: dict[str, float] = {}
        connection.on_connected.append(self._known.clear)

    async def invite(self, node: str, agent: str, coordination: str, payload: bytes) -> None:
        """Store an invitation; a later one for the same coordination replaces it.

        Raises:
            AppendRefusedError: it is larger than :data:`MAX_INVITATION_BYTES`.
            LogUnavailableError: no answer came in time.
        """
        check_id(node, "node")
        subject = work_subject(node, check_id(agent), check_id(coordination, "coordination"))
        if len(payload) > MAX_INVITATION_BYTES:
            raise AppendRefusedError(f"the invitation of {agent!r} has {len(payload)} bytes")
        ack = decode_ack((await self._pipeline.request(subject, payload)).data)
        if ack.error is not None:
            raise refusal(ack.error, f"invitation on {subject}")
        # Last, because the inbox may have vanished with a server while the invitation was sent. A
        # new one looks back far enough.
        await self.ensure_inbox(node, agent)

    async def ensure_inbox(self, node: str, agent: str) -> None:
        """Create the agent's inbox unless it is known to exist; cheap to repeat."""
        name = inbox_name(node, agent)
        now = asyncio.get_running_loop().time()
        if self._known.get(name, 0.0) > now:
            return
        start = datetime.now(UTC) - LOOK_BACK
        config = {
            "durable_name": name,
            "name": name,
            "filter_subjects": [f"{PREFIX}.work.{node}.{agent}.>"],
            "deliver_policy": "by_start_time",
            "opt_start_time": start.isoformat().replace("+00:00", "Z"),
            "ack_policy": "explicit",
            "ack_wait": int(INBOX_ACK_WAIT_S * 1e9),
            "max_ack_pending": INBOX_MAX_UNANSWERED,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 86_400 * 10**9,
        }
        body = {"stream_name": "WORK", "config": config, "action": "create"}
        reply = await self._pipeline.request(
            f"$JS.API.CONSUMER.CREATE.WORK.{name}", json.dumps(body).encode()
        )
        error = _api_reply.decode(reply.data).error
        if error is not None and error.err_code != CONSUMER_EXISTS_CODE:
            raise LogUnavailableError(f"cannot create the inbox of {agent!r}: {error.description}")
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[name] = now + KNOWN_FOR_S
