"""One replica, fed by hand: what it accepts, counts, refuses and would sign."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mabeam.core.errors import PeerProtocolError
from mabeam.core.hashing import sha256
from mabeam.core.kernel_events import Body
from mabeam.core.machine import After, Append, Ask, LogEvent
from mabeam.protocols.byzantine import ByzantineConfig, Verdict
from mabeam.protocols.byzantine.digests import batch_digest, null_digest
from mabeam.protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CheckpointTaken,
    CommitSent,
    NewViewSent,
    PreparedEntry,
    PrepareSent,
    PrePrepareSent,
    RequestSubmitted,
    SlotProposal,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.proofs import uniqueness_key
from mabeam.protocols.byzantine.replica import ByzantineReplica
from mabeam.protocols.byzantine.view_change import check_new_view, check_view_change, plan
from tests.protocols.byzantine.network import (
    COORDINATION,
    REQUESTED,
    Network,
    context_for,
    group_for,
    log_event,
    names,
)
from tests.protocols.byzantine.worlds import play, world

A = batch_digest(COORDINATION, (REQUESTED,))
B = sha256(b"another batch")
SERVICE = ByzantineConfig(mode="service", checkpoint_interval=2, window=4, batch_delay_ms=0)


class Bench:
    """A replica under test and the events made for it."""

    def __init__(
        self, count: int = 4, author: str = "r3", config: ByzantineConfig | None = None
    ) -> None:
        self.count = count
        self.config = config or ByzantineConfig(proposal="A")
        self.machine = ByzantineReplica(context_for(count, self.config, author))
        self.group = group_for(count, self.config)
        self.events: dict[bytes, LogEvent] = {}
        self.seqs: dict[str, int] = {}

    def event(self, author: str, kind: str, body: Body, refs: tuple[bytes, ...] = ()) -> LogEvent:
        """An event that nobody has folded yet."""
        number = self.seqs.get(author, 0)
        self.seqs[author] = number + 1
        event = log_event(len(self.events) + 1, author, kind, body, refs, number)
        self.events[event.id] = event
        return event

    def fold(self, author: str, kind: str, body: Body) -> str | None:
        """Fold an event; the reason if it is rejected."""
        return self.apply(self.event(author, kind, body))

    def apply(self, event: LogEvent) -> str | None:
        """Fold an event made before."""
        try:
            self.machine.apply(event)
        except PeerProtocolError as error:
            return error.reason
        return None

    def wishes(self) -> set[Any]:
        """Keys of what the replica would append or ask now."""
        return {i.key for i in self.machine.intents() if isinstance(i, Append | Ask)}

    def propose(self, view: int = 0, sequence: int = 1) -> LogEvent:
        """The pre-prepare of the requester's proposal."""
        body = PrePrepareSent(view, sequence, A, (REQUESTED,))
        return self.event(self.group.primary(view), PRE_PREPARE, body)

    def certificate(self, sequence: int, view: int, digest: bytes) -> PreparedEntry:
        """A true prepare certificate."""
        primary = self.group.primary(view)
        if view:
            body: Body = NewViewSent(view, (), (SlotProposal(sequence, digest),))
            proposal = self.event(primary, NEW_VIEW, body)
        else:
            content = PrePrepareSent(view, sequence, digest, (REQUESTED,))
            proposal = self.event(primary, PRE_PREPARE, content)
        backups = [each for each in self.group.replicas if each != primary]
        prepares = [
            self.event(each, PREPARE, PrepareSent(view, sequence, digest))
            for each in backups[: self.group.q - 1]
        ]
        return PreparedEntry(
            sequence, view, digest, proposal.id, tuple(each.id for each in prepares)
        )


def test_a_backup_asks_its_agent_prepares_and_commits() -> None:
    bench = Bench()
    bench.apply(bench.propose())
    (ask,) = [i for i in bench.machine.intents() if isinstance(i, Ask)]
    vote = ask.reply(Verdict.accept())
    assert (vote.type, vote.sign_once) == (PREPARE, True)
    assert ask.reply(Verdict.refuse("no")).type == "byzantine.proposal_refused"
    bench.fold("r1", PREPARE, PrepareSent(0, 1, A))
    assert ("commit", 0, 1) not in bench.wishes()
    bench.fold("r3", PREPARE, PrepareSent(0, 1, A))
    (commit,) = [i for i in bench.machine.intents() if isinstance(i, Append)]
    assert (commit.type, commit.sign_once) == (COMMIT, True)
    assert bench.machine.intents() == bench.machine.intents()


