"""Pure parts: keys, configuration text, subjects, times, acknowledgement subjects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nkeys
import pytest

from mabeam.core.bus.nkey import encode_user_seed, user_public_key
from mabeam.core.bus.server_config import (
    Cluster,
    Member,
    ServerSettings,
    inbox_name,
    publish_subjects,
    server_config,
    subscribe_subjects,
)
from mabeam.core.bus.wire import parse_ack_subject, parse_time_ns
from mabeam.core.errors import UsageError
from mabeam.infra.nats_server import find_nats_server


@pytest.mark.parametrize("seed", [bytes(32), bytes(range(32)), b"\xff" * 32])
def test_keys_are_those_of_the_nkeys_library(seed: bytes) -> None:
    assert encode_user_seed(seed) == nkeys.encode_seed(seed, nkeys.PREFIX_BYTE_USER).decode()
    pair = nkeys.from_seed(bytearray(encode_user_seed(seed).encode()))
    assert user_public_key(seed) == pair.public_key.decode()


@pytest.mark.parametrize(
    ("reply", "tokens"),
    [
        ("$JS.ACK.EVT.c.2.17.9.1700000000000000001.3", (2, 17, 1700000000000000001)),
        ("$JS.ACK._.Hash.EVT.c.1.18.9.1700000000000000002.3", (1, 18, 1700000000000000002)),
        ("$JS.ACK.hub.Hash.EVT.c.1.19.9.1700000000000000003.3.rnd", (1, 19, 1700000000000000003)),
    ],
)
def test_acknowledgement_subjects(reply: str, tokens: tuple[int, int, int]) -> None:
    assert parse_ack_subject(reply) == tokens


@pytest.mark.parametrize("reply", ["", "$JS.ACK.EVT", "a.b.c.d.e.f.g.h.i.j"])
def test_other_subjects_are_no_acknowledgements(reply: str) -> None:
    with pytest.raises(ValueError, match="not an acknowledgement"):
        parse_ack_subject(reply)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2001-09-09T01:46:40.000000001Z", 10**18 + 1),
        ("2001-09-09T01:46:40.123456789Z", 10**18 + 123_456_789),
    ],
)
def test_times(text: str, nanoseconds: int) -> None:
    assert parse_time_ns(text) == nanoseconds


def _member(name: str, *roles: str) -> Member:
    return Member(name, "n1", frozenset(roles), user_public_key(name.ljust(32).encode()))  # type: ignore[arg-type]


def test_inbox_names_cannot_collide() -> None:
    assert inbox_name("a_b", "c") != inbox_name("a", "b_c")
    with pytest.raises(UsageError):
        inbox_name("a=b", "c")


def test_rights_of_several_roles_add_up() -> None:
    both = set(publish_subjects(_member("x", "agent", "coordinator")))
    assert both == {
        *publish_subjects(_member("x", "agent")),
        *publish_subjects(_member("x", "coordinator")),
    }


def test_agents_write_as_themselves_only() -> None:
    for subject in publish_subjects(_member("ann", "agent")):
        assert subject == "$JS.API.DIRECT.GET.EVT" or ".ann" in subject or "=ann" in subject
    assert subscribe_subjects(_member("ann", "agent")) == ["_INBOX_ann.>", "mabeam.v1.feed.>"]


@pytest.mark.parametrize("clustered", [False, True])
def test_the_server_accepts_the_configuration(tmp_path: Path, clustered: bool) -> None:
    members = [
        _member("op", "operator"),
        _member("co", "coordinator"),
        _member("pr", "projector"),
        _member("cl", "client"),
        _member("ag", "agent"),
        _member("daemon", "agent", "coordinator", "projector"),
    ]
    routes = ("nats-route://a:6222", "nats-route://b:6222")
    settings = ServerSettings(
        store_dir=tmp_path / "a b",
        max_file_bytes=10**9,
        cluster=Cluster("mabeam", "127.0.0.1:6222", routes) if clustered else None,
    )
    system_nkey = user_public_key(b"s" * 32)
    for chosen in (members, []):
        path = tmp_path / "nats.conf"
        path.write_text(server_config(chosen, settings, system_nkey=system_nkey))
        check = [str(find_nats_server()), "-t", "-c", str(path)]
        assert subprocess.run(check, capture_output=True, text=True, check=False).returncode == 0
