"""Announced endings are judged by what they name, whatever order the log shows a reader."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mabeam.core.author import encode_body
from mabeam.core.errors import PeerProtocolError
from mabeam.core.hashing import merkle_root
from mabeam.core.kernel_events import (
    CoordinationDecided,
    CoordinationFailed,
    Cut,
    DeadlinePassed,
)
from mabeam.core.machine import TERMINAL_KEY, Append, LogEvent
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.endings import timed_out as timeout_failure
from mabeam.protocols.byzantine.events import (
    COMMIT,
    DEADLINE_PASSED,
    HANDOVER,
    OVERALL,
    REFUSED,
    HandoverRequested,
    ProposalRefused,
)
from tests.protocols.byzantine.adversaries import ADVERSARIES, Silent, single
from tests.protocols.byzantine.network import REQUESTER, Network, Node, Schedule, log_event, names

CALM = Schedule(delay_ms=5, late_percent=0, duplicate_percent=0)
ORDERS = 60
replace = msgspec.structs.replace


def announced(append: Append, position: int = 10**6) -> LogEvent:
    """The event in which a coordinator announces an ending, as it comes from the log."""
    data = encode_body(append.body)
    body = msgspec.msgpack.decode(data, type=type(append.body))
    event = log_event(position, "coordinator", append.type, body, append.refs)
    return replace(event, event=replace(event.event, body=data))


def reader(network: Network, events: list[LogEvent]) -> ByzantineCoordinator:
    """An observer who is shown these events in this order."""
    found = ByzantineCoordinator(network.context(""))
    for event in events:
        try:
            found.apply(event)
        except PeerProtocolError:
            continue  # rejected, as by everybody
    return found


def shuffled(network: Network, seed: int) -> list[LogEvent]:
    """The replicas' events in another order, the coordinator's where they were."""
    said = [event for event in network.log if event.author != "coordinator"]
    random.Random(seed).shuffle(said)
    return [*said, *(event for event in network.log if event.author == "coordinator")]


@pytest.mark.parametrize("adversary", ["none", "silent", "twins"])
@pytest.mark.parametrize("count", [4, 6, 7])
def test_a_decision_is_right_in_any_order(count: int, adversary: str) -> None:
    faulty = {} if adversary == "none" else {"r0": ADVERSARIES[adversary]}
    network = Network(count, 3, faulty=faulty)
    assert network.run(network.decided)
    network.run(lambda: False, network.now + 5_000)
    ending = announced(network.terminals[0])
    worded_otherwise = 0
    for seed in range(ORDERS):
        other = reader(network, shuffled(network, seed))
        own = [each for each in other.intents() if each.key == ("terminal",)]
        worded_otherwise += not any(isinstance(e, Append) and e.matches(ending) for e in own)
        assert other.supports(ending), seed
    assert worded_otherwise > ORDERS // 2


def seven_that_decided() -> Network:
    """Seven replicas that decided, all of whose commits are in the log."""
    network = Network(7, 1, schedule=CALM)
    assert network.run(network.decided)
    network.run(lambda: False, network.now + 5_000)
    return network


@pytest.fixture(scope="module")
def decided() -> Network:
    """See :func:`seven_that_decided`."""
    return seven_that_decided()


def outcome_with(**changes: Any) -> Callable[[Append], Append]:
    """Announces an outcome with other values."""

    def change(append: Append) -> Append:
        body = append.body
        assert isinstance(body, CoordinationDecided)
        return replace(append, body=replace(body, outcome=body.outcome | changes))

    return change


def resting_on(*places: int) -> Callable[[Append], Append]:
    """Announces the same value with other commits, named the same everywhere."""

    def change(append: Append) -> Append:
        body = append.body
        assert isinstance(body, CoordinationDecided)
        refs = tuple(append.refs[place] if place < 9 else b"\1" * 32 for place in places)
        cut = Cut(len(refs), merkle_root(list(refs)))
        outcome = body.outcome | {"commit_ids": refs}
        return replace(append, refs=refs, body=replace(body, outcome=outcome, cut=cut))

    return change


FALSE_DECISIONS = (
    resting_on(0, 1, 2, 3),
    resting_on(0, 1, 2, 3, 3),
    resting_on(4, 3, 2, 1, 0),
    resting_on(0, 1, 2, 3, 9),
    resting_on(),
    lambda append: replace(append, refs=append.refs[:-1]),
    outcome_with(proposal="B"),
    outcome_with(view=1),
    outcome_with(primary="r3"),
    outcome_with(not_chosen=[b"\1" * 32]),
    outcome_with(not_chosen="none"),
    outcome_with(not_chosen=[[1]]),
    outcome_with(quality_ppm=1),
    outcome_with(extra=1),
    outcome_with(tolerance={"f": 3}),
)


def check_false_decision(network: Network, change: Callable[[Append], Append]) -> None:
    """The own announcement is right, the changed one is not."""
    own = network.terminals[0]
    observer = reader(network, network.log)
    assert observer.supports(announced(own))
    assert not observer.supports(announced(change(own)))


@pytest.mark.parametrize("change", FALSE_DECISIONS)
def test_a_decision_that_names_no_certificate_or_another_value(
    decided: Network, change: Callable[[Append], Append]
) -> None:
    check_false_decision(decided, change)


def test_commits_of_two_views_are_no_certificate() -> None:
    """One replica commits in view 0, all others in view 1."""

    def cut(node: Node, event: LogEvent) -> bool:
        return event.type == COMMIT and event.content.view == 0 and node.author != "r2"

    network = Network(4, schedule=CALM, cut=cut)
    assert network.run(network.decided)
    network.run(lambda: False, network.now + 5_000)
    observer = reader(network, network.log)
    commits = {(e.content.view, e.author): e.id for e in network.log if e.type == COMMIT}
    own = replace(
        network.terminals[0],
        refs=tuple(commits[0 if author == "r0" else 1, author] for author in names(3)),
    )
    assert not observer.supports(announced(resting_on(0, 1, 2)(own)))


def timed_out(count: int, silent: int, cut: Any = None) -> Network:
    """Replicas that saw the time pass, the first ones silent."""
    faulty = {each: single(Silent) for each in names(count)[count - silent :]}
    network = Network(count, 0, faulty=faulty, schedule=CALM, overall_timeout_ms=1_000, cut=cut)
    network.run(network.decided, 30_000)
    return network


@pytest.mark.parametrize(("count", "silent"), [(4, 1), (4, 2), (7, 3)])
def test_a_time_out_is_right_in_any_order(count: int, silent: int) -> None:
    network = timed_out(count, silent, cut=lambda node, event: event.type != "deadline.passed")
    ending = announced(network.terminals[0])
    for seed in range(ORDERS):
        assert reader(network, shuffled(network, seed)).supports(ending), seed


def failed_with(*, final: bool = False, **changes: Any) -> Callable[[Append], Append]:
    """Announces a failure with other details."""

    def change(append: Append) -> Append:
        body = append.body
        assert isinstance(body, CoordinationFailed)
        return replace(append, body=replace(body, details=body.details | changes, final=final))

    return change


FALSE_TIMEOUTS = (
    lambda append: replace(append, refs=append.refs[:1]),
    lambda append: replace(append, refs=append.refs[::-1]),
    lambda append: replace(append, refs=(b"\1" * 32, *append.refs[1:])),
    failed_with(final=True),
    failed_with(silent=["r0"]),
    failed_with(silent=[["r9"]]),
    failed_with(silent={}),
    failed_with(refused={"r0": "no"}),
    failed_with(refused={"r0": ["no"]}),
    failed_with(refused=[]),
    failed_with(deadline_passed=["r9"]),
    failed_with(insufficient_live_replicas=False),
    failed_with(extra=1),
)


def check_false_timeout(change: Callable[[Append], Append]) -> None:
    """Two of four are silent; the own announcement is right, the changed one is not."""
    network = timed_out(4, 2)
    own = network.terminals[0]
    observer = reader(network, network.log)
    assert observer.supports(announced(own))
    assert not observer.supports(announced(change(own)))


@pytest.mark.parametrize("change", FALSE_TIMEOUTS)
def test_a_time_out_that_the_deadlines_do_not_give(change: Callable[[Append], Append]) -> None:
    check_false_timeout(change)


def test_a_time_out_names_any_reason_of_a_replica_that_refused_twice() -> None:
    """Which of a liar's refusals is the last depends on the order; that it signed them does not."""
    network = Network(4, 0, schedule=CALM)
    said = [
        log_event(1 + number, "r3", REFUSED, ProposalRefused(0, 1, bytes(32), reason), (), number)
        for number, reason in enumerate(("too dear", "too late"))
    ]
    deadlines = [
        log_event(9 + number, name, DEADLINE_PASSED, DeadlinePassed(OVERALL), (), 2)
        for number, name in enumerate(names(4))
    ]
    one, other = reader(network, said + deadlines), reader(network, said[::-1] + deadlines)
    (own,) = [each for each in one.intents() if isinstance(each, Append)]
    (otherwise,) = [each for each in other.intents() if isinstance(each, Append)]
    assert own != otherwise
    for observer in (one, other):
        assert observer.supports(announced(own))
        assert observer.supports(announced(otherwise))
        assert not observer.supports(announced(failed_with(refused={"r3": "no"})(own)))