def test_a_prepare_by_the_primary_adds_nothing() -> None:
    bench = Bench()
    bench.apply(bench.propose())
    bench.fold("r0", PREPARE, PrepareSent(0, 1, A))
    bench.fold("r1", PREPARE, PrepareSent(0, 1, A))
    assert ("commit", 0, 1) not in bench.wishes()


def test_votes_are_counted_per_digest_and_signer() -> None:
    bench = Bench()
    bench.apply(bench.propose())
    bench.fold("r0", COMMIT, CommitSent(0, 1, A))
    bench.fold("r1", COMMIT, CommitSent(0, 1, A))
    bench.fold("r2", COMMIT, CommitSent(0, 1, B))
    bench.fold("r1", COMMIT, CommitSent(0, 1, A))
    assert not bench.machine.is_decided
    assert bench.fold("r2", COMMIT, CommitSent(0, 1, A)) == "equivocation"
    assert bench.machine.is_decided


def test_commits_of_other_views_count() -> None:
    bench = Bench()
    bench.machine.leave(1)
    bench.apply(bench.propose())
    for each in ("r0", "r1", "r2"):
        bench.fold(each, COMMIT, CommitSent(0, 1, A))
    assert bench.machine.is_decided
    late = Bench()
    late.apply(late.propose())
    for each in ("r0", "r1", "r2"):
        late.fold(each, COMMIT, CommitSent(7, 1, A))
    assert late.machine.is_decided


def test_only_what_a_client_signed_is_prepared() -> None:
    bench = Bench()
    ghost = sha256(b"ghost")
    digest = batch_digest(COORDINATION, (ghost,))
    bench.fold("r0", PRE_PREPARE, PrePrepareSent(0, 1, digest, (ghost,)))
    assert bench.wishes() == set()
    assert bench.fold("r2", REQUEST, RequestSubmitted(1, "x")) == "not_authorised"


def test_bad_proposals() -> None:
    bench = Bench()
    assert bench.fold("r1", PRE_PREPARE, PrePrepareSent(0, 1, A, (REQUESTED,))) == "not_primary"
    assert bench.fold("x", PREPARE, PrepareSent(0, 1, A)) == "not_participant"
    bad = PrePrepareSent(0, 1, B, (REQUESTED,))
    assert bench.fold("r0", PRE_PREPARE, bad) == "digest_mismatch"
    assert ("view_change", 1) in bench.wishes()


def test_a_primary_that_signs_two_proposals_for_a_slot_is_left_before_either_is_acceptable() -> (
    None
):
    bench = Bench(config=SERVICE)
    bench.fold("r2", REQUEST, RequestSubmitted(1, "another"))
    requests = [bench.event("r1", REQUEST, RequestSubmitted(n, "x")) for n in (1, 2)]
    digests = [batch_digest(COORDINATION, (each.id,)) for each in requests]
    proposals = [
        PrePrepareSent(0, 1, digest, (each.id,))
        for digest, each in zip(digests, requests, strict=True)
    ]
    assert bench.fold("r0", PRE_PREPARE, proposals[0]) is None
    assert bench.wishes() == set()
    assert bench.fold("r0", PRE_PREPARE, proposals[1]) == "equivocation"
    assert bench.wishes() == {("view_change", 1)}
    for each in requests:
        bench.apply(each)
    assert bench.wishes() == {("view_change", 1)}, "no vote in a view that has to be left"


def test_a_primary_that_starts_its_view_twice_is_left() -> None:
    bench = Bench()
    true, changes = new_view_case(bench)
    fourth = bench.event("r0", VIEW_CHANGE, ViewChangeSent(1, 0, (), ()))
    for event in list(bench.events.values()):
        bench.apply(event)
    bench.fold("r1", NEW_VIEW, true)
    assert bench.machine.views.is_active
    ids = (*(event.id for event in changes[:2]), fourth.id)
    other = msgspec.structs.replace(true, view_change_ids=ids)
    assert bench.fold("r1", NEW_VIEW, other) == "equivocation"
    assert ("view_change", 2) in bench.wishes()


