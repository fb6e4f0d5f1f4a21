"""The demonstration's own checks must be able to fail."""

from __future__ import annotations

from typing import Any

import pytest

from mabeam.infra.demo import queries
from mabeam.infra.demo.data import Biopsy
from mabeam.infra.demo.evaluation import (
    Checks,
    agents_table,
    check_audits,
    check_takeover,
    check_terminals,
    check_twice,
    check_votes,
    committee_row,
)
from mabeam.infra.demo.proof import Run
from mabeam.infra.demo.queries import Answer
from mabeam.infra.demo.voting import Verdict

COLUMNS = ("agent", "model", "votes", "correct", "abstained", "silent", "late")
VERDICTS = [
    Verdict(Biopsy(1, (), True), "c1", "agree", {"a": "agree", "b": "disagree"}, ()),
    Verdict(Biopsy(2, (), False), "c2", "no_consensus", {"a": "abstain"}, ("b",)),
]
ROWS = (("a", "m", 2, 1, 1, 0, 0), ("b", "n", 1, 0, 0, 1, 1))


def _answer(*rows: tuple[Any, ...], columns: tuple[str, ...] = COLUMNS) -> Answer:
    return Answer(queries.AGENTS, columns, rows)


def test_votes_are_counted_against_the_truth() -> None:
    table = agents_table(VERDICTS, {"b": "n", "a": "m"})
    assert table == [
        {
            "agent": "a",
            "model": "m",
            "votes": 2,
            "correct": 1,
            "accuracy": 0.5,
            "abstained": 1,
            "silent": 0,
        },
        {
            "agent": "b",
            "model": "n",
            "votes": 1,
            "correct": 0,
            "accuracy": 0.0,
            "abstained": 0,
            "silent": 1,
        },
    ]
    assert committee_row(VERDICTS) == {
        "decided": 1,
        "no_consensus": 1,
        "correct": 1,
        "accuracy": 0.5,
    }


@pytest.mark.parametrize(
    ("rows", "ok"),
    [
        (ROWS, True),
        ((ROWS[0], ("b", "n", 1, 1, 0, 1, 1)), False),
        ((ROWS[0],), False),
    ],
)
def test_a_database_that_says_otherwise_is_noticed(rows: tuple[Any, ...], ok: bool) -> None:
    checks = Checks()
    check_votes(checks, agents_table(VERDICTS, {"a": "m", "b": "n"}), _answer(*rows))
    assert checks.ok is ok


@pytest.mark.parametrize(
    ("stored", "in_log", "ok"),
    [
        ([(1, 2)], {"c1": 1, "c2": 1}, True),
        ([(1, 1), (2, 1)], {"c1": 1, "c2": 1}, False),
        ([(0, 1), (1, 1)], {"c1": 1, "c2": 1}, False),
        ([(1, 2)], {"c1": 1, "c2": 2}, False),
        ([(1, 2)], {"c1": 1}, False),
    ],
)
def test_a_missing_or_second_terminal_event_is_noticed(
    stored: list[tuple[int, int]], in_log: dict[str, int], ok: bool
) -> None:
    checks = Checks()
    columns = ("terminal_events", "coordinations")
    check_terminals(checks, 2, _answer(*stored, columns=columns), in_log)
    assert checks.ok is ok


@pytest.mark.parametrize(("term", "ok"), [(1, False), (2, True)])
def test_a_takeover_is_demanded(term: int, ok: bool) -> None:
    checks = Checks()
    check_takeover(checks, _answer((term, 3), columns=("term", "coordinations")))
    assert checks.ok is ok


def test_a_second_vote_is_noticed() -> None:
    checks = Checks()
    check_twice(checks, _answer(("a", "c1", 2), columns=("agent", "coordination", "votes")))
    assert not checks.ok


@pytest.mark.parametrize(
    ("codes", "found", "ok"),
    [
        ((0, 0, 3), "record 7 (simple_vote_cast by a): wrong checksum", True),
        ((0, 0, 0), "", False),
        ((0, 0, 3), "the file is damaged", False),
        ((0, 0, 3), "", False),
        ((3, 0, 3), "record 7 (simple_vote_cast by a): wrong checksum", False),
        ((0, 3, 3), "record 7 (simple_vote_cast by a): wrong checksum", False),
    ],
)
def test_audits_must_pass_and_fail_where_they_should(
    codes: tuple[int, int, int], found: str, ok: bool
) -> None:
    checks = Checks()
    log, bundle = (Run("audit", code, "clean: 9 records") for code in codes[:2])
    line = f"\nwrong damaged_bundle at 7: line 9, {found}" if found else ""
    forged = Run("audit", codes[2], f"FAILED: 0 records{line}")
    check_audits(checks, log, bundle, forged)
    assert checks.ok is ok
