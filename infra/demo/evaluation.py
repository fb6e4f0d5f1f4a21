"""What came out of a demonstration, as one document, and whether it is what it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .proof import VERIFICATION_FAILED, Run
from .queries import Answer, by
from .voting import Verdict

Document = dict[str, Any]


@dataclass
class Checks:
    """Statements that must hold, each with what was found."""

    results: list[Document] = field(default_factory=list)

    def expect(self, statement: str, holds: bool, found: str) -> None:
        """Note whether ``statement`` holds."""
        self.results.append({"check": statement, "ok": holds, "found": found})

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(result["ok"] for result in self.results)


def agents_table(verdicts: Sequence[Verdict], models: Mapping[str, str]) -> list[Document]:
    """Per agent what the client saw: votes counted, right ones, silence; the best first."""
    rows = []
    for agent, model in models.items():
        votes = [(v.votes[agent], v.biopsy.truth) for v in verdicts if agent in v.votes]
        correct = sum(option == truth for option, truth in votes)
        rows.append(
            {
                "agent": agent,
                "model": model,
                "votes": len(votes),
                "correct": correct,
                "accuracy": round(correct / len(votes), 3) if votes else None,
                "abstained": sum(option == "abstain" for option, _ in votes),
                "silent": sum(agent in v.silent for v in verdicts),
            }
        )
    return sorted(rows, key=lambda row: (-(row["accuracy"] or 0), row["agent"]))


def committee_row(verdicts: Sequence[Verdict]) -> Document:
    """The same for the committee as a whole."""
    correct = sum(verdict.correct for verdict in verdicts)
    return {
        "decided": sum(verdict.decision != "no_consensus" for verdict in verdicts),
        "no_consensus": sum(verdict.decision == "no_consensus" for verdict in verdicts),
        "correct": correct,
        "accuracy": round(correct / len(verdicts), 3) if verdicts else None,
    }


def check_votes(checks: Checks, table: Sequence[Document], answer: Answer) -> None:
    """The database, filled by another process, must say what the client saw for itself."""
    stored = by(answer, "agent")
    columns = ("model", "votes", "correct", "abstained", "silent")
    differing = [
        f"{row['agent']}.{name}: {row[name]} seen, {stored.get(row['agent'], {}).get(name)} stored"
        for row in table
        for name in columns
        if stored.get(row["agent"], {}).get(name) != row[name]
    ]
    checks.expect(
        "the database says what the client saw",
        not differing,
        "; ".join(differing) or f"{len(table)} agents agree in {', '.join(columns)}",
    )


def check_takeover(checks: Checks, answer: Answer) -> int:
    """A coordinator died with coordinations in hand: somebody must have gone on."""
    taken: int = sum(row["coordinations"] for row in answer.mappings() if row["term"] > 1)
    checks.expect(
        "another coordinator finished what the killed one held", taken > 0, f"{taken} taken over"
    )
    return taken


def check_terminals(checks: Checks, total: int, stored: Answer, in_log: Mapping[str, int]) -> None:
    """Exactly one terminal event per coordination, by SQL and by the log itself."""
    by_sql = {row["terminal_events"]: row["coordinations"] for row in stored.mappings()}
    exactly_one = sum(count == 1 for count in in_log.values())
    checks.expect(
        f"{total} of {total} coordinations have exactly one terminal event",
        by_sql == {1: total} and exactly_one == len(in_log) == total,
        f"{by_sql.get(1, 0)} by SQL, {exactly_one} in the log",
    )


def check_twice(checks: Checks, answer: Answer) -> None:
    """The agent that was killed and started again must not have signed anything anew."""
    checks.expect(
        "nobody signed two votes in one coordination",
        not answer.rows,
        f"{len(answer.rows)} found",
    )


def check_audits(checks: Checks, log: Run, bundle: Run, forged: Run) -> None:
    """The log and the bundle are clean, the forged bundle is not and the auditor says where."""
    for what, run in (("the whole log", log), ("the bundle, from the root key alone,", bundle)):
        checks.expect(
            f"{what} passes the audit", run.exit_code == 0, run.divergence() or "nothing wrong"
        )
    found = forged.divergence()
    checks.expect(
        "the bundle with one byte flipped fails, and the auditor names the event",
        forged.exit_code == VERIFICATION_FAILED and "vote_cast by " in found,
        f"exit {forged.exit_code}: {found or 'nothing found'}",
    )