def test_forged_entries_make_a_view_change_invalid() -> None:
    bench = Bench()
    true = bench.certificate(1, 0, A)
    lookup = bench.events.get
    body = ViewChangeSent(1, 0, (), (true,))
    assert check_view_change(lookup, bench.group, body).is_proven
    forged: list[PreparedEntry] = [
        msgspec.structs.replace(true, batch_digest=B),
        msgspec.structs.replace(true, sequence=2),
        msgspec.structs.replace(true, view=1),
        msgspec.structs.replace(true, prepare_ids=true.prepare_ids[:1]),
        msgspec.structs.replace(true, prepare_ids=true.prepare_ids[:1] * 2),
        msgspec.structs.replace(true, proposal_id=true.prepare_ids[0]),
    ]
    for entry in forged:
        lie = ViewChangeSent(2, 0, (), (entry,))
        assert check_view_change(lookup, bench.group, lie).fault, entry
    outside = bench.certificate(bench.group.window + 1, 0, A)
    assert check_view_change(lookup, bench.group, ViewChangeSent(1, 0, (), (outside,))).fault
    assert check_view_change(lookup, bench.group, ViewChangeSent(1, 0, (), (true, true))).fault
    unknown = msgspec.structs.replace(true, proposal_id=sha256(b"later"))
    pending = check_view_change(lookup, bench.group, ViewChangeSent(1, 0, (), (unknown,)))
    assert not pending.fault
    assert pending.missing == {sha256(b"later")}


def test_a_claimed_checkpoint_needs_its_quorum() -> None:
    bench = Bench(config=SERVICE)
    taken = [
        bench.event(each, CHECKPOINT, CheckpointTaken(2, sha256(b"root"))) for each in names(4)
    ]
    other = bench.event("r3", CHECKPOINT, CheckpointTaken(2, sha256(b"other")))
    ids = tuple(event.id for event in taken)
    lookup, group = bench.events.get, bench.group
    assert check_view_change(lookup, group, ViewChangeSent(1, 2, ids[:3], ())).is_proven
    for wrong in (ids[:2], (*ids[:2], other.id), (*ids[:2], ids[1]), ()):
        assert check_view_change(lookup, group, ViewChangeSent(1, 2, wrong, ())).fault
    assert check_view_change(lookup, group, ViewChangeSent(1, 4, ids[:3], ())).fault


def test_the_highest_view_wins_and_gaps_do_not_end_the_list() -> None:
    bench = Bench(config=SERVICE)
    low, high = bench.certificate(3, 0, A), bench.certificate(3, 1, B)
    bodies = [ViewChangeSent(2, 0, (), (low,)), ViewChangeSent(2, 0, (), (high,))]
    for order in (bodies, bodies[::-1]):
        start = plan(bench.group, order)
        assert (start.lowest, start.highest) == (0, 3)
        assert [slot.batch_digest for slot in start.slots] == [
            null_digest(COORDINATION, 1),
            null_digest(COORDINATION, 2),
            B,
        ]


def new_view_case(bench: Bench) -> tuple[NewViewSent, list[LogEvent]]:
    """A true NEW-VIEW for view 1 and its view changes; one of them carries a certificate."""
    entry = bench.certificate(1, 0, A)
    bodies = [ViewChangeSent(1, 0, (), (entry,)), ViewChangeSent(1, 0, (), ())]
    changes = [
        bench.event(each, VIEW_CHANGE, bodies[min(number, 1)])
        for number, each in enumerate(("r1", "r2", "r3"))
    ]
    ids = tuple(event.id for event in changes)
    return NewViewSent(1, ids, (SlotProposal(1, A),)), changes


def test_new_views_are_recomputed() -> None:
    bench = Bench()
    true, _ = new_view_case(bench)
    lookup, group = bench.events.get, bench.group
    assert check_new_view(lookup, group, true)[0].is_proven
    replace = msgspec.structs.replace
    wrong = (
        replace(true, slots=()),
        replace(true, slots=(SlotProposal(1, B),)),
        replace(true, slots=(*true.slots, SlotProposal(2, B))),
        replace(true, view_change_ids=true.view_change_ids[:2]),
        replace(true, view_change_ids=(*true.view_change_ids[:2], true.view_change_ids[0])),
        replace(true, new_view=2),
    )
    for body in wrong:
        assert check_new_view(lookup, group, body)[0].fault, body


