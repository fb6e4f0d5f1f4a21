"""Proofs E1-E5 and E8: each convinces with its events, and with one less it does not."""

from __future__ import annotations

import msgspec

from mabeam.core.kernel_events import DeadlinePassed
from mabeam.protocols.byzantine import Proof, is_proof
from mabeam.protocols.byzantine.events import (
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PREPARE,
    VIEW_CHANGE,
    CommitSent,
    PrepareSent,
    SlotProposal,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.forensics import culprits_of
from tests.protocols.byzantine.test_rules import A, B, Bench, new_view_case


def test_e1_and_e4_are_two_contents_under_one_key() -> None:
    bench = Bench()
    first = bench.event("r1", COMMIT, CommitSent(0, 1, A))
    second = bench.event("r1", COMMIT, CommitSent(0, 1, B))
    again = bench.event("r1", COMMIT, CommitSent(0, 1, A), (B,))
    other = bench.event("r2", COMMIT, CommitSent(0, 1, B))
    assert is_proof(Proof("E1", "r1", (first, second)), bench.group)
    for pair in ((first, again), (first, other), (first,), (first, first)):
        assert not is_proof(Proof("E1", "r1", pair), bench.group)
    entry = bench.certificate(1, 0, A)
    empty = bench.event("r1", VIEW_CHANGE, ViewChangeSent(1, 0, (), ()))
    full = bench.event("r1", VIEW_CHANGE, ViewChangeSent(1, 0, (), (entry,)))
    assert is_proof(Proof("E4", "r1", (empty, full)), bench.group)
    assert not is_proof(Proof("E1", "r1", (empty, full)), bench.group)


def test_e2_is_a_commit_hidden_in_a_later_view_change() -> None:
    bench = Bench()
    commit = bench.event("r1", COMMIT, CommitSent(0, 1, A))
    entry = bench.certificate(1, 0, A)
    hidden = bench.event("r1", VIEW_CHANGE, ViewChangeSent(1, 0, (), ()))
    shown = bench.event("r1", VIEW_CHANGE, ViewChangeSent(1, 0, (), (entry,)))
    settled = bench.event("r1", VIEW_CHANGE, ViewChangeSent(1, 2, (), ()))
    assert is_proof(Proof("E2", "r1", (commit, hidden)), bench.group)
    for innocent in (shown, settled):
        assert not is_proof(Proof("E2", "r1", (commit, innocent)), bench.group)
    later = bench.event("r1", COMMIT, CommitSent(1, 1, A))
    assert not is_proof(Proof("E2", "r1", (later, hidden)), bench.group)


def test_e3_is_small_and_stands_alone() -> None:
    bench = Bench()
    true, _ = new_view_case(bench)
    basis = tuple(bench.events.values())
    wrong = bench.event("r1", NEW_VIEW, msgspec.structs.replace(true, slots=(SlotProposal(1, B),)))
    right = bench.event("r1", NEW_VIEW, true)
    assert is_proof(Proof("E3", "r1", (wrong, *basis)), bench.group)
    assert not is_proof(Proof("E3", "r1", (right, *basis)), bench.group)
    assert not is_proof(Proof("E3", "r1", (wrong, *basis[1:])), bench.group)
    assert not is_proof(Proof("E3", "r2", (wrong, *basis)), bench.group)
    (culprit,) = culprits_of((*basis, wrong), bench.group).values()
    assert (culprit.rule, culprit.accused) == ("E3", "r1")
    assert is_proof(culprit, bench.group)
    bytes_in_proof = sum(
        len(event.event.body) + len(msgspec.msgpack.encode(event.event.header)) + 80
        for event in culprit.events
    )
    assert bytes_in_proof < 64 * 1024


def test_e5_is_a_vote_against_the_new_view_it_stands_on() -> None:
    bench = Bench()
    true, _ = new_view_case(bench)
    basis = tuple(bench.events.values())
    new_view = bench.event("r1", NEW_VIEW, true)
    stray = bench.event("r2", PREPARE, PrepareSent(1, 1, B), (new_view.id,))
    loyal = bench.event("r2", PREPARE, PrepareSent(1, 1, A), (new_view.id,))
    elsewhere = bench.event("r2", PREPARE, PrepareSent(1, 1, B), (B,))
    assert is_proof(Proof("E5", "r2", (stray, new_view, *basis)), bench.group)
    for vote in (loyal, elsewhere):
        assert not is_proof(Proof("E5", "r2", (vote, new_view, *basis)), bench.group)
    assert not is_proof(Proof("E5", "r2", (stray, new_view, *basis[1:])), bench.group)
    found = culprits_of((*basis, new_view, stray), bench.group)
    assert {author: proof.rule for author, proof in found.items()} == {"r2": "E5"}
    assert is_proof(found["r2"], bench.group)


def test_e8_is_a_vote_behind_the_own_deadline() -> None:
    bench = Bench()
    before = bench.event("r1", PREPARE, PrepareSent(0, 1, A))
    deadline = bench.event("r1", DEADLINE_PASSED, DeadlinePassed(OVERALL))
    after = bench.event("r1", COMMIT, CommitSent(0, 1, A))
    assert is_proof(Proof("E8", "r1", (deadline, after)), bench.group)
    assert not is_proof(Proof("E8", "r1", (deadline, before)), bench.group)
