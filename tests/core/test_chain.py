"""Author chains: gaps are reported until filled, forks are proven, nothing else is a verdict."""

from __future__ import annotations

import tracemalloc
from itertools import permutations

import msgspec
import pytest
from audit_log import key_of
from hypothesis import given
from hypothesis import strategies as st

from mabeam.core import chain as chain_module
from mabeam.core.author import Author
from mabeam.core.chain import ChainBook, Gap
from mabeam.core.envelope import Event, sign_event
from mabeam.core.errors import PeerProtocolError
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.kernel_events import AgentRevoked

KEY = key_of("a-1")


def _chain(length: int, id: str = "a-1", clock: list[int] | None = None) -> list[Event]:
    """An honest chain; the clock may be told to jump, the author keeps it from running back."""
    ticks = iter(clock or range(1, length + 1))
    author = Author(id, "n1", KEY, lambda: next(ticks))
    return [author.sign("c1", b"", "agent.revoked", AgentRevoked(id)) for _ in range(length)]


def _change(event: Event, **changes: object) -> Event:
    header = msgspec.structs.replace(event.header, **changes)
    return sign_event(header, event.body, KEY.secret_key)


def _reason(book: ChainBook, event: Event) -> str:
    with pytest.raises(PeerProtocolError) as refused:
        book.add(event)
    return refused.value.reason


def test_a_gap_is_reported_until_it_is_filled_and_refuses_nothing() -> None:
    book, events = ChainBook(), _chain(6)
    for number in (0, 3, 5):
        book.add(events[number])
    assert book.gaps() == [Gap("a-1", 1, 2), Gap("a-1", 4, 4)]
    book.add(events[2])
    assert book.gaps() == [Gap("a-1", 1, 1), Gap("a-1", 4, 4)]
    book.add(events[1])
    assert book.gaps() == [Gap("a-1", 4, 4)]
    book.add(events[4])
    assert book.gaps() == []
    assert book.head("a-1") == (6, events[5].id, events[5].header.at_ns)


def test_gaps_are_told_by_author() -> None:
    book = ChainBook()
    book.add(_chain(3, "b")[2])
    book.add(_chain(2, "a")[1])
    assert book.gaps() == [Gap("a", 0, 0), Gap("b", 0, 1)]


@given(st.permutations(range(8)), st.lists(st.integers(0, 50), min_size=8, max_size=8))
def test_every_permutation_of_an_honest_chain_is_taken(order: list[int], clock: list[int]) -> None:
    book, events = ChainBook(), _chain(8, clock=clock)
    for number in order:
        book.add(events[number])
        assert book.find("a-1", number) == events[number].id
    assert book.gaps() == []
    assert book.head("a-1")[:2] == (8, events[7].id)
    for event in events:
        assert _reason(book, event) == "duplicate"


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_fork_is_equivocation_wherever_it_arrives(order: tuple[int, ...]) -> None:
    honest = _chain(3)
    twin = _change(honest[1], at_ns=honest[1].header.at_ns + 1)
    book = ChainBook()
    for number in order:
        book.add(honest[number])
        if number == 1:
            with pytest.raises(PeerProtocolError) as refused:
                book.add(twin)
            assert refused.value.reason == "equivocation"
            assert set(refused.value.evidence) == {honest[1].id, twin.id}
    assert book.gaps() == []


def test_another_predecessor_is_a_mismatch_and_what_follows_is_linked() -> None:
    events = _chain(3)
    book = ChainBook()
    book.add(events[0])
    stray = _change(events[1], prev=ZERO32)
    assert _reason(book, stray) == "chain_mismatch"
    assert _reason(book, events[1]) == "equivocation"
    assert _reason(book, events[2]) == "chain_mismatch"
    assert book.head("a-1")[0] == 3
    first = _change(_chain(1, "b")[0], prev=bytes(31) + b"\1")
    assert _reason(book, first) == "chain_mismatch"


def test_a_clock_that_runs_backwards() -> None:
    events = _chain(2, clock=[100, 100])
    book = ChainBook()
    book.add(events[0])
    assert _reason(book, _change(events[1], at_ns=99)) == "clock_skew"
    book = ChainBook()
    book.add(events[0])
    book.add(events[1])


def test_out_of_order_arrival_is_no_clock_running_backwards() -> None:
    events = _chain(3, clock=[10, 20, 30])
    book = ChainBook()
    for number in (2, 0, 1):
        book.add(events[number])
    assert book.head("a-1")[2] == 30


def test_events_beyond_a_gap_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "MAX_PENDING", 3)
    book, events = ChainBook(), _chain(6)
    for number in (1, 2, 3):
        book.add(events[number])
    assert _reason(book, events[4]) == "over_limit"
    book.add(events[0])
    book.add(events[4])
    assert book.gaps() == []