def test_a_wrong_new_view_is_left_at_once_and_a_late_event_mends_a_pending_one() -> None:
    bench = Bench()
    true, changes = new_view_case(bench)
    for event in list(bench.events.values()):
        if event is not changes[1]:
            bench.apply(event)
    assert bench.machine.views.view == 1
    wrong = msgspec.structs.replace(true, slots=(SlotProposal(1, B),))
    bench.fold("r1", NEW_VIEW, true)
    assert bench.machine.phase() == "changing"
    assert changes[1].id in bench.machine.wanted()
    bench.apply(changes[1])
    assert bench.machine.phase() == "active"
    assert bench.machine.accepted[1].digest == A
    other = Bench()
    for event in bench.events.values():
        if event.type != NEW_VIEW:
            other.apply(event)
    assert other.fold("r1", NEW_VIEW, wrong) == "invalid_certificate"
    assert ("view_change", 2) in other.wishes()


def test_an_invalid_view_change_leaves_the_valid_ones() -> None:
    bench = Bench()
    lie = PreparedEntry(1, 0, B, sha256(b"x"), ())
    bench.fold("r0", VIEW_CHANGE, ViewChangeSent(1, 0, (), (lie,)))
    forged = bench.certificate(1, 0, A)
    for event in list(bench.events.values()):
        bench.apply(event)
    bad = ViewChangeSent(2, 0, (), (msgspec.structs.replace(forged, batch_digest=B),))
    assert bench.fold("r0", VIEW_CHANGE, bad) == "invalid_certificate"
    bench.fold("r1", VIEW_CHANGE, ViewChangeSent(2, 0, (), ()))
    assert ("view_change", 2) not in bench.wishes()
    bench.fold("r2", VIEW_CHANGE, ViewChangeSent(2, 0, (), (forged,)))
    assert ("view_change", 2) in bench.wishes()


def test_a_view_change_keeps_what_was_prepared() -> None:
    bench = Bench()
    bench.apply(bench.propose())
    for each in ("r1", "r2", "r3"):
        bench.fold(each, PREPARE, PrepareSent(0, 1, A))
    bench.fold("r3", COMMIT, CommitSent(0, 1, A))
    for view in (1, 2):
        (timer,) = [
            i for i in bench.machine.intents() if isinstance(i, After) and i.key[0] == "timer"
        ]
        body = timer.then.body
        assert isinstance(body, ViewChangeSent)
        assert [entry.batch_digest for entry in body.prepared] == [A]
        own = bench.event("r3", VIEW_CHANGE, body)
        bench.apply(own)
        assert ("commit", 0, 1) not in bench.wishes()
        changes = [
            bench.event(each, VIEW_CHANGE, ViewChangeSent(view, 0, (), ())) for each in ("r1", "r2")
        ]
        for event in changes:
            bench.apply(event)
        ids = tuple(event.id for event in (*changes, own))
        bench.fold(f"r{view}", NEW_VIEW, NewViewSent(view, ids, (SlotProposal(1, A),)))
        assert bench.machine.views.is_active


def test_nothing_is_signed_after_the_own_deadline() -> None:
    signed = 0
    for overall_timeout_ms in range(1, 120, 3):
        network = Network(4, overall_timeout_ms, overall_timeout_ms=overall_timeout_ms)
        network.run(lambda: False, 20_000)
        last: dict[str, LogEvent] = {}
        for event in network.log:
            before = last.setdefault(event.author, event)
            assert before.type != DEADLINE_PASSED or event is before
            last[event.author] = event
        signed += sum(event.type == DEADLINE_PASSED for event in network.log)
        assert len(network.terminals) == 1
    assert signed > 40


def test_honest_replicas_never_use_a_signed_once_slot_twice() -> None:
    for seed in range(40):
        network = world(7, "twins", seed)
        play(network)
        honest = {node.author for node in network.honest}
        slots = [(uniqueness_key(event)) for event in network.log if event.author in honest]
        used = [slot for slot in slots if slot is not None]
        assert len(used) == len(set(used))


@pytest.mark.parametrize("count", [4, 7])
def test_every_vote_is_signed_once(count: int) -> None:
    network = Network(count)
    for node in network.nodes:
        for intent in node.machine.intents():
            then = intent.then if isinstance(intent, After) else intent
            assert not isinstance(then, Append) or then.sign_once