def check_decision_beats_failure(network: Network) -> None:
    """Deadlines after a decision end nothing."""
    late = [
        log_event(10**5 + number, name, DEADLINE_PASSED, DeadlinePassed(OVERALL), (), 10**3)
        for number, name in enumerate(names(3))
    ]
    observer = reader(network, [*network.log, *late])
    body = timeout_failure(network.group, {e.author: e for e in late}, (), {}, final=False)
    refs = tuple(sorted(event.id for event in late))
    failure = announced(Append(TERMINAL_KEY, "coordination.failed", body, refs))
    assert not observer.supports(failure)
    undecided = reader(network, late)
    assert undecided.supports(failure)


def test_a_known_decision_beats_a_failure(decided: Network) -> None:
    check_decision_beats_failure(decided)


def test_it_is_told_when_what_it_names_has_arrived(decided: Network) -> None:
    ending = announced(decided.terminals[0])
    last = next(event for event in decided.log if event.id == ending.event.header.refs[-1])
    observer = reader(decided, [event for event in decided.log if event is not last])
    assert not observer.supports(ending)
    observer.apply(last)
    assert observer.supports(ending)


def handed_over() -> Network:
    """A service whose requester handed it over after a few slots."""
    config = ByzantineConfig(mode="service", checkpoint_interval=2, batch_delay_ms=0)
    network = Network(4, 2, config, schedule=CALM)
    for number in range(4):
        network.submit("r2", number, number, at=100 * number)
    asks = next(node for node in network.nodes if node.author == REQUESTER)

    def ask() -> None:
        asks.sign(HANDOVER, HandoverRequested("c-2"))
        asks.react()

    network.at(1_000, ask)
    assert network.run(lambda: all(node.machine.is_done() for node in network.nodes))
    network.run(lambda: False, network.now + 5_000)
    return network


