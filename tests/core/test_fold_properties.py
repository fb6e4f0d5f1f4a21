"""Properties of the fold: what is stored twice, late or by strangers never moves an outcome."""

from __future__ import annotations

import msgspec
from audit_log import AuditLog, deployment, vote
from hypothesis import given, settings
from hypothesis import strategies as st

from mabeam.core.kernel_events import CancelRequested, DeadlinePassed
from mabeam.core.log import Record
from mabeam.core.machine import LogEvent
from mabeam.core.replay import Replay, Verdict
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST

AGENTS = ("a-1", "a-2", "a-3", "a-4")
options = st.lists(st.sampled_from(["agree", "disagree", "abstain"]), min_size=4, max_size=4)


def _played(votes: list[str]) -> AuditLog:
    """A whole coordination with these votes, its deadline included."""
    log = deployment(4)
    log.request(AGENTS, threshold_ppm=600_000)
    log.claim()
    log.open()
    log.advance()
    for agent, option in zip(AGENTS, votes, strict=True):
        log.vote(agent, option)
    log.advance()
    return log


def _late(log: AuditLog, choice: int) -> None:
    """One of the things that may still arrive after the end."""
    agent = AGENTS[choice % 4]
    if choice % 3 == 0:
        log.append("client", "coordination.cancel_requested", CancelRequested(), "pub")
    elif choice % 3 == 1:
        log.append("coord-1", "deadline.passed", DeadlinePassed("ballot", 1))
    else:
        log.append(agent, VOTE_CAST, vote("disagree" if choice % 2 else "agree"), "pub")


def _again(records: list[Record]) -> list[Record]:
    """The same records under contiguous sequences."""
    return [
        msgspec.structs.replace(record, sequence=number) for number, record in enumerate(records, 1)
    ]


def _terminal(log: AuditLog, found: list[Verdict]) -> bytes:
    ends = [
        each.event
        for each in found
        if each.event is not None
        and each.event.type == "coordination.decided"
        and each.rejection is None
    ]
    assert len(ends) == 1
    return ends[0].event.wire


@settings(max_examples=40, deadline=None)
@given(options, st.data())
def test_events_stored_twice_count_once(votes: list[str], data: st.DataObject) -> None:
    """Copies go behind everything: sequences before them, and with them ``inputs_upto``, stay."""
    log = _played(votes)
    end = _terminal(log, Replay(log.root.public_key, PROTOCOLS).feed(log.records))
    copies = data.draw(st.lists(st.sampled_from(log.records), max_size=8))
    found = Replay(log.root.public_key, PROTOCOLS).feed(_again([*log.records, *copies]))
    assert _terminal(log, found) == end
    assert all(each.rejection is not None for each in found[len(log.records) :])


@settings(max_examples=40, deadline=None)
@given(options, st.integers(0, 3), st.data())
def test_copies_among_the_votes_do_not_change_the_decision(
    votes: list[str], after: int, data: st.DataObject
) -> None:
    plain, log = _played(votes), deployment(4)
    log.request(AGENTS, threshold_ppm=600_000)
    log.claim()
    log.open()
    log.advance()
    for number, (agent, option) in enumerate(zip(AGENTS, votes, strict=True)):
        log.vote(agent, option)
        if number == after:
            copies = data.draw(st.lists(st.sampled_from(log.records), min_size=1, max_size=4))
            for copy in copies:
                log.store(copy.wire, copy.subject)
    log.advance()
    first, second = plain.fold().terminal, log.fold().terminal
    assert first is not None
    assert second is not None
    assert first.content.outcome == second.content.outcome


@settings(max_examples=40, deadline=None)
@given(options, st.lists(st.integers(0, 11), max_size=10))
def test_events_after_the_cut_change_nothing(votes: list[str], late: list[int]) -> None:
    log = _played(votes)
    stored = len(log.records)
    end = log.fold().terminal
    for choice in late:
        _late(log, choice)
    found = Replay(log.root.public_key, PROTOCOLS).feed(log.records)
    assert end is not None
    assert _terminal(log, found) == end.event.wire
    assert all(each.rejection is not None for each in found[stored:])


@settings(max_examples=25, deadline=None)
@given(options, st.integers(1, 3), st.integers(1, 5))
def test_forgetting_and_restoring_changes_nothing(
    votes: list[str], capacity: int, batch: int
) -> None:
    """A replay that keeps few coordinations in memory judges every record the same way."""
    log = _played(votes)
    for number in range(4):
        log.request(AGENTS, coordination=f"other-{number}")
    log.vote("a-1", "disagree")
    whole = Replay(log.root.public_key, PROTOCOLS).feed(log.records)
    small = Replay(log.root.public_key, PROTOCOLS, capacity=capacity)
    found: list[Verdict] = []
    for at in range(0, len(log.records), batch):
        for record in log.records[at : at + batch]:
            for name in small.unknown([record]):
                small.restore(name, _history(found, name))
            found += small.feed([record])
    assert [each.rejection for each in found] == [each.rejection for each in whole]


def _history(found: list[Verdict], name: str) -> list[LogEvent]:
    return [each.event for each in found if each.event and each.event.coordination == name]
