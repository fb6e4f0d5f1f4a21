"""nats-server configuration with two accounts: JetStream in ``BUS``, agents in ``AGENTS``.

Agents see the log only through account imports. In one shared account an agent could name another
author's subject as the reply of its own publish and have the server's acknowledgement stored there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ..names import PREFIX, check_id, presence_subject

Role = Literal["agent", "client", "coordinator", "projector", "operator"]

MAX_PAYLOAD_BYTES = 1024 * 1024
"""Largest message on a connection; the streams take less."""

REQUEST_CONSUMER = "requests"
"""Durable consumer all coordinators share."""

_BUS_ROLES = frozenset({"coordinator", "projector", "operator"})

_SERVICES = (
    (f"{PREFIX}.evt.*.pub.*.*.*", False),
    (f"{PREFIX}.evt.*.req.*.*.*", False),
    (f"{PREFIX}.presence.*.*", False),
    ("$JS.API.DIRECT.GET.EVT", True),
    ("$JS.API.CONSUMER.MSG.NEXT.WORK.*", True),
    ("$JS.ACK.WORK.>", False),
)
"""What ``AGENTS`` imports from ``BUS``: subject, and whether one request gets many replies."""

_READ_LOG = (
    "$JS.API.STREAM.INFO.EVT",
    "$JS.API.STREAM.MSG.GET.EVT",
    "$JS.API.DIRECT.GET.EVT",
    "$JS.API.CONSUMER.CREATE.EVT.>",
    "$JS.API.CONSUMER.DELETE.EVT.*",
    "$JS.API.CONSUMER.MSG.NEXT.EVT.*",
)

_COORDINATE = (
    f"{PREFIX}.work.>",
    f"$JS.API.CONSUMER.INFO.EVT.{REQUEST_CONSUMER}",
    f"$JS.ACK.EVT.{REQUEST_CONSUMER}.>",
    f"$JS.ACK.*.*.EVT.{REQUEST_CONSUMER}.>",
    "$JS.API.CONSUMER.CREATE.WORK.>",
    "$JS.API.CONSUMER.INFO.WORK.*",
    "$JS.API.DIRECT.GET.PRESENCE",
)


class Member(msgspec.Struct, frozen=True):
    """One daemon or person that may connect.

    Attributes:
        id: identifier; the author token of its subjects.
        node: node token of its subjects.
        roles: what it may do; rights of several roles add up.
        nkey: public NATS user key (``U…``).
    """

    id: str
    node: str
    roles: frozenset[Role]
    nkey: str


class Cluster(msgspec.Struct, frozen=True):
    """Peers of one clustered server: cluster name, own listen address, URLs of all routes."""

    name: str
    listen: str
    routes: tuple[str, ...]


class ServerSettings(msgspec.Struct, frozen=True):
    """Everything about one server that is not about its users.

    Attributes:
        server_name: unique within the cluster.
        listen: ``host:port`` for clients.
        http: ``host:port`` of the monitoring pages, or ``None``.
        store_dir: directory of the streams.
        max_file_bytes: disk quota of JetStream, or ``None`` for the server's default.
        cluster: peers, or ``None`` for a single server.
    """

    server_name: str = "mabeam"
    listen: str = "127.0.0.1:4222"
    http: str | None = "127.0.0.1:8222"
    store_dir: Path | None = None
    max_file_bytes: int | None = None
    cluster: Cluster | None = None


def inbox_name(node: str, agent: str) -> str:
    """Name of the consumer that holds an agent's invitations.

    ``=`` cannot occur in an identifier; with ``_`` two agents could share one name.
    """
    return f"{check_id(node, 'node')}={check_id(agent)}"


def inbox_prefix(member_id: str) -> str:
    """Prefix of all reply subjects of one connection; nobody else may subscribe to it."""
    return f"_INBOX_{check_id(member_id)}"


def publish_subjects(member: Member) -> list[str]:
    """Subjects on which ``member`` may publish."""
    node, own = check_id(member.node, "node"), check_id(member.id)
    subjects = [f"{PREFIX}.evt.*.pub.*.{node}.{own}"]
    if member.roles & {"client", "coordinator"}:
        subjects.append(f"{PREFIX}.evt.*.req.*.{node}.{own}")
    if "coordinator" in member.roles:
        subjects += [f"{PREFIX}.evt.*.ctl.*.{node}.{own}", *_COORDINATE]
    if member.roles & {"coordinator", "projector"}:
        subjects += _READ_LOG
    if member.roles & {"agent", "client"}:
        consumer = inbox_name(node, own)
        subjects += [
            presence_subject(node, own),
            "$JS.API.DIRECT.GET.EVT",
            f"$JS.API.CONSUMER.MSG.NEXT.WORK.{consumer}",
            f"$JS.ACK.WORK.{consumer}.>",
            f"$JS.ACK.*.*.WORK.{consumer}.>",
        ]
    return list(dict.fromkeys(subjects))


def subscribe_subjects(member: Member) -> list[str]:
    """Subjects to which ``member`` may subscribe."""
    subjects = [f"{inbox_prefix(member.id)}.>", f"{PREFIX}.feed.>"]
    if "coordinator" in member.roles:
        subjects.append(f"{PREFIX}.presence.>")
    return subjects


def server_config(
    members: Sequence[Member],
    settings: ServerSettings,
    *,
    system_nkey: str | None = None,
) -> str:
    """The configuration text of one server.

    Args:
        members: everybody who may connect.
        settings: this server's addresses and limits.
        system_nkey: public key of the user of the system account, if it shall have one.
    """
    bus = [m for m in members if m.roles & _BUS_ROLES]
    agents = [m for m in members if not m.roles & _BUS_ROLES]
    system_users = f"{{ nkey: {system_nkey} }}" if system_nkey else ""
    return "\n".join(
        [
            *_server_lines(settings),
            "feature_flags { js_ack_fc_v2: false }",
            "system_account: SYS",
            "accounts {",
            f"  SYS {{ users: [ {system_users} ] }}",
            "  BUS {",
            "    jetstream: enabled",
            *_user_lines(bus),
            "    exports: [",
            *(f"      {{ {_export(s, many)} }}" for s, many in _SERVICES),
            f'      {{ stream: "{PREFIX}.feed.>", accounts: [AGENTS] }}',
            "    ]",
            "  }",
            "  AGENTS {",
            *_user_lines(agents),
            "    imports: [",
            *(f'      {{ service: {{ account: BUS, subject: "{s}" }} }}' for s, _ in _SERVICES),
            f'      {{ stream: {{ account: BUS, subject: "{PREFIX}.feed.>" }} }}',
            "    ]",
            "  }",
            "}",
            "",
        ]
    )


def _server_lines(settings: ServerSettings) -> list[str]:
    store = [f"store_dir: {json.dumps(str(settings.store_dir))}"] if settings.store_dir else []
    quota = [f"max_file: {settings.max_file_bytes}"] if settings.max_file_bytes else []
    lines = [
        f"server_name: {json.dumps(settings.server_name)}",
        f"listen: {json.dumps(settings.listen)}",
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        f"jetstream {{ {', '.join([*store, *quota, 'sync_interval: always'])} }}",
    ]
    if settings.http:
        lines.append(f"http: {json.dumps(settings.http)}")
    if settings.cluster:
        lines += [
            "cluster {",
            f"  name: {json.dumps(settings.cluster.name)}",
            f"  listen: {json.dumps(settings.cluster.listen)}",
            f"  routes: {json.dumps(list(settings.cluster.routes))}",
            "}",
        ]
    return lines


def _user_lines(members: Sequence[Member]) -> list[str]:
    return ["    users: [", *(f"      {_user(member)}" for member in members), "    ]"]


def _user(member: Member) -> str:
    if "operator" in member.roles:
        return f"{{ nkey: {member.nkey} }}"
    publish = json.dumps(publish_subjects(member))
    subscribe = json.dumps(subscribe_subjects(member))
    return (
        f"{{ nkey: {member.nkey}, permissions: {{ "
        f"publish: {{ allow: {publish} }}, subscribe: {{ allow: {subscribe} }} }} }}"
    )


def _export(subject: str, many: bool) -> str:
    replies = ", response: stream" if many else ""
    return f'service: "{subject}"{replies}, accounts: [AGENTS]'
