"""What single liars and careless clients do: they cost neither memory nor anybody's time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.msgpack import Ext
from msgspec.structs import replace

from mabeam.core.author import Author, encode_body
from mabeam.core.envelope import MAX_EVENT_BYTES, MAX_REFS
from mabeam.core.errors import InvalidFieldError
from mabeam.core.identity import KeyPair
from mabeam.core.kernel_events import CoordinationDecided, DeadlinePassed
from mabeam.core.machine import Append, LogEvent
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.config import complete, largest_window
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.digests import MAX_OPERATION_BYTES, batch_digest
from mabeam.protocols.byzantine.events import (
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PRE_PREPARE,
    PREPARE,
    REFUSED,
    REQUEST,
    VIEW_CHANGE,
    CommitSent,
    NewViewSent,
    PreparedEntry,
    PrepareSent,
    PrePrepareSent,
    ProposalRefused,
    RequestSubmitted,
    SlotProposal,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.outcome import MAX_NOT_CHOSEN
from mabeam.protocols.byzantine.views import MAX_HELD_PER_SENDER
from mabeam.protocols.tolerance import replica_quorum
from tests.protocols.byzantine.network import (
    COORDINATION,
    Network,
    Schedule,
    context_for,
    names,
)
from tests.protocols.byzantine.test_endings import announced
from tests.protocols.byzantine.test_rules import Bench

ONE_EACH = ByzantineConfig(mode="service", batch_delay_ms=0, batch_max_requests=1)
MANY = 500


@pytest.mark.parametrize("count", [4, 7, 20, 100])
def test_the_largest_view_change_fits_into_an_event(count: int) -> None:
    frozen = complete(ByzantineConfig(proposal="A"), count)
    assert frozen.f is not None
    quorum = replica_quorum(count, frozen.f)
    most = largest_window(quorum)
    ids = (b"\xff" * 32,) * quorum
    entries = tuple(
        PreparedEntry(2**40 + slot, 2**40, ids[0], ids[0], ids[1:]) for slot in range(most)
    )
    author = Author("r3", "n", KeyPair(bytes(32)), lambda: 2**62)
    author.sign("c" * 32, bytes(32), VIEW_CHANGE, ViewChangeSent(2**40, 2**40, ids, entries))
    assert frozen.window is not None
    assert frozen.window <= most


@pytest.mark.parametrize("change", [{"window": 1_261}, {"checkpoint_interval": 1_261}])
def test_a_window_that_no_view_change_can_tell_of(change: dict[str, int]) -> None:
    with pytest.raises(InvalidFieldError) as raised:
        complete(ByzantineConfig(mode="service", **change), 4)  # type: ignore[arg-type]
    assert raised.value.details["field"] in change


@pytest.mark.parametrize("gap_ms", range(1, 60, 7))
def test_a_client_that_overtakes_itself_delays_nobody(gap_ms: int) -> None:
    for seed in range(8):
        network = Network(4, seed, ONE_EACH, schedule=Schedule(40, 0, 0, 0))
        network.submit("r3", "later", client_seq=2, at=10)
        network.submit("r3", "earlier", client_seq=1, at=10 + gap_ms)
        network.submit("r2", "innocent", client_seq=1, at=400)
        assert network.run(network.executed(2))
        assert network.now < ONE_EACH.view_timeout_ms


def _signs(bench: Bench) -> list[Append]:
    """Everything the machine intends to sign now, signed and folded."""
    signed = []
    for _ in range(9):
        due = [intent for intent in bench.machine.intents() if isinstance(intent, Append)]
        for append in due:
            bench.apply(bench.event(bench.machine.context.author, append.type, append.body))
            signed.append(append)
    return signed


def test_what_a_new_view_carries_over_is_not_proposed_again() -> None:
    """r2 leads view 2 and knows slot 1 from NEW-VIEW 1 alone, then its batch arrives."""
    bench = Bench(4, "r2", ONE_EACH)
    request = bench.event("r3", REQUEST, RequestSubmitted(1, "op"))
    digest = batch_digest(COORDINATION, (request.id,))
    old = bench.event("r0", PRE_PREPARE, PrePrepareSent(0, 1, digest, (request.id,)))
    prepares = [bench.event(each, PREPARE, PrepareSent(0, 1, digest)) for each in ("r1", "r3")]
    entry = PreparedEntry(1, 0, digest, old.id, tuple(each.id for each in prepares))
    changes = [
        bench.event(each, VIEW_CHANGE, ViewChangeSent(1, 0, (), (entry,) if each != "r0" else ()))
        for each in ("r0", "r1", "r3")
    ]
    ids = tuple(each.id for each in changes)
    new_view = bench.event("r1", NEW_VIEW, NewViewSent(1, ids, (SlotProposal(1, digest),)))
    prepares = [bench.event(each, PREPARE, PrepareSent(1, 1, digest)) for each in ("r0", "r3")]
    entry = PreparedEntry(1, 1, digest, new_view.id, tuple(each.id for each in prepares))
    for event in (request, new_view, *prepares):
        bench.apply(event)
    for each in ("r0", "r3"):
        bench.apply(bench.event(each, VIEW_CHANGE, ViewChangeSent(2, 0, (), (entry,))))
    _signs(bench)
    assert (bench.machine.views.view, bench.machine.views.is_active) == (2, True)
    bench.apply(old)
    assert [append for append in _signs(bench) if append.type == PRE_PREPARE] == []
    assert bench.machine.accepted[1].request_ids == (request.id,)


def test_unproven_view_changes_of_a_liar() -> None:
    bench = Bench()
    for view in range(2, MANY):
        ids = tuple(bytes([place]) + view.to_bytes(31) for place in range(3))
        bench.fold("r1", VIEW_CHANGE, ViewChangeSent(view, 64, ids, ()))
    machine = bench.machine
    assert len(machine.views.waiting_view_changes()) == MAX_HELD_PER_SENDER
    assert len(machine.wanted()) == 3 * MAX_HELD_PER_SENDER
    assert len(machine.store.events()) == MAX_HELD_PER_SENDER


def test_refusals_of_a_liar() -> None:
    bench = Bench()
    for slot in range(1, MANY):
        bench.fold("r1", REFUSED, ProposalRefused(0, slot, bytes(32), f"no {slot}"))
    assert bench.machine.store.events() == ()
    assert bench.machine.refusals == {"r1": f"no {MANY - 1}"}


def test_overall_deadlines_of_a_liar() -> None:
    bench = Bench()
    for number in range(MANY):
        bench.fold("r1", DEADLINE_PASSED, DeadlinePassed(OVERALL, number))
    (kept,) = bench.machine.store.events()
    assert kept.content == DeadlinePassed(OVERALL, 0)


BALLOT = ByzantineConfig(proposers="participants", batch_delay_ms=0)
POISON = (
    {1: 2},
    {b"k": 1},
    [{"deep": {None: 1}}],
    Ext(5, b"x"),
    {"deep": [Ext(5, b"x")]},
    datetime(2026, 1, 1, tzinfo=UTC),
    float("nan"),
    [float("-inf")],
    "x" * MAX_OPERATION_BYTES,
)
PLAIN: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**64 - 1,
    0.5,
    "",
    b"\xff",
    [],
    {},
    {"a": [{"b": b"c"}]},
    "x" * 60_000,
)


def asked_for(bench: Bench, operation: Any) -> tuple[LogEvent, LogEvent]:
    """A client's request as others read it, and its proposal."""
    body = msgspec.msgpack.decode(
        encode_body(RequestSubmitted(1, operation)), type=RequestSubmitted
    )
    kept = replace(bench.event("client", REQUEST, RequestSubmitted(1, "")), content=body)
    digest = batch_digest(COORDINATION, (kept.id,))
    return kept, bench.event("r0", PRE_PREPARE, PrePrepareSent(0, 1, digest, (kept.id,)))


