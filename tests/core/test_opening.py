"""From a request to the frozen configuration, or to the reason why not (specification 1.12)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from audit_log import AuditLog, deployment, key_of

from mabeam.core.author import encode_body
from mabeam.core.client import Client
from mabeam.core.envelope import MAX_EVENT_BYTES
from mabeam.core.errors import UsageError
from mabeam.core.hashing import tagged_hash
from mabeam.core.identity import verify_certificate
from mabeam.core.kernel_events import (
    AgentKeyRotated,
    AgentRegistered,
    CapabilityQuery,
    CoordinationOpened,
    CoordinationRequested,
    HealthChanged,
    Invitee,
)
from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.names import REGISTRY
from mabeam.core.opening import OpeningError, open_request
from mabeam.protocols import PROTOCOLS


def _open(log: AuditLog, **changes: Any) -> CoordinationOpened:
    wanted = CoordinationRequested(
        "simple_consensus", {"proposal": 1}, (Invitee("a-2"), Invitee("a-1"))
    )
    name = f"c-{len(log.records)}"
    body = msgspec.structs.replace(wanted, **changes)
    log.append("client", "coordination.requested", body, "req", coordination=name)
    request = log.fold(name).request
    assert request is not None
    return open_request(request, log.replay.keyring, "coord-1", PROTOCOLS)


def _refusal(log: AuditLog, **changes: Any) -> OpeningError:
    with pytest.raises(OpeningError) as refused:
        _open(log, **changes)
    return refused.value


def test_what_is_frozen() -> None:
    log = deployment()
    opened = _open(log, participants=(Invitee("a-2", 3), Invitee("a-1")), topic="biopsy")
    assert [(each.agent_id, each.weight) for each in opened.participants] == [
        ("a-1", 1_000_000),
        ("a-2", 3),
    ]
    assert opened.participants[0].key_id == key_of("a-1").key_id
    assert (opened.ordering, opened.f, opened.replicas, opened.topic) == ("log", 0, (), "biopsy")
    assert opened.registry_snapshot.sequence == log.replay.keyring.sequence
    assert opened.registry_snapshot.digest == log.replay.keyring.digest
    assert opened.beacon == tagged_hash("opener", opened.request_id)
    assert opened.config["threshold_ppm"] == 700_000
    certified = [verify_certificate(wire, log.root.public_key).id for wire in opened.certificates]
    assert certified == ["coord-1", "a-1", "a-2"]


@pytest.mark.parametrize(
    ("changes", "code", "details"),
    [
        ({"participants": ()}, "empty_participants", {}),
        (
            {"participants": (Invitee("a-1"), Invitee("a-2"), Invitee("a-1"))},
            "duplicate_participant",
            {"duplicates": ["a-1"]},
        ),
        (
            {"participants": (Invitee("z"), Invitee("a-1"), Invitee("y"), Invitee("client"))},
            "agents_not_found",
            {"missing": ["client", "y", "z"]},
        ),
        ({"protocol": "telepathy"}, "unknown_protocol", {}),
        ({"protocol_version": 2}, "unknown_protocol", {}),
        (
            {"ordering": "bft"},
            "insufficient_nodes",
            {"need": 4, "have": 2},
        ),
        (
            {"fault_tolerance": "high_fault"},
            "insufficient_nodes",
            {"need": 4, "have": 2},
        ),
        ({"f": 1}, "invalid_config", {"field": "f", "bound": "0 with ordering log", "value": "1"}),
        (
            {"config": {}},
            "invalid_config",
            {
                "field": "proposal",
                "bound": "Object missing required field `proposal`",
                "value": "None",
            },
        ),
        (
            {"config": {"proposal": 1, "max_ballots": "3"}},
            "invalid_config",
            {"field": "max_ballots", "bound": "Expected `int`, got `str`", "value": "'3'"},
        ),
        (
            {"config": {"proposal": 1, "volume": 11}},
            "invalid_config",
            {
                "field": "volume",
                "bound": "Object contains unknown field `volume`",
                "value": "11",
            },
        ),
        (
            {"config": {"proposal": 1, "max_ballots": 11}},
            "invalid_config",
            {"field": "max_ballots", "bound": "an integer from 1 to 10", "value": "11"},
        ),
        ({"config": {"proposal": 1, "rule": "loudest"}}, "unknown_rule", None),
        ({"config": {"proposal": 1, "threshold_ppm": 499_999}}, "invalid_threshold", None),
        (
            {"participants": (), "query": CapabilityQuery(("vote",), at_least=4)},
            "insufficient_nodes",
            {"need": 4, "have": 3},
        ),
        (
            {"participants": (), "query": CapabilityQuery(("vote", "fly"))},
            "insufficient_nodes",
            {"need": 1, "have": 0},
        ),
    ],
)
def test_refused(changes: dict[str, Any], code: str, details: dict[str, Any] | None) -> None:
    error = _refusal(deployment(), **changes)
    assert error.failure == code
    body = error.body()
    assert (body.code, body.message) == (code, error.message)
    assert encode_body(body)
    if details is not None:
        assert body.details == details
    else:
        assert set(body.details) == {"field", "bound", "value"}


def _register(log: AuditLog, id: str, *capabilities: str) -> None:
    body = AgentRegistered("n1", capabilities)
    log.append(id, "agent.registered", body, "pub", coordination=REGISTRY)


def _health(log: AuditLog, id: str, health: Any) -> None:
    before = log.replay.keyring.agent(id).health_sequence
    body = HealthChanged(id, health, after_sequence=before)
    log.append("coord-1", "agent.health_changed", body, coordination=REGISTRY)


def _chosen(log: AuditLog, *capabilities: str, **bounds: int) -> list[str]:
    query = CapabilityQuery(capabilities, **bounds)
    return [each.agent_id for each in _open(log, participants=(), query=query).participants]


def test_query_takes_capable_agents_in_order_of_their_ids() -> None:
    log = deployment(5)
    _register(log, "a-4", "vote", "fly")
    _register(log, "a-2", "fly", "vote")
    _register(log, "a-5", "fly")
    assert _chosen(log, "vote", "fly") == ["a-2", "a-4"]
    assert _chosen(log, "vote", at_most=3) == ["a-1", "a-2", "a-3"]
    assert _chosen(log, at_most=2) == ["a-1", "a-2"]


def test_query_passes_over_the_unwell_the_revoked_and_those_that_are_no_agents() -> None:
    log = deployment(5)
    _health(log, "a-1", "overloaded")
    _health(log, "a-2", "unreachable")
    _health(log, "a-3", "healthy")
    log.revoke("a-4")
    log.admit("a-0", "client")
    _register(log, "a-0", "vote")
    assert _chosen(log, "vote") == ["a-3", "a-5"]
    _health(log, "a-1", "healthy")
    assert _chosen(log, "vote") == ["a-1", "a-3", "a-5"]


def test_named_participants_override_a_query_and_may_be_unwell() -> None:
    log = deployment()
    _health(log, "a-1", "unreachable")
    opened = _open(log, query=CapabilityQuery(("fly",)))
    assert [each.agent_id for each in opened.participants] == ["a-1", "a-2"]
    log.revoke("a-1")
    assert _refusal(log).details == {"missing": ["a-1"]}


# Controllers (COM-19) -----------------------------------------------------------------------------


def _owned(owners: dict[str, str]) -> AuditLog:
    """Agents by owner."""
    log = deployment(0)
    for id, owner in owners.items():
        log.admit(id, "agent")
        certificate = log.certify(id, ("agent",), controller=owner)
        log.append("root", "agent.key_rotated", AgentKeyRotated(certificate), coordination=REGISTRY)
    return log


@pytest.mark.parametrize(
    ("weights", "cap_ppm", "expected"),
    [
        # Two agents of one owner hold 80 of 100; capped to 50 they keep their proportion.
        ((60, 20, 20), 500_000, (37, 12, 20)),
        ((60, 20, 20), 1_000_000, (60, 20, 20)),
        ((60, 20, 20), 800_000, (60, 20, 20)),
        ((60, 20, 20), 799_999, (59, 19, 20)),
        # A single participant of a controller is not capped, however heavy.
        ((1, 1, 98), 500_000, (1, 1, 98)),
        # Never below 1.
        ((1, 1, 1), 1, (1, 1, 1)),
    ],
)
def test_controller_cap(weights: tuple[int, ...], cap_ppm: int, expected: tuple[int, ...]) -> None:
    log = _owned({"a-1": "acme", "a-2": "acme", "a-3": "bolt"})
    invitees = tuple(Invitee(f"a-{n}", weight) for n, weight in enumerate(weights, 1))
    opened = _open(log, participants=invitees, controller_cap_ppm=cap_ppm)
    assert tuple(each.weight for each in opened.participants) == expected


def test_one_controller_for_all_is_not_capped() -> None:
    log = _owned({"a-1": "acme", "a-2": "acme"})
    opened = _open(log, controller_cap_ppm=1)
    assert [each.weight for each in opened.participants] == [1_000_000] * 2


# Size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "embedded"), [(100, True), (1000, False)])
def test_many_participants_fit_into_one_event(count: int, embedded: bool) -> None:
    log = deployment(0)
    ids = [f"agent-with-quite-a-long-name-{number:03}" for number in range(count)]
    for id in ids:
        log.admit(id, "agent")
    opened = _open(log, participants=tuple(map(Invitee, ids)), config={"proposal": "x" * 60_000})
    assert len(opened.participants) == count
    assert len(opened.certificates) == (count + 1 if embedded else 0)
    assert len(encode_body(opened)) < MAX_EVENT_BYTES - 1024


def test_a_configuration_too_large_for_an_event_is_refused() -> None:
    figures = {
        "accuracy_ppm": 1,
        "topic_accuracy_ppm": 1,
        "calibration_ppm": 1,
        "reliability_ppm": 1,
    }
    log = deployment(0)
    ids = [f"agent-with-quite-a-long-name-{number:03}" for number in range(1000)]
    for id in ids:
        log.admit(id, "agent")
    config = {
        "proposal": "x" * 60_000,
        "weight_source": "reputation",
        "reputation": dict.fromkeys(ids, figures),
    }
    request = {"participants": tuple(map(Invitee, ids)), "config": {"proposal": 1}}
    name = f"c-{len(log.records)}"
    _open(log, **request)
    stored = log.fold(name).request
    assert stored is not None
    large = msgspec.structs.replace(
        stored, content=msgspec.structs.replace(stored.content, config=config)
    )
    with pytest.raises(OpeningError) as refused:
        open_request(large, log.replay.keyring, "coord-1", PROTOCOLS)
    assert refused.value.failure == "invalid_config"
    assert set(refused.value.details) == {"field", "bound", "value"}


# At the client ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "config", "participants", "options"),
    [
        ("telepathy", {}, ["a-1"], {}),
        ("simple_consensus", {}, ["a-1"], {}),
        ("simple_consensus", {"proposal": 1, "threshold_ppm": 1}, ["a-1"], {}),
        ("simple_consensus", {"proposal": 1}, ["A 1"], {}),
        ("simple_consensus", {"proposal": 1}, ["a-1"], {"coordination": "_registry"}),
        ("simple_consensus", {"proposal": 1}, ["a-1"], {"coordination": "a.b"}),
        ("simple_consensus", {"proposal": object()}, ["a-1"], {}),
    ],
)
async def test_client_refuses_before_anything_is_sent(
    protocol: str, config: dict[str, Any], participants: list[str], options: dict[str, Any]
) -> None:
    log, broker = deployment(), MemoryBroker()
    client = Client(log.author("client"), MemoryTransport(broker), PROTOCOLS, log.root.public_key)
    with pytest.raises(UsageError):
        await client.request(protocol, config, participants, **options)
    assert broker.records == []
