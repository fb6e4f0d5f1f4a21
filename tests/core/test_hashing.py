"""The numbers of specification 1.2 and 1.4."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mabeam.core.hashing import (
    PPM,
    ZERO32,
    ln_micro,
    merkle_root,
    need,
    power_micro,
    sha256,
    tagged_hash,
    tie_rank,
)


def test_vectors_of_com_11() -> None:
    assert tagged_hash("tie", "a").hex() == (
        "0efa663db0de69a62e9f45f8f6b6a6070e79657457db34ccf3fe8bf08b5773e5"
    )
    payload = '{"amount_micros":10000000}'
    assert tagged_hash("commit", "coord-1", "bid", "agent-a", payload, ZERO32).hex() == (
        "ef9f2391b3920fe4e0e76691a17c04e8901a7ed20e52f35e31de7ed3af1422ae"
    )


def test_tie_ranks_of_com_12() -> None:
    items = ["agent-a", "agent-b", "agent-c", "agent-d"]
    ranked = sorted(items, key=lambda item: tie_rank(ZERO32, "coord-1", item))
    assert ranked == ["agent-c", "agent-b", "agent-d", "agent-a"]


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_tagged_hash_is_injective_in_its_parts(one: list[bytes], other: list[bytes]) -> None:
    assert (tagged_hash("t", *one) == tagged_hash("t", *other)) == (one == other)


def test_parts_are_told_apart_by_length_tag_and_value() -> None:
    assert tagged_hash("t", "ab", "c") != tagged_hash("t", "a", "bc")
    assert tagged_hash("ta", "b") != tagged_hash("t", "ab")
    assert tagged_hash("t", 12) == tagged_hash("t", "12") == tagged_hash("t", b"12")


@pytest.mark.parametrize(
    ("total", "share", "expected"),
    [(10, 600_000, 6), (7, 600_000, 5), (3, 333_333, 1), (1, 1, 1), (0, PPM, 0), (10, 0, 0)],
)
def test_need(total: int, share: int, expected: int) -> None:
    assert need(total, share) == expected


@given(st.integers(0, 10**24), st.integers(0, PPM))
def test_need_is_the_least_weight_that_reaches_the_share(total: int, share: int) -> None:
    least = need(total, share)
    assert least * PPM >= total * share
    assert least == 0 or (least - 1) * PPM < total * share


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_ln_micro_agrees_with_floating_point(numerator: int, denominator: int) -> None:
    exact = math.log(numerator) - math.log(denominator)
    assert abs(ln_micro(numerator, denominator) - exact * 1e6) < 1


def test_ln_and_power_are_rounded_half_even_to_micro() -> None:
    assert ln_micro(9, 1) == 2_197_225
    assert ln_micro(1, 9) == -2_197_225
    assert ln_micro(1, 1) == 0
    assert power_micro(4_000_000, "0.5") == 2_000_000
    assert power_micro(2_000_000, "0.5") == 1_414_214
    assert power_micro(860_000, "0.7") == int(round(Decimal("0.86") ** Decimal("0.7"), 6) * PPM)


def _rfc_6962(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + _rfc_6962(leaves[:split]) + _rfc_6962(leaves[split:]))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40))
def test_merkle_root_is_that_of_rfc_6962_in_any_order(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == _rfc_6962(sorted(leaves)) == merkle_root(leaves[::-1])


def test_merkle_root_of_nothing() -> None:
    assert merkle_root([]) == ZERO32
