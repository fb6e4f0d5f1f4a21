"""Bounds of the parameters (specification 5.2)."""

from __future__ import annotations

import pytest

from mabeam.core.errors import ConfigError
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.config import complete, group_of
from tests.protocols.byzantine.network import names


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "x"),
        ("proposers", "x"),
        ("f", -1),
        ("view_timeout_ms", 99),
        ("checkpoint_interval", 0),
        ("window", 63),
        ("max_inflight", 129),
        ("batch_max_requests", 0),
        ("batch_delay_ms", -1),
        ("rotation_slots", True),
    ],
)
def test_bounds(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        ByzantineConfig(**{"proposal": 1, field: value})  # type: ignore[arg-type]
    assert getattr(refused.value, "details", {})["field"] == field


def test_the_requester_has_to_propose_if_nobody_else_may() -> None:
    with pytest.raises(ConfigError):
        ByzantineConfig()
    assert ByzantineConfig(mode="service").proposal is None


@pytest.mark.parametrize(("count", "faulty", "need"), [(3, None, 4), (4, 2, 7), (6, 2, 7)])
def test_insufficient_nodes(count: int, faulty: int | None, need: int) -> None:
    with pytest.raises(ConfigError) as refused:
        complete(ByzantineConfig(proposal=1, f=faulty), count)
    assert refused.value.code == "insufficient_nodes"
    assert getattr(refused.value, "details", None) == {"need": need, "have": count}


def test_no_faults_only_if_stated_and_never_with_high_fault() -> None:
    config = complete(ByzantineConfig(proposal=1, f=0), 3)
    assert group_of("c", names(3), config).q == 2
    with pytest.raises(ConfigError):
        complete(ByzantineConfig(proposal=1, f=0), 3, "high_fault")


def test_quorums_intersect_in_an_honest_replica_and_can_be_honest() -> None:
    for count in range(4, 101):
        config = complete(ByzantineConfig(proposal=1), count)
        group = group_of("c", names(count), config)
        assert 2 * group.q - group.n >= group.f + 1
        assert group.q <= group.n - group.f
        assert complete(config, count) == config