@pytest.mark.parametrize("config", [BALLOT, ONE_EACH])
@pytest.mark.parametrize("operation", POISON)
def test_what_is_no_plain_data_is_no_operation(config: ByzantineConfig, operation: Any) -> None:
    """It would make every replica fail where it digests it, or every observer at the outcome."""
    for author in ("r0", "r1"):
        bench = Bench(4, author, config)
        request, proposal = asked_for(bench, operation)
        assert bench.apply(request) == "malformed_body"
        bench.apply(proposal)
        assert bench.wishes() == set()
    with pytest.raises(InvalidFieldError):
        ByzantineConfig(proposal=operation)


@pytest.mark.parametrize("operation", PLAIN)
def test_plain_data_is_decided_as_it_is(operation: Any) -> None:
    bench = Bench(4, "r0", BALLOT)
    request, proposal = asked_for(bench, operation)
    commit = CommitSent(0, 1, proposal.content.batch_digest)
    observer = ByzantineCoordinator(context_for(4, BALLOT))
    for event in (request, proposal, *(bench.event(r, COMMIT, commit) for r in names(3))):
        observer.apply(event)
    (ending,) = [each for each in observer.intents() if isinstance(each, Append)]
    assert isinstance(ending.body, CoordinationDecided)
    assert ending.body.outcome["proposal"] == operation


def test_an_outcome_fits_into_an_event_whatever_else_was_asked_for() -> None:
    bench = Bench(4, "r0", BALLOT)
    request, proposal = asked_for(bench, "x" * (MAX_OPERATION_BYTES - 5))
    others = [bench.event("client", REQUEST, RequestSubmitted(2 + n, n)) for n in range(9_000)]
    votes = [
        bench.event(each, COMMIT, CommitSent(0, 1, proposal.content.batch_digest))
        for each in names(4)
    ]

    def observer(*events: LogEvent) -> ByzantineCoordinator:
        found = ByzantineCoordinator(context_for(4, BALLOT))
        for event in events:
            found.apply(event)
        return found

    first = observer(request, proposal, *others, *votes)
    (own,) = [each for each in first.intents() if isinstance(each, Append)]
    assert isinstance(own.body, CoordinationDecided)
    named = own.body.outcome["not_chosen"]
    assert list(named) == sorted(each.id for each in others)[:MAX_NOT_CHOSEN]
    assert len(encode_body(own.body)) + 32 * MAX_REFS < MAX_EVENT_BYTES - 8_192
    other = observer(*reversed(votes), *reversed(others), proposal, request)
    assert other.supports(announced(own))
    more = own.body.outcome | {"not_chosen": sorted(each.id for each in others)}
    longer = replace(own, body=replace(own.body, outcome=more))
    assert not other.supports(announced(longer))
