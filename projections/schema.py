"""The tables that migrations own: the mirror of the log, projection positions and generations.

Read models are not here. Their tables belong to a generation (``coordination_g3``), are created by
the projector or a rebuild, and are replaced as a whole, never migrated.
"""

from __future__ import annotations

from sqlalchemy import Index, MetaData, Table

from .columns import flag, integer, json_text, raw, text, time_ns

SCHEMA_REVISION = "0001"
"""Newest migration this program knows."""

KNOWN_REVISIONS = ("0001",)
"""All migrations this program knows, oldest first."""

EFFECTIVE, REJECTED, REFUSED = "effective", "rejected", "refused"
"""Verdicts: the event counts; the fold gave it no effect; admission refused the record."""

metadata = MetaData()

event_mirror = Table(
    "event_mirror",
    metadata,
    integer(
        "sequence",
        "Position in the log, from 1, without holes.",
        primary_key=True,
        autoincrement=False,
    ),
    time_ns("stored_ns", "When the log stored it, nanoseconds since 1970."),
    text("subject", "Subject under which it is stored."),
    text("coordination", "Coordination named by the subject; names starting with _ are global."),
    text("verdict", "effective, rejected (by the fold) or refused (by admission)."),
    text("reason", "Why it has no effect; null if it is effective.", nullable=True),
    text("message", "The reason for people; null if it is effective.", nullable=True),
    flag("proven", "The signature was good, so the author is accountable for it."),
    text("event_id", "SHA-256 of the header, hex; null if refused.", nullable=True),
    text("type", "family.event_name; null if refused.", nullable=True),
    text("class", "Subject class ctl, pub or req; null if refused.", nullable=True),
    text("author", "Verified author; null if refused.", nullable=True),
    integer("author_seq", "Number in the author's chain; null if refused.", nullable=True),
    text("epoch", "SHA-256 of the frozen configuration, hex; empty before.", nullable=True),
    time_ns("at_ns", "The author's clock, informative only; null if refused.", nullable=True),
    json_text("body", "Body, byte strings in hex; null if refused.", nullable=True),
    raw("wire", "The stored bytes: header, signature and body."),
    Index("ix_event_mirror_coordination_sequence", "coordination", "sequence"),
    comment="Every stored message of the log, once, with what became of it.",
)

projection_generation = Table(
    "projection_generation",
    metadata,
    integer("generation", "Suffix of its tables, from 1.", primary_key=True, autoincrement=False),
    text("state", "live (behind the public views), building, built or retired."),
    json_text("models", "Version of each read model in it, by name."),
    comment="Sets of read model tables; exactly one is live.",
)

projection_position = Table(
    "projection_position",
    metadata,
    integer(
        "generation", "Generation that has come this far.", primary_key=True, autoincrement=False
    ),
    integer("stream_created_ns", "Creation time of the log; another value is another log."),
    integer("sequence", "Last record projected, 0 before the first."),
    text("record_sha256", "SHA-256 of that record's stored bytes, hex; empty before the first."),
    comment="How far each generation has come; committed with its rows. The live one's position is "
    "also the mirror's.",
)
