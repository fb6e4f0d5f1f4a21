"""What the demonstration asks the projections, as SQL that runs on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from ...projections.database import reading


@dataclass(frozen=True)
class Query:
    """A query over the public views, with a sentence that says what it shows."""

    title: str
    sql: str


@dataclass(frozen=True)
class Answer:
    """A query and its rows."""

    query: Query
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def mappings(self) -> list[dict[str, Any]]:
        """The rows as mappings by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


AGENTS = Query(
    "How good is each agent, and how often was it heard?",
    """\
SELECT p.agent, a.model_type AS model, count(v.sequence) AS votes,
       sum(CASE WHEN v.option = truth.body ->> 'value' THEN 1 ELSE 0 END) AS correct,
       sum(CASE WHEN v.option = 'abstain' THEN 1 ELSE 0 END) AS abstained,
       sum(CASE WHEN v.sequence IS NULL THEN 1 ELSE 0 END) AS silent,
       (SELECT count(*) FROM vote AS l WHERE l.agent = p.agent AND l.status = 'late') AS late
FROM participant AS p
JOIN agent AS a ON a.agent = p.agent
JOIN event AS truth ON truth.coordination = p.coordination AND truth.type = 'outcome.reported'
LEFT JOIN vote AS v
       ON v.coordination = p.coordination AND v.agent = p.agent AND v.status = 'counted'
GROUP BY p.agent, a.model_type
ORDER BY correct DESC, p.agent""",
)

COORDINATORS = Query(
    "Who coordinated? Term 2 means: taken over from a coordinator that died.",
    """\
SELECT coordinator, term, count(*) AS coordinations,
       min(duration_ms) AS fastest_ms, max(duration_ms) AS slowest_ms
FROM coordination
GROUP BY coordinator, term
ORDER BY coordinator, term""",
)

TERMINALS = Query(
    "How many terminal events has each coordination?",
    """\
SELECT terminal_events, count(*) AS coordinations
FROM (SELECT c.coordination, count(e.sequence) AS terminal_events
      FROM coordination AS c
      LEFT JOIN event AS e
             ON e.coordination = c.coordination AND e.verdict = 'effective'
            AND e.type IN ('coordination.decided', 'coordination.failed', 'coordination.cancelled')
      GROUP BY c.coordination) AS counted
GROUP BY terminal_events
ORDER BY terminal_events""",
)

TWICE = Query(
    "Who signed two different votes in one coordination?",
    """\
SELECT agent, coordination, count(DISTINCT event_id) AS votes
FROM vote
GROUP BY agent, coordination, ballot
HAVING count(DISTINCT event_id) > 1""",
)

MIRRORED = Query(
    "How far is the projection?", "SELECT coalesce(max(sequence), 0) AS sequence FROM event"
)


def ask(engine: Engine, query: Query) -> Answer:
    """Run a query.

    Raises:
        DatabaseError: the database cannot answer it.
    """
    with reading(engine) as connection:
        result = connection.execute(text(query.sql))
        rows: Sequence[Sequence[Any]] = result.fetchall()
        return Answer(query, tuple(result.keys()), tuple(tuple(row) for row in rows))


def by(answer: Answer, column: str) -> Mapping[Any, dict[str, Any]]:
    """The rows of an answer by the value of one column."""
    return {row[column]: row for row in answer.mappings()}
