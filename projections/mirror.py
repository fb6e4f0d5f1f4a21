"""The mirror: every stored message as a row, and back from rows to records and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.sql import ColumnElement

from ..core.admission import Rejection, reject
from ..core.envelope import decode_event
from ..core.errors import PeerProtocolError
from ..core.log import Record
from ..core.machine import LogEvent
from ..core.names import REGISTRY
from ..core.replay import Replay, Verdict
from . import projection
from .columns import clean_text
from .readable import json_of
from .schema import EFFECTIVE, REFUSED, REJECTED, event_mirror
from .writing import any_of, listed

READ_BATCH = 1000
"""Rows read at a time."""

_RECORD_COLUMNS = (
    event_mirror.c.sequence,
    event_mirror.c.stored_ns,
    event_mirror.c.subject,
    event_mirror.c.wire,
)


def mirror_row(verdict: Verdict) -> projection.Row:
    """The row of one record, in the order of :data:`~.schema.event_mirror`."""
    record, event, rejected = verdict.record, verdict.event, verdict.rejection
    subject = clean_text(record.subject)
    tokens = subject.split(".", 5)
    if event is None:
        assert rejected is not None
        reason, message = rejected.reason, clean_text(rejected.message)
        start = (record.sequence, record.stored_ns, subject, tokens[3], REFUSED, reason, message)
        return (*start, rejected.proven, *(None,) * 8, record.wire)
    header = event.event.header
    return (
        record.sequence,
        record.stored_ns,
        subject,
        tokens[3],
        EFFECTIVE if rejected is None else REJECTED,
        None if rejected is None else rejected.reason,
        None if rejected is None else clean_text(rejected.message),
        True,
        event.event.id.hex(),
        header.type,
        tokens[4],
        header.author,
        header.author_seq,
        header.epoch.hex(),
        header.at_ns,
        json_of(event.content),
        record.wire,
    )


def record_of(row: Sequence[Any]) -> Record:
    """The record of a row that starts with sequence, storage time, subject and bytes."""
    return Record(*row[:4])


def read_records(
    connection: Connection, after: int, upto: int, *, coordination: str = ""
) -> Iterator[list[Record]]:
    """Records with ``after`` < sequence <= ``upto``, in batches of :data:`READ_BATCH`."""
    within: list[ColumnElement[bool]] = []
    if coordination:
        within.append(event_mirror.c.coordination == coordination)
    while True:
        query = (
            select(*_RECORD_COLUMNS)
            .where(event_mirror.c.sequence > after, event_mirror.c.sequence <= upto, *within)
            .order_by(event_mirror.c.sequence)
            .limit(READ_BATCH)
        )
        records = [record_of(row) for row in connection.execute(query)]
        if not records:
            return
        after = records[-1].sequence
        yield records


def restore_registry(connection: Connection, replay: Replay, upto: int) -> None:
    """Fold the registry up to a sequence, as it was folded before."""
    for event in _admitted(connection, replay, [REGISTRY], upto):
        try:
            replay.fold_registry(event)
        except PeerProtocolError:
            continue  # it was rejected, and recorded, when it was first folded


def restore_coordinations(
    connection: Connection, replay: Replay, names: Sequence[str], upto: int
) -> int:
    """Bring coordinations back into memory as of a sequence; one query for all of them.

    Returns:
        How many of them had any admitted event.
    """
    restored = set()
    for event in _admitted(connection, replay, names, upto):
        replay.restore(event.coordination, (event,))
        restored.add(event.coordination)
    return len(restored)


def _admitted(
    connection: Connection, replay: Replay, names: Sequence[str], upto: int
) -> Iterator[LogEvent]:
    columns = ", ".join(column.name for column in _RECORD_COLUMNS)
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    rows = connection.exec_driver_sql(
        f"SELECT {columns} FROM event_mirror WHERE coordination {any_of(connection)} "
        f"AND sequence <= {mark} AND verdict <> '{REFUSED}' ORDER BY sequence",
        (listed(connection, names), upto),
        execution_options={"yield_per": READ_BATCH},
    )
    for row in rows:
        yield replay.admission.recall(record_of(row))


def refold(connection: Connection, replay: Replay, after: int, upto: int) -> list[Verdict]:
    """Fold mirrored records again without checking signatures: what admission said is believed.

    The fold must stand at ``after``; coordinations it has forgotten are restored first.
    """
    query = (
        select(
            *_RECORD_COLUMNS,
            event_mirror.c.verdict,
            event_mirror.c.reason,
            event_mirror.c.message,
            event_mirror.c.proven,
        )
        .where(event_mirror.c.sequence > after, event_mirror.c.sequence <= upto)
        .order_by(event_mirror.c.sequence)
    )
    rows = connection.execute(query).all()
    records = [record_of(row) for row in rows]
    if missing := replay.unknown(records):
        restore_coordinations(connection, replay, sorted(missing), after)
    verdicts = []
    for row, record in zip(rows, records, strict=True):
        if row.verdict == REFUSED:
            rejection = _refused(replay, record, row.reason, row.message, row.proven)
            verdicts.append(Verdict(record, None, rejection, None))
        else:
            verdicts.append(replay.judge(record, replay.admission.recall(record)))
    return verdicts


def _refused(replay: Replay, record: Record, reason: str, message: str, proven: bool) -> Rejection:
    try:
        event = decode_event(record.wire)
    except PeerProtocolError:
        rejection = replay.admission.examine(record)
        assert isinstance(rejection, Rejection)
        return rejection
    return reject(record, event, PeerProtocolError(reason, message), proven=proven)