def test_events_beyond_a_gap_are_not_kept_whole() -> None:
    body = bytes(200_000)
    header = _chain(1)[0].header
    book = ChainBook()
    tracemalloc.start()
    try:
        for number in range(1, 21):
            beyond = msgspec.structs.replace(header, author_seq=number, body_sha256=sha256(body))
            book.add(sign_event(beyond, body, KEY.secret_key))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert book.head("a-1")[0] == 21
    assert kept < len(body)


def test_a_chain_resumes_behind_what_is_known() -> None:
    book, events = ChainBook(), _chain(3)
    for event in events:
        book.add(event)
    author = Author("a-1", "n1", KEY, lambda: 1)
    author.resume("c1", *book.head("a-1"))
    following = author.sign("c1", b"", "agent.revoked", AgentRevoked("x"))
    book.add(following)
    assert (following.header.author_seq, following.header.prev) == (3, events[2].id)
    author.resume("c1", 1, ZERO32, 0)  # never backwards
    assert author.sign("c1", b"", "agent.revoked", AgentRevoked("x")).header.author_seq == 4


def test_withdrawing_takes_back_the_newest_only() -> None:
    author = Author("a-1", "n1", KEY, lambda: 7)
    first, second = (
        author.sign("c1", b"", "agent.revoked", AgentRevoked(name)) for name in ("x", "y")
    )
    author.withdraw(first)
    author.withdraw(second)
    again = author.sign("c1", b"", "agent.revoked", AgentRevoked("z"))
    assert (again.header.author_seq, again.header.prev) == (1, first.id)
    author.withdraw(second)
    assert author.sign("c1", b"", "agent.revoked", AgentRevoked("z")).header.author_seq == 2


def test_secrets_differ_by_label_coordination_and_key_and_survive_a_restart() -> None:
    author = Author("a-1", "n1", KEY, lambda: 1)
    other = Author("a-1", "n1", key_of("a-2"), lambda: 1)
    values = {
        author.secret("c1", "x"),
        author.secret("c1", "y"),
        author.secret("c2", "x"),
        other.secret("c1", "x"),
    }
    assert len(values) == 4
    assert Author("a-1", "n2", KEY, lambda: 9).secret("c1", "x") == author.secret("c1", "x")


def test_a_book_of_recent_events_forgets_old_ids_and_says_so() -> None:
    book, events = ChainBook(recent=4), _chain(20)
    for event in events:
        book.add(event)
    assert book.head("a-1") == _full_head(events)
    assert book.find("a-1", 0) is None
    assert [book.find("a-1", number) for number in range(16, 20)] == [e.id for e in events[16:]]
    assert _reason(book, events[0]) == "late"
    assert _reason(book, events[19]) == "duplicate"
    assert _reason(book, _change(events[18], at_ns=10**6)) == "equivocation"
    assert book.gaps() == []


def _full_head(events: list[Event]) -> tuple[int, bytes, int]:
    """The head of a book that remembers everything."""
    book = ChainBook()
    for event in events:
        book.add(event)
    return book.head("a-1")


def test_a_restored_book_goes_on_where_the_other_was() -> None:
    book, events = ChainBook(recent=4), _chain(12)
    for number in (*range(6), 8):
        book.add(events[number])
    other = ChainBook(recent=4)
    other.restore(book.heads())
    assert other.heads() == book.heads()
    assert other.head("a-1") == (6, events[5].id, events[5].header.at_ns)
    assert [book.lacks("a-1", number) for number in (5, 6, 8, 9)] == [False, True, False, True]
    assert [other.lacks("a-1", number) for number in (5, 6, 8, 9)] == [False, True, True, True]
    assert other.lacks("b", 0)
    assert (_reason(other, events[4]), _reason(other, events[5])) == ("late", "duplicate")
    for number in (7, 8, 6, 9, 10, 11):
        other.add(events[number])
    assert other.gaps() == []
    assert other.head("a-1") == _full_head(events)
    assert _reason(other, _change(events[11], at_ns=10**6)) == "equivocation"


def test_a_restored_book_refuses_another_predecessor() -> None:
    book, events = ChainBook(), _chain(3)
    book.add(events[0])
    other = ChainBook()
    other.restore(book.heads())
    assert _reason(other, _change(events[1], prev=bytes(32))) == "chain_mismatch"


def test_nothing_seen_without_a_gap_is_restored_as_nothing() -> None:
    book, events = ChainBook(), _chain(3)
    book.add(events[2])
    other = ChainBook()
    other.restore(book.heads())
    assert other.gaps() == []
    other.add(events[0])
    assert other.head("a-1") == (1, events[0].id, events[0].header.at_ns)
