"""The worked examples 5.12 that concern the machines, and the whole coordinations around them."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from mabeam.core.errors import ConfigError
from mabeam.core.kernel_events import CoordinationDecided, CoordinationFailed
from mabeam.core.machine import LogEvent
from mabeam.protocols.byzantine import ByzantineConfig, ByzantineOutcome, Verdict
from mabeam.protocols.byzantine.config import complete
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.events import COMMIT, PRE_PREPARE, PREPARE
from mabeam.protocols.byzantine.outcome import is_final
from mabeam.protocols.tolerance import replica_quorum
from tests.protocols.byzantine.adversaries import Silent, single
from tests.protocols.byzantine.network import Network, Node, Schedule, group_for, names

CALM = Schedule(delay_ms=5, late_percent=0, duplicate_percent=0)
SPEC_TIMES = ByzantineConfig(proposal="A")


def outcome_of(network: Network) -> ByzantineOutcome:
    """The outcome of the only terminal event."""
    (terminal,) = network.terminals
    assert isinstance(terminal.body, CoordinationDecided)
    return msgspec.convert(terminal.body.outcome, ByzantineOutcome)


def test_example_1_all_honest() -> None:
    network = Network(4, schedule=CALM)
    assert network.run(network.decided)
    found = outcome_of(network)
    assert (found.proposal, found.view, found.sequence, found.primary) == ("A", 0, 1, "r0")
    label = found.tolerance
    assert (label.ordering, label.n, label.f, label.q) == ("bft", 4, 1, 3)
    assert label.assumes == ("at_most_f_byzantine", "partial_synchrony")
    assert len(found.commit_ids) == 3


def test_example_1_service_sends_eight_messages_per_slot() -> None:
    config = ByzantineConfig(
        mode="service", checkpoint_interval=3, batch_max_requests=1, batch_delay_ms=0
    )
    network = Network(4, config=config, schedule=CALM)
    for number in range(6):
        network.submit("r1", number, number, at=500 * number)
    assert network.run(network.executed(6))
    network.run(lambda: False, 5_000)
    counts = Counter(event.type for event in network.log)
    assert (counts[PRE_PREPARE], counts[PREPARE], counts[COMMIT]) == (6, 18, 24)
    assert counts["byzantine.checkpoint_taken"] == 8
    assert sum(counts.values()) == 6 + 6 * 8 + 8
    assert {node.machine.executor.root for node in network.nodes} == {
        network.observer.executor.root
    }
    assert all(node.machine.checkpoints.stable == 6 for node in network.nodes)


def test_example_2_quorums() -> None:
    sizes = {(6, 1): 4, (18, 5): 12, (20, 6): 14, (100, 33): 67, (4, 1): 3}
    assert {key: replica_quorum(*key) for key in sizes} == sizes
    assert group_for(6).q == 4
    with pytest.raises(ConfigError) as refused:
        complete(ByzantineConfig(proposal="A", f=2), 4)
    assert refused.value.code == "insufficient_nodes"
    assert getattr(refused.value, "details", None) == {"need": 7, "have": 4}


@pytest.mark.parametrize(("silent", "view", "after_ms"), [(1, 1, 15_000), (2, 2, 45_000)])
def test_example_3_silent_primaries(silent: int, view: int, after_ms: int) -> None:
    faulty = {each: single(Silent) for each in names(silent)}
    network = Network(7, 0, SPEC_TIMES, faulty, schedule=CALM, overall_timeout_ms=60_000)
    assert network.run(network.decided)
    assert after_ms <= network.now < after_ms + 1_000
    found = outcome_of(network)
    assert (found.view, found.primary, found.views_used) == (view, f"r{view}", view + 1)


@pytest.mark.parametrize(("count", "silent", "final"), [(7, 3, False), (4, 2, False)])
def test_example_4_too_many_silent(count: int, silent: int, final: bool) -> None:
    faulty = {each: single(Silent) for each in names(silent)}
    network = Network(count, 0, SPEC_TIMES, faulty, schedule=CALM, overall_timeout_ms=60_000)
    assert not network.run(network.decided, 100_000)
    (terminal,) = network.terminals
    assert isinstance(terminal.body, CoordinationFailed)
    assert (terminal.body.code, terminal.body.final) == ("timeout", final)
    assert terminal.body.details["silent"] == list(names(silent))


def test_example_4_one_silent_and_three_deadlines_are_final() -> None:
    four, seven = group_for(4), group_for(7)
    assert is_final(four, names(4)[1:], [])
    assert not is_final(four, names(4)[1:], [{"r1", "r2"}])
    assert not is_final(seven, names(7)[3:], [])

    def no_votes(node: Node, event: LogEvent) -> bool:
        return event.type == PRE_PREPARE

    network = Network(
        4, 0, SPEC_TIMES, {"r3": single(Silent)}, schedule=CALM, overall_timeout_ms=1_000,
        cut=no_votes,
    )  # fmt: skip
    network.run(network.decided, 20_000)
    (terminal,) = network.terminals
    assert isinstance(terminal.body, CoordinationFailed)
    assert terminal.body.final


def test_a_certificate_replaces_a_failure_that_was_not_final() -> None:
    network = Network(4, schedule=CALM)
    assert network.run(network.decided)
    late = ByzantineCoordinator(network.context(""))
    commits = [event for event in network.log if event.type == COMMIT]
    for event in network.log:
        if event not in commits:
            late.apply(event)
    assert not late.is_decided
    for event in commits:
        late.apply(event)
    assert late.is_decided


def test_example_5_one_committed_the_others_only_prepared() -> None:
    def cut(node: Node, event: LogEvent) -> bool:
        return event.type == COMMIT and event.content.view == 0 and node.author != "r2"

    network = Network(4, schedule=CALM, cut=cut)
    assert network.run(network.decided)
    assert network.nodes[2].machine.executor.decisions[1].view == 0
    for number in (0, 1, 3):
        assert network.nodes[number].machine.executor.decisions[1].view == 1
    network.finish()


def test_every_permutation_of_the_log_decides_the_same() -> None:
    network = Network(4, 5, faulty={"r0": single(Silent)})
    assert network.run(network.decided)
    network.run(lambda: False, network.now + 5_000)
    wanted = [(slot.sequence, slot.digest) for slot in network.observer.executor.log]
    for _ in range(200):
        order = network.log * 2
        network.random.shuffle(order)
        reader = ByzantineCoordinator(network.context(""))
        for event in order:
            reader.apply(event)
        assert [(slot.sequence, slot.digest) for slot in reader.executor.log] == wanted


def test_an_agent_that_refuses_stays_silent() -> None:
    network = Network(4, schedule=CALM)
    network.verdicts["r2"] = Verdict.refuse("not for me")
    assert network.run(network.decided)
    assert not any(event.type == PREPARE and event.author == "r2" for event in network.log)
    assert network.observer.refusals == {"r2": "not for me"}


def test_a_planned_rotation_changes_the_primary_and_loses_nothing() -> None:
    config = ByzantineConfig(
        mode="service", checkpoint_interval=2, batch_max_requests=1, batch_delay_ms=0,
        rotation_slots=2,
    )  # fmt: skip
    network = Network(4, config=config, schedule=CALM)
    for number in range(8):
        network.submit("r1", number, number, at=500 * number)
    assert network.run(network.executed(8))
    network.finish()
    proposers = {event.author for event in network.log if event.type == PRE_PREPARE}
    assert len(proposers) >= 3
    assert network.now < 8 * 500 + 5_000
