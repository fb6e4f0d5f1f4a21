"""The published table of mutants names every one that the suite applies, and no other."""

from __future__ import annotations

import re

import source_tree

from tests.protocols.byzantine.test_mutants import MUTANTS as BYZANTINE
from tests.protocols.byzantine.test_snapshots import MUTANTS as SNAPSHOTS
from tests.protocols.simple.test_mutants import MUTANTS as SIMPLE
from tests.simulation.test_byzantine_mutants import HUNTS

ELSEWHERE = {"wanted events never read again", "entries dropped before the snapshot is durable"}
"""Applied by tests of their own."""


def test_the_table_is_complete() -> None:
    page = (source_tree.ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `", page, flags=re.MULTILINE)
    applied = [each.name for each in (*BYZANTINE, *HUNTS, *SIMPLE, *SNAPSHOTS)]
    assert sorted(rows) == sorted([*applied, *ELSEWHERE])
    assert len(rows) >= 12
