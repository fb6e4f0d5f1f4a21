"""What the evidence view says about replicas, and what reputation will find there."""

from __future__ import annotations

from typing import Any

from replica_log import KNOWN, ReplicaLog

from mabeam.core.evidence import evidence_of
from mabeam.core.replay import Replay
from mabeam.projections.misconduct import EVIDENCE
from mabeam.projections.projection import Folded
from mabeam.protocols.byzantine.events import (
    COMMIT,
    NEW_VIEW,
    VIEW_CHANGE,
    CommitSent,
    SlotProposal,
    ViewChangeSent,
)

LIE = b"\7" * 32


def rows(log: ReplicaLog) -> list[dict[str, Any]]:
    """The rows of the view, the first of each offence."""
    replay = Replay(log.root.public_key, KNOWN)
    change = EVIDENCE.apply(Folded(replay.feed(log.records), replay))
    columns = [column.name for column in EVIDENCE.table.columns]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in change.rows:
        found.setdefault(row[:3], dict(zip(columns, row, strict=True)))
    return list(found.values())


def test_offences_of_replicas_have_one_row_each() -> None:
    log = ReplicaLog()
    log.act()
    log.append("r2", COMMIT, CommitSent(0, 1, LIE), "pub")
    log.append("r2", VIEW_CHANGE, ViewChangeSent(1, 0, (), ()), "pub")
    log.conclude()
    found = rows(log)
    assert {(row["rule"], row["accused"], row["offence"]) for row in found} == {
        ("E1", "r2", f"c1:{COMMIT}:0:1"),
        ("E2", "r2", f"c1:{VIEW_CHANGE}:1"),
    }
    assert all(row["valid"] and row["honesty_weight"] == 50 for row in found)
    assert {row["offence_coordination"] for row in found} == {"c1"}
    assert {row["rule"]: row["submitter"] for row in found} == {"E1": None, "E2": "coord-1"}


def test_two_view_changes_stand_under_their_own_rule() -> None:
    log = ReplicaLog()
    log.time_out("r2")
    log.append("r2", VIEW_CHANGE, ViewChangeSent(1, 2, (LIE,) * 3, ()), "pub")
    log.conclude()
    (row,) = rows(log)
    assert (row["rule"], row["source"]) == ("E4", "submitted")


def test_a_wrong_new_view_stands_once_it_is_proven() -> None:
    log = ReplicaLog()
    log.time_out("r1", "r2", "r3")
    (true,) = [each for each in log.intended("r1") if each.type == NEW_VIEW]
    lie = type(true.body)(1, true.body.view_change_ids, (SlotProposal(1, LIE),))  # type: ignore[attr-defined]
    log.append("r1", NEW_VIEW, lie, "pub", refs=true.refs)
    assert rows(log) == []
    log.conclude()
    (row,) = rows(log)
    assert (row["rule"], row["accused"], row["source"]) == ("E3", "r1", "submitted")


def test_a_false_accusation_is_visible_and_weighs_nothing() -> None:
    log = ReplicaLog()
    log.act()
    commits = [event.event for event in log.events() if event.type == COMMIT]
    log.append("r3", "evidence.submitted", evidence_of("E1", "r2", commits[:2]), "pub")
    (row,) = rows(log)
    assert (row["accused"], row["submitter"]) == ("r2", "r3")
    assert (row["valid"], row["honesty_weight"]) == (False, 0)
    assert row["offence"].startswith("unproven:")
