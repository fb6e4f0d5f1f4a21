"""The pool of requests: order per client, execution once, forgetting without consequences."""

from __future__ import annotations

from mabeam.core.hashing import sha256
from mabeam.protocols.byzantine.requests import Request, RequestPool


def request(client: str, number: int, seen: int, operation: str = "") -> Request:
    """A request with an id of its own."""
    id = sha256(f"{client}:{number}:{operation}".encode())
    return Request(id, client, number, operation, 1, seen)


def test_clients_pipeline_and_each_keeps_its_order() -> None:
    pool = RequestPool()
    late, early = request("ann", 2, 1), request("ann", 1, 3)
    other = request("bob", 1, 2)
    for each in (late, other, early):
        pool.add(each)
    assert list(pool.pending()) == [early, other, late]
    assert list(pool.pending({early.id})) == [other, late]
    assert pool.oldest() is late


def test_a_request_is_over_once_a_higher_number_executed() -> None:
    pool = RequestPool()
    overtaken, overtaking, next_one = (request("ann", n, n) for n in (1, 2, 3))
    for each in (overtaken, overtaking, next_one):
        pool.add(each)
    assert pool.execute(overtaking)
    assert not pool.execute(overtaken)
    assert not pool.execute(overtaking)
    assert list(pool.pending()) == [next_one]


def test_two_requests_under_one_number_execute_once() -> None:
    pool = RequestPool()
    first, second = request("ann", 1, 1, "a"), request("ann", 1, 2, "b")
    pool.add(first)
    pool.add(second)
    assert pool.execute(second)
    assert not pool.execute(first)
    assert pool.oldest() is None


def test_what_is_forgotten_and_seen_again_is_still_over() -> None:
    pool = RequestPool()
    done, pending = request("ann", 1, 1), request("ann", 2, 2)
    pool.add(done)
    pool.add(pending)
    assert pool.execute(done)
    pool.close(7)
    pool.forget_upto(6)
    assert done.id in pool
    pool.forget_upto(7)
    assert done.id not in pool
    assert pending.id in pool
    pool.add(done)
    assert not pool.execute(done)
    assert list(pool.pending()) == [pending]
    pool.close(8)
    pool.forget_upto(8)
    assert pool.known() == (pending.id,)