def test_a_handover_is_right_in_any_order_and_needs_both_certificates() -> None:
    network = handed_over()
    own = network.terminals[0]
    for seed in range(ORDERS):
        other = reader(network, shuffled(network, seed))
        for _ in range(9):
            events = (network.find(each) for each in sorted(other.wanted()))
            for event in [each for each in events if each is not None]:
                other.apply(event)
        assert other.supports(announced(own)), seed
    observer = reader(network, network.log)
    quorum = network.group.q
    assert len(own.refs) == 2 * quorum
    for refs in (
        own.refs[:quorum],
        own.refs[quorum:],
        own.refs[:-1],
        own.refs[1:],
        (*own.refs[:-1], own.refs[-2]),
        own.refs[quorum:] + own.refs[:quorum],
    ):
        assert isinstance(own.body, CoordinationDecided)
        commits = tuple(each for each in refs if each in own.refs[:quorum])
        points = tuple(each for each in refs if each in own.refs[quorum:])
        outcome = own.body.outcome | {"commit_ids": commits, "checkpoint_ids": points}
        cut = Cut(len(refs), merkle_root(list(refs)))
        body = replace(own.body, outcome=outcome, cut=cut)
        assert not observer.supports(announced(replace(own, refs=refs, body=body)))
    assert not observer.supports(announced(outcome_with(successor="c-3")(own)))
