"""The demonstration itself: the hearing, then everything that can be said and proved about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from ...core.bus.jetstream import JetStreamTransport
from ...projections.database import open_database
from ..local import LocalDeployment
from . import queries
from .committee import AGENTS, Committee
from .data import Biopsy
from .evaluation import (
    Checks,
    Document,
    agents_table,
    check_audits,
    check_takeover,
    check_terminals,
    check_twice,
    check_votes,
    committee_row,
)
from .narrator import Narrator
from .proof import DemoError, Run, flip_one_byte, run_command
from .queries import Answer
from .voting import Verdict

CAUGHT_UP_TIMEOUT_S = 30.0
_TERMINALS = (".coordination_decided.", ".coordination_failed.", ".coordination_cancelled.")


def demonstrate(
    deployment: LocalDeployment, cases: Sequence[Biopsy], narrator: Narrator
) -> Document:
    """Run everything; the deployment is ended by the caller.

    Returns:
        What there is to say, as one JSON document: ``ok`` tells whether every check holds.
    """
    committee = Committee(deployment, narrator)
    committee.start()
    narrator.begin("biopsies decided", len(cases))
    try:
        verdicts = asyncio.run(committee.hear(cases))
    finally:
        narrator.end()
    committee.adjourn()
    narrator.say("agents and coordinators stopped; now the proof")
    names = [verdict.coordination for verdict in verdicts]
    in_log, head = deployment.operate(lambda transport: _terminals(transport, names))
    checks = Checks()
    document = _evaluate(deployment, verdicts, in_log, head, checks)
    document |= {"kills": committee.kills}
    document |= _prove(deployment.home.path, names[0], checks)
    return {"ok": checks.ok, "checks": checks.results} | document


async def _terminals(
    transport: JetStreamTransport, names: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Terminal events that the log holds of each coordination, and the log's last position."""
    found = {}
    for name in names:
        subjects = [record.subject for record in await transport.log.read(name)]
        found[name] = sum(any(kind in each for kind in _TERMINALS) for each in subjects)
    return found, (await transport.log.head()).sequence


def _evaluate(
    deployment: LocalDeployment,
    verdicts: Sequence[Verdict],
    in_log: dict[str, int],
    head: int,
    checks: Checks,
) -> Document:
    engine = open_database(deployment.home.database_url(deployment.home.config()), access="read")
    try:
        deadline = time.monotonic() + CAUGHT_UP_TIMEOUT_S
        while queries.ask(engine, queries.MIRRORED).rows[0][0] < head:
            if time.monotonic() > deadline:
                raise DemoError(f"the projector did not reach position {head} of the log in time")
            time.sleep(0.05)
        agents = queries.ask(engine, queries.AGENTS)
        coordinators = queries.ask(engine, queries.COORDINATORS)
        terminals = queries.ask(engine, queries.TERMINALS)
        twice = queries.ask(engine, queries.TWICE)
    finally:
        engine.dispose()
    table = agents_table(verdicts, {id: model.model_type for id, model in AGENTS.items()})
    check_votes(checks, table, agents)
    check_terminals(checks, len(verdicts), terminals, in_log)
    taken_over = check_takeover(checks, coordinators)
    check_twice(checks, twice)
    return {
        "biopsies": len(verdicts),
        "agents": table,
        "committee": committee_row(verdicts),
        "taken_over": taken_over,
        "queries": [_query_document(each) for each in (agents, coordinators)],
    }


def _query_document(answer: Answer) -> Document:
    query = answer.query
    columns, rows = answer.columns, answer.rows
    return {"title": query.title, "sql": query.sql, "columns": columns, "rows": rows}


def _prove(home: Path, coordination: str, checks: Checks) -> Document:
    bundle, forged = home / "biopsy.bundle", home / "forged.bundle"
    log = run_command(home, "audit", "verify", "--all")
    run_command(home, "coord", "export", coordination, "--out", bundle)
    root = home / "root.pub"
    clean = run_command(None, "audit", "verify", "--bundle", bundle, "--root-key", root)
    flip_one_byte(bundle, forged)
    failed = run_command(None, "audit", "verify", "--bundle", forged, "--root-key", root)
    check_audits(checks, log, clean, failed)
    return {"audits": [_audit_document(each) for each in (log, clean, failed)]}


def _audit_document(run: Run) -> Document:
    return {"command": run.command, "exit_code": run.exit_code, "output": run.output}
