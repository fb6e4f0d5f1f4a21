"""Mirror, generations and positions.

Frozen: a released revision is never edited. Comments on columns belong to the schema as PostgreSQL
keeps it; SQLite has none.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _column(
    name: str, kind: Any, comment: str, *, null: bool = False, key: bool = False
) -> sa.Column[Any]:
    return sa.Column(
        name, kind, primary_key=key, nullable=null, autoincrement=False, comment=comment
    )


def upgrade() -> None:
    """Create the tables."""
    _create_mirror()
    _create_generations()
    _create_positions()
    if op.get_bind().dialect.name == "postgresql":
        # Signatures and hashes do not compress; trying to costs a quarter of an insert.
        op.execute("ALTER TABLE event_mirror SET (toast_tuple_target = 8160)")
        op.execute("ALTER TABLE event_mirror ALTER COLUMN wire SET STORAGE EXTERNAL")


def _create_mirror() -> None:
    op.create_table(
        "event_mirror",
        _column("sequence", _INTEGER, "Position in the log, from 1, without holes.", key=True),
        _column("stored_ns", _INTEGER, "When the log stored it, nanoseconds since 1970."),
        _column("subject", _TEXT, "Subject under which it is stored."),
        _column(
            "coordination",
            _TEXT,
            "Coordination named by the subject; names starting with _ are global.",
        ),
        _column("verdict", _TEXT, "effective, rejected (by the fold) or refused (by admission)."),
        _column("reason", _TEXT, "Why it has no effect; null if it is effective.", null=True),
        _column("message", _TEXT, "The reason for people; null if it is effective.", null=True),
        _column(
            "proven", sa.Boolean(), "The signature was good, so the author is accountable for it."
        ),
        _column("event_id", _TEXT, "SHA-256 of the header, hex; null if refused.", null=True),
        _column("type", _TEXT, "family.event_name; null if refused.", null=True),
        _column("class", _TEXT, "Subject class ctl, pub or req; null if refused.", null=True),
        _column("author", _TEXT, "Verified author; null if refused.", null=True),
        _column(
            "author_seq", _INTEGER, "Number in the author's chain; null if refused.", null=True
        ),
        _column(
            "epoch", _TEXT, "SHA-256 of the frozen configuration, hex; empty before.", null=True
        ),
        _column(
            "at_ns", _INTEGER, "The author's clock, informative only; null if refused.", null=True
        ),
        _column("body", _TEXT, "Body, byte strings in hex; null if refused.", null=True),
        _column("wire", sa.LargeBinary(), "The stored bytes: header, signature and body."),
        comment="Every stored message of the log, once, with what became of it.",
    )
    op.create_index(
        "ix_event_mirror_coordination_sequence", "event_mirror", ["coordination", "sequence"]
    )


def _create_generations() -> None:
    op.create_table(
        "projection_generation",
        _column("generation", _INTEGER, "Suffix of its tables, from 1.", key=True),
        _column("state", _TEXT, "live (behind the public views), building, built or retired."),
        _column("models", _TEXT, "Version of each read model in it, by name."),
        comment="Sets of read model tables; exactly one is live.",
    )


def _create_positions() -> None:
    op.create_table(
        "projection_position",
        _column("generation", _INTEGER, "Generation that has come this far.", key=True),
        _column(
            "stream_created_ns", _INTEGER, "Creation time of the log; another value is another log."
        ),
        _column("sequence", _INTEGER, "Last record projected, 0 before the first."),
        _column(
            "record_sha256",
            _TEXT,
            "SHA-256 of that record's stored bytes, hex; empty before the first.",
        ),
        comment="How far each generation has come; committed with its rows. "
        "The live one's position is also the mirror's.",
    )


def downgrade() -> None:
    """Drop everything: public views, read models of all generations, and the mirror."""
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT generation, models FROM projection_generation"))
    generations = [(row.generation, sorted(json.loads(row.models))) for row in rows]
    for view in sorted({"event"}.union(*(models for _, models in generations))):
        op.execute(f"DROP VIEW IF EXISTS {view}")
    for generation, models in generations:
        for model in models:
            op.execute(f"DROP TABLE IF EXISTS {model}_g{generation}")
    for table in ("projection_position", "projection_generation", "event_mirror"):
        op.drop_table(table)
