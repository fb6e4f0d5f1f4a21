"""The three streams and the shared consumer, created once and checked ever after."""

from __future__ import annotations

import json

import msgspec

from ..errors import ConfigError, LogUnavailableError
from ..log import MAX_RECORD_BYTES
from ..names import (
    EVENT_SUBJECTS,
    FEED_SUBJECTS,
    PRESENCE_SUBJECTS,
    REQUEST_SUBJECTS,
    WORK_SUBJECTS,
)
from .deliveries import ACK_WAIT_S
from .pipeline import Pipeline
from .server_config import REQUEST_CONSUMER
from .wire import CONSUMER_NOT_FOUND_CODE, STREAM_NOT_FOUND_CODE, StreamInfo

SECOND_NS = 10**9
PRESENCE_MAX_BYTES = 64 * 1024 * 1024
WORK_MAX_BYTES = 512 * 1024 * 1024

_info_decoder = msgspec.json.Decoder(StreamInfo)


def stream_configs(replicas: int = 1, max_bytes: int | None = None) -> list[dict[str, object]]:
    """Configuration of all streams.

    Args:
        replicas: copies of every message, 1 or 3.
        max_bytes: bytes EVT takes before it refuses, ``None`` for no limit but the disk.
    """
    return [
        {
            "name": "EVT",
            "subjects": [EVENT_SUBJECTS],
            "retention": "limits",
            "storage": "file",
            "compression": "s2",
            "discard": "new",
            "max_age": 0,
            "max_bytes": max_bytes if max_bytes is not None else -1,
            "max_msg_size": MAX_RECORD_BYTES,
            "max_consumers": 4096,
            "duplicate_window": 120 * SECOND_NS,
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
            "allow_atomic": True,
            "allow_rollup_hdrs": False,
            "allow_msg_ttl": False,
            "allow_msg_schedules": False,
            "num_replicas": replicas,
            "republish": {"src": EVENT_SUBJECTS, "dest": FEED_SUBJECTS},
        },
        {
            "name": "WORK",
            "subjects": [WORK_SUBJECTS],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": 86_400 * SECOND_NS,
            "max_bytes": WORK_MAX_BYTES,
            "max_msgs_per_subject": 1,
            "max_consumers": 20_000,
            "num_replicas": replicas,
            # Invitations follow from the log, so a lost one is sent again: no fsync for each.
            **({"persist_mode": "async"} if replicas == 1 else {}),
        },
        {
            "name": "PRESENCE",
            "subjects": [PRESENCE_SUBJECTS],
            "retention": "limits",
            "storage": "memory",
            "discard": "old",
            "max_age": 60 * SECOND_NS,
            "max_bytes": PRESENCE_MAX_BYTES,
            "max_msgs_per_subject": 1,
            "max_msg_size": 4096,
            "max_consumers": 16,
            "allow_direct": True,
            "num_replicas": replicas,
        },
    ]


def request_consumer_config(ack_wait_s: float = ACK_WAIT_S) -> dict[str, object]:
    """The durable consumer that coordinators share; ``ack_wait_s`` is the lease of a request."""
    return {
        "name": REQUEST_CONSUMER,
        "durable_name": REQUEST_CONSUMER,
        "filter_subject": REQUEST_SUBJECTS,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_s * SECOND_NS),
        "max_deliver": -1,
        "max_ack_pending": 10_000,
    }


async def provision(
    pipeline: Pipeline,
    *,
    replicas: int = 1,
    max_bytes: int | None = None,
    ack_wait_s: float = ACK_WAIT_S,
) -> None:
    """Create what is missing and verify what exists; safe to repeat.

    Raises:
        ConfigError: something exists with another configuration; it is left as it is.
        LogUnavailableError: the server did not answer, or refused.
    """
    for config in stream_configs(replicas, max_bytes):
        name = config["name"]
        await _ensure(
            pipeline,
            f"stream {name}",
            f"$JS.API.STREAM.INFO.{name}",
            f"$JS.API.STREAM.CREATE.{name}",
            config,
            config,
        )
    consumer = request_consumer_config(ack_wait_s)
    await _ensure(
        pipeline,
        f"consumer {REQUEST_CONSUMER}",
        f"$JS.API.CONSUMER.INFO.EVT.{REQUEST_CONSUMER}",
        f"$JS.API.CONSUMER.CREATE.EVT.{REQUEST_CONSUMER}",
        {"stream_name": "EVT", "config": consumer},
        consumer,
    )


async def _ensure(
    pipeline: Pipeline,
    what: str,
    info_subject: str,
    create_subject: str,
    request: dict[str, object],
    config: dict[str, object],
) -> None:
    info = _info_decoder.decode((await pipeline.request(info_subject, b"")).data)
    if info.error and info.error.err_code in (STREAM_NOT_FOUND_CODE, CONSUMER_NOT_FOUND_CODE):
        reply = await pipeline.request(create_subject, json.dumps(request).encode())
        info = _info_decoder.decode(reply.data)
    if info.error is not None:
        raise LogUnavailableError(
            f"cannot provision {what}: {info.error.description}",
            hint="Provisioning needs the operator's NATS key and a server with JetStream.",
        )
    for field, wanted in config.items():
        found = info.config.get(field, _absent(wanted))
        if found != wanted:
            raise ConfigError(
                f"{what} exists with {field} = {found!r}, this deployment wants {wanted!r}",
                hint="Change the stream with the nats tool, or the option, so that both agree.",
            )


def _absent(wanted: object) -> object:
    """What a field left out of the server's answer means: false, or nothing."""
    return False if isinstance(wanted, bool) else None
