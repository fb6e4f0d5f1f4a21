"""The report for people: tables, queries, audits, checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAVY
from rich.table import Table

from .evaluation import Document
from .narrator import Narrator

NEXT_COMMANDS = (
    "mabeam --home {home} db query 'SELECT agent, status, count(*) FROM vote GROUP BY 1, 2'",
    "mabeam audit verify --bundle {home}/biopsy.bundle --root-key {home}/root.pub",
    "mabeam --home {home} dev",
)
"""The first two need no server; the last starts one again on the same log."""


def show(narrator: Narrator, document: Document) -> None:
    """Print everything the document says."""
    _show_agents(narrator, document)
    for number, query in enumerate(document["queries"], 1):
        narrator.heading(f"SQL query {number}: {query['title']}")
        narrator.show(query["sql"])
        narrator.show(_table(query["columns"], query["rows"]))
    narrator.heading("Audit: everything computed again from signatures and the root public key")
    for audit in document["audits"]:
        narrator.show(f"$ {audit['command']}; echo $?")
        narrator.show(f"{audit['output']}\n{audit['exit_code']}")
    narrator.heading("Checks")
    for check in document["checks"]:
        mark, style = ("ok    ", "green") if check["ok"] else ("FAILED", "bold red")
        narrator.show(f"{mark} {check['check']}: {check['found']}", style=style)


def _show_agents(narrator: Narrator, document: Document) -> None:
    narrator.heading(f"{document['biopsies']} biopsies that no model had seen")
    names = ("agent", "model", "votes", "correct", "accuracy", "abstained", "silent")
    rows = [
        [_percent(row[name]) if name == "accuracy" else row[name] for name in names]
        for row in document["agents"]
    ]
    votes = document["committee"]
    accuracy = _percent(votes["accuracy"])
    total = ["committee", "majority", votes["decided"], votes["correct"], accuracy, "", ""]
    narrator.show(_table(names, rows, total))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], total: Sequence[Any] | None = None
) -> Table:
    table = Table(show_edge=False, box=SIMPLE_HEAVY)
    filled = [*rows, *([total] if total else [])]
    for place, column in enumerate(columns):
        words = any(str(row[place])[:1].isalpha() for row in filled)
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    for row in filled[: -1 if total else None]:
        table.add_row(*map(str, row))
    if total:
        table.add_section()
        table.add_row(*map(str, total), style="bold")
    return table


def show_ending(narrator: Narrator, document: Document) -> None:
    """The verdict, where things are and what to try next."""
    verdict = "all checks hold" if document["ok"] else "a check FAILED"
    narrator.heading(f"{document['elapsed_s']} s, {verdict}")
    if not document["kept"]:
        narrator.show("The temporary home is deleted; 'mabeam demo --keep' keeps it.")
        return
    home = document["home"]
    narrator.show(f"Everything is in {home}. Next:")
    for command in NEXT_COMMANDS:
        narrator.show(f"  {command.format(home=home)}")
