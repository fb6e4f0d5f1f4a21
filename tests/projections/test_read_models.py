"""What the public views say about a log in which everything happens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from logbook import CREATED_NS, STEP_NS, Logbook
from sqlalchemy import Engine, text

from mabeam.core.replay import Replay
from mabeam.projections.catalog import PROJECTIONS
from mabeam.projections.database import reading
from mabeam.projections.generations import changes_of
from mabeam.projections.projection import Folded
from mabeam.projections.projector import Projector
from mabeam.projections.schema import metadata
from mabeam.protocols import PROTOCOLS


@pytest.fixture
def ask(engine: Engine, make_projector: Callable[..., Projector], book: Logbook) -> Any:
    """Runs a query over the projected log; returns rows as dicts."""
    make_projector().project(book.records)

    def run(query: str) -> list[dict[str, Any]]:
        with reading(engine) as connection:
            return [dict(row) for row in connection.execute(text(query)).mappings()]

    return run


def test_rows_fit_their_tables(book: Logbook) -> None:
    replay = Replay(book.root.public_key, PROTOCOLS)
    changes = changes_of(Folded(replay.feed(book.records), replay))
    for projection, change in changes:
        assert change.rows, projection.name
        for row in change.rows:
            assert len(row) == len(projection.table.columns)
            for value, column in zip(row, projection.table.columns, strict=True):
                assert column.nullable or value is not None, column


def test_every_table_and_column_is_explained() -> None:
    tables = [*metadata.tables.values(), *(each.table for each in PROJECTIONS)]
    unexplained = [
        str(item) for table in tables for item in (table, *table.columns) if not item.comment
    ]
    assert unexplained == []


def test_status_of_coordinations(ask: Any) -> None:
    rows = ask("SELECT coordination, status, result, decision, term FROM coordination")
    assert {row["coordination"]: tuple(row.values())[1:] for row in rows} == {
        "agreed": ("decided", "success", "agree", 1),
        "two-faced": ("decided", "success", "disagree", 1),
        "too-late": ("decided", "success", "agree", 1),
        "forked": ("voting", None, None, 1),
        "taken-over": ("decided", "success", "agree", 2),
        "nobody": ("failed", "error", None, 1),
        "called-off": ("cancelled", "cancelled", None, 1),
        "undecided": ("decided", "no_result", "no_consensus", 1),
        "running": ("voting", None, None, 1),
        "waiting": ("requested", None, None, 0),
        "after-all": ("decided", "success", "agree", 1),
    }


def test_a_coordination_in_full(ask: Any) -> None:
    (row,) = ask("SELECT * FROM coordination WHERE coordination = 'agreed'")
    opened, ended = row["opened_sequence"], row["terminal_sequence"]
    assert row["duration_ms"] == (ended - opened) * STEP_NS // 10**6
    assert row["opened_ns"] == CREATED_NS + opened * STEP_NS
    assert row["opened_at"].startswith("2023-11-14T22:13:20.0")
    assert (row["requester"], row["coordinator"]) == ("client", "coordinator-1")
    assert (row["participants"], row["vote_ratio_ppm"]) == (5, 1_000_000)
    assert (row["confidence_ppm"], row["quality_ppm"]) == (900_000, 1_000_000)
    assert (row["events"], row["open_gaps"]) == (10, 0)


def test_failures_and_cancellations_say_why(ask: Any) -> None:
    (failed,) = ask("SELECT * FROM coordination WHERE status = 'failed'")
    assert failed["failure_code"] == "agents_not_found"
    assert "stranger" in failed["failure_message"]
    assert failed["failure_hint"]
    (cancelled,) = ask("SELECT cancel_reason FROM coordination WHERE status = 'cancelled'")
    assert cancelled["cancel_reason"] == "no longer \ufffd needed \u2603"


def test_equivocation_voids_an_earlier_vote_only_while_the_ballot_is_open(ask: Any) -> None:
    rows = ask("SELECT coordination, agent, option, status FROM vote ORDER BY sequence")
    found = [tuple(row.values()) for row in rows]
    assert ("two-faced", "agent-a", "agree", "void") in found
    assert ("two-faced", "agent-a", "disagree", "equivocation") in found
    assert ("two-faced", "agent-c", "agree", "duplicate") in found
    assert ("too-late", "agent-a", "agree", "counted") in found
    assert ("too-late", "agent-a", "disagree", "equivocation") in found
    assert ("too-late", "agent-e", "agree", "late") in found
    assert ("forked", "agent-b", "agree", "counted") in found
    assert ("forked", "agent-b", "disagree", "equivocation") in found


def test_counted_votes_are_the_tally_of_the_outcome(ask: Any) -> None:
    rows = ask(
        "SELECT vote.coordination, vote.option, sum(vote.weight) AS weight FROM vote "
        "JOIN outcome ON outcome.coordination = vote.coordination "
        "WHERE status = 'counted' AND vote.ballot = CAST(outcome ->> 'ballot' AS INTEGER) "
        "GROUP BY vote.coordination, vote.option"
    )
    tallies = ask(
        "SELECT coordination, outcome -> 'weights' ->> 'options' AS options FROM outcome "
        "WHERE type = 'coordination.decided'"
    )
    counted = {(row["coordination"], row["option"]): int(row["weight"]) for row in rows}

    stated = {
        (row["coordination"], option): weight
        for row in tallies
        for option, weight in json.loads(row["options"]).items()
        if weight
    }
    assert counted == stated


def test_outcomes_state_their_cut_and_label(ask: Any) -> None:
    (row,) = ask("SELECT * FROM outcome WHERE coordination = 'agreed'")
    assert (row["type"], row["result"], row["cut_count"]) == ("coordination.decided", "success", 5)
    assert len(row["cut_root"]) == 64
    assert row["inputs_upto"] == row["sequence"] - 1
    assert len(ask("SELECT * FROM outcome")) == len(ask("SELECT * FROM protocol_performance"))


def test_utility_follows_the_specification(ask: Any) -> None:
    (row,) = ask("SELECT * FROM protocol_performance WHERE coordination = 'agreed'")
    speed = 1_000_000 - row["duration_ms"] * 1_000_000 // 30_000
    assert row["utility_ppm"] == (4 * 1_000_000 + 3 * 1_000_000 + 2 * speed + 1_000_000) // 10
    (cancelled,) = ask("SELECT * FROM protocol_performance WHERE result = 'cancelled'")
    assert cancelled["utility_ppm"] is None


def test_evidence_stands_once_per_offence(ask: Any) -> None:
    rows = ask("SELECT rule, accused, offence, source FROM evidence ORDER BY sequence")
    assert [tuple(row.values()) for row in rows] == [
        ("E1", "agent-a", "two-faced:simple.vote_cast:1", "fold"),
        ("E1", "agent-a", "too-late:simple.vote_cast:1", "fold"),
        ("E7", "agent-b", "forked:0", "fold"),
        ("E7", "agent-d", "forked:0", "submitted"),
    ]
    weights = ask("SELECT DISTINCT valid, honesty_weight, submitter FROM evidence ORDER BY 3")
    assert {tuple(row.values()) for row in weights} == {(True, 50, None), (True, 50, "agent-e")}


def test_everything_rejected_is_visible(ask: Any, book: Logbook) -> None:
    rows = ask("SELECT reason, stage, proven FROM rejection")
    assert Counter(row["reason"] for row in rows) == Counter(
        verdict.rejection.reason
        for verdict in Replay(book.root.public_key, PROTOCOLS).feed(book.records)
        if verdict.rejection is not None
    )
    refused = {row["reason"]: bool(row["proven"]) for row in rows if row["stage"] == "refused"}
    assert refused == {
        "malformed": False,
        "over_limit": False,
        "body_mismatch": False,
        "bad_signature": False,
        "wrong_coordination": False,
        "subject_mismatch": False,
        "unsupported_version": False,
        "unknown_type": False,
        "unknown_author": False,
        "unknown_key": False,
        "clock_skew": True,
        "malformed_body": True,
        "not_authorised": True,
        "rotated_key": True,
        "expired_key": True,
        "revoked_key": True,
    }


def test_open_gaps_stay_and_filled_ones_disappear(ask: Any) -> None:
    rows = ask("SELECT coordination, author, first, last FROM chain_gap")
    assert [tuple(row.values()) for row in rows] == [("_registry", "agent-c", 1, 1)]


def test_registry(ask: Any) -> None:
    rows = {row["agent"]: row for row in ask("SELECT * FROM agent")}
    assert rows["agent-d"]["status"] == "revoked"
    assert rows["agent-d"]["revoked_sequence"] > rows["agent-d"]["registered_sequence"]
    assert (rows["agent-e"]["keys"], rows["agent-e"]["serial"]) == (2, 2)
    assert rows["coordinator-1"]["node"] is None
    assert rows["agent-a"]["health"] == "overloaded"
    (health,) = ask("SELECT * FROM agent_health")
    assert (health["observer"], health["cpu_ppm"]) == ("coordinator-1", 950_000)


def test_bodies_are_readable(ask: Any) -> None:
    (row,) = ask(
        "SELECT body ->> 'option' AS option, body ->> 'proposal_digest' AS digest FROM event "
        "WHERE coordination = 'agreed' AND author = 'agent-a'"
    )
    assert row["option"] == "agree"
    assert len(bytes.fromhex(row["digest"])) == 32
    cancelled = ask("SELECT body ->> 'reason' AS reason FROM event WHERE type LIKE '%cancel_req%'")
    assert cancelled[0]["reason"] == "no longer \ufffd needed \u2603"
