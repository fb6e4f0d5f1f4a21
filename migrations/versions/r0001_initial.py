"""Mirror, generations and positions.

Frozen: a released revision is never edited. Comments on columns belong to the schema as PostgreSQL
keeps it; SQLite has none.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _create_mirror()
    _create_generations()
    _create_positions()


def _create_mirror() -> None:
    op.create_table(
        "event_mirror",
        sa.Column(
            "sequence",
            _INTEGER,
            primary_key=True,
            comment="Position in the log, from 1, without holes.",
        ),
        sa.Column(
            "stored_ns",
            _INTEGER,
            nullable=False,
            comment="When the log stored it, nanoseconds since 1970.",
        ),
        sa.Column("subject", _TEXT, nullable=False, comment="Subject under which it is stored."),
        sa.Column(
            "coordination",
            _TEXT,
            nullable=False,
            comment="Coordination named by the subject; names starting with _ are global.",
        ),
        sa.Column(
            "verdict",
            _TEXT,
            nullable=False,
            comment="effective, rejected (by the fold) or refused (by admission).",
        ),
        sa.Column(
            "reason", _TEXT, nullable=True, comment="Why it has no effect; null if it is effective."
        ),
        sa.Column(
            "message",
            _TEXT,
            nullable=True,
            comment="The reason for people; null if it is effective.",
        ),
        sa.Column(
            "proven",
            sa.Boolean(),
            nullable=False,
            comment="The signature was good, so the author is accountable for it.",
        ),
        sa.Column(
            "event_id", _TEXT, nullable=True, comment="SHA-256 of the header, hex; null if refused."
        ),
        sa.Column("type", _TEXT, nullable=True, comment="family.event_name; null if refused."),
        sa.Column(
            "class", _TEXT, nullable=True, comment="Subject class ctl, pub or req; null if refused."
        ),
        sa.Column("author", _TEXT, nullable=True, comment="Verified author; null if refused."),
        sa.Column(
            "author_seq",
            _INTEGER,
            nullable=True,
            comment="Number in the author's chain; null if refused.",
        ),
        sa.Column(
            "epoch",
            _TEXT,
            nullable=True,
            comment="SHA-256 of the frozen configuration, hex; empty before.",
        ),
        sa.Column(
            "at_ns",
            _INTEGER,
            nullable=True,
            comment="The author's clock, informative only; null if refused.",
        ),
        sa.Column(
            "body", _TEXT, nullable=True, comment="Body, byte strings in hex; null if refused."
        ),
        sa.Column(
            "wire",
            sa.LargeBinary(),
            nullable=False,
            comment="The stored bytes: header, signature and body.",
        ),
        comment="Every stored message of the log, once, with what became of it.",
    )
    op.create_index(
        "ix_event_mirror_coordination_sequence", "event_mirror", ["coordination", "sequence"]
    )


def _create_generations() -> None:
    op.create_table(
        "projection_generation",
        sa.Column(
            "generation",
            _INTEGER,
            primary_key=True,
            autoincrement=False,
            comment="Suffix of its tables, from 1.",
        ),
        sa.Column(
            "state",
            _TEXT,
            nullable=False,
            comment="live (behind the public views), building, built or retired.",
        ),
        sa.Column(
            "models", _TEXT, nullable=False, comment="Version of each read model in it, by name."
        ),
        comment="Sets of read model tables; exactly one is live.",
    )


def _create_positions() -> None:
    op.create_table(
        "projection_position",
        sa.Column(
            "generation",
            _INTEGER,
            primary_key=True,
            autoincrement=False,
            comment="Generation that has come this far.",
        ),
        sa.Column(
            "stream_created_ns",
            _INTEGER,
            nullable=False,
            comment="Creation time of the log; another value is another log.",
        ),
        sa.Column(
            "sequence",
            _INTEGER,
            nullable=False,
            comment="Last record projected, 0 before the first.",
        ),
        sa.Column(
            "record_sha256",
            _TEXT,
            nullable=False,
            comment="SHA-256 of that record's stored bytes, hex; empty before the first.",
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
