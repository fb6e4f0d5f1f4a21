"""Who orders: resolution of ordering, f and replicas (specification 1.11 and 5.2)."""

from __future__ import annotations

from typing import Any

import pytest

from mabeam.core.errors import ConfigError
from mabeam.core.ordering import Order, resolve_faults, resolve_order

SEVEN = tuple(f"a-{number}" for number in range(1, 8))


def resolve(**changes: Any) -> Order:
    """Seven participants of a protocol that the log or replicas may order."""
    given: dict[str, Any] = {
        "possible": ("log", "bft"),
        "wanted": None,
        "stated_f": None,
        "fault_tolerance": "low_fault",
        "named": (),
        "participants": SEVEN,
    }
    return resolve_order(**(given | changes))


def test_the_protocol_has_a_default() -> None:
    assert resolve() == Order("log", 0, ())
    assert resolve(possible=("bft",)) == Order("bft", 2, SEVEN)


def test_high_fault_means_replicas() -> None:
    assert resolve(fault_tolerance="high_fault") == Order("bft", 2, SEVEN)


def test_named_replicas_are_sorted_and_counted_once() -> None:
    named = ("a-5", "a-1", "a-3", "a-2", "a-1")
    assert resolve(wanted="bft", named=named) == Order("bft", 1, ("a-1", "a-2", "a-3", "a-5"))


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"possible": ("bft",), "wanted": "log"}, "invalid_config", "ordering"),
        ({"possible": ("log",), "wanted": "bft"}, "invalid_config", "ordering"),
        (
            {"possible": ("log",), "fault_tolerance": "high_fault"},
            "invalid_config",
            "ordering",
        ),
        ({"wanted": "log", "fault_tolerance": "high_fault"}, "invalid_config", "ordering"),
        ({"named": ("a-1",)}, "invalid_config", "replicas"),
        ({"wanted": "bft", "named": ("a-1", "stranger")}, "invalid_config", "replicas"),
        (
            {"wanted": "bft", "stated_f": 0, "fault_tolerance": "high_fault"},
            "invalid_config",
            "f",
        ),
    ],
)
def test_refused(changes: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(**changes)
    assert raised.value.code == code
    assert raised.value.details["field"] == field  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("count", "stated", "faulty"),
    [(4, None, 1), (6, None, 1), (7, None, 2), (7, 1, 1), (100, None, 33), (1, 0, 0), (3, 0, 0)],
)
def test_faults(count: int, stated: int | None, faulty: int) -> None:
    assert resolve_faults(count, stated) == faulty


@pytest.mark.parametrize(
    ("count", "stated", "need"), [(3, None, 4), (4, 2, 7), (6, 2, 7), (0, 0, 1)]
)
def test_too_few(count: int, stated: int | None, need: int) -> None:
    """``f = 2`` with 4 agents needs 7 (worked example 2)."""
    with pytest.raises(ConfigError) as raised:
        resolve_faults(count, stated)
    assert raised.value.code == "insufficient_nodes"
    assert raised.value.details == {"need": need, "have": count}  # type: ignore[attr-defined]


def test_more_replicas_than_anybody_can_wait_for() -> None:
    with pytest.raises(ConfigError, match="at most 100"):
        resolve_faults(101, None)
