"""The tolerance label never claims more than the ordering gives (COM-19, COM-27)."""

from __future__ import annotations

from mabeam.protocols.simple import SimpleConfig
from mabeam.protocols.tolerance import replica_quorum, tolerance
from tests.protocols.simple.ballot_world import context_for

SEVEN = {f"v{number}": 1 for number in range(7)}


def test_log_ordering_tolerates_crashes_only() -> None:
    opened = context_for(SEVEN, SimpleConfig(proposal=1)).opened
    label = tolerance(opened, 5)
    assert (label.ordering, label.n, label.f, label.q) == ("log", 7, 0, 5)
    assert label.assumes == ("crash_only", "operator_order")


def test_bft_ordering_claims_what_the_replicas_give() -> None:
    opened = context_for(SEVEN, SimpleConfig(proposal=1), ordering="bft").opened
    label = tolerance(opened, 99, "stated_confidence")
    assert (label.ordering, label.n, label.f, label.q) == ("bft", 7, 2, 5)
    assert label.assumes == ("at_most_f_byzantine", "partial_synchrony", "stated_confidence")


def test_a_single_controller_is_named() -> None:
    owners = dict.fromkeys(SEVEN, "acme")
    opened = context_for(SEVEN, SimpleConfig(proposal=1), controllers=owners).opened
    assert "single_controller" in tolerance(opened, 1).assumes


def test_two_quorums_share_an_honest_replica() -> None:
    for faulty in range(1, 20):
        for replicas in range(3 * faulty + 1, 3 * faulty + 5):
            quorum = replica_quorum(replicas, faulty)
            assert 2 * quorum - replicas >= faulty + 1
            assert quorum <= replicas - faulty
