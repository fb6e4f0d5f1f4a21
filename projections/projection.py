"""What a read model is: one table, a version, and a pure function from folded records to rows.

Rows are functions of the fold alone, never of other rows, so a projection needs no queries and
gives the same content however the log is cut into batches. It keeps its content in one of three
ways:

======== ==========================================================================================
append   one row per record, never touched again but by the projection's own amendment
replace  the rows of a scope (a coordination, an agent) as of the end of the batch, instead of all
         earlier rows of that scope
keep     the first row of a primary key stays
======== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Table, Update

from ..core.coordination import Coordination
from ..core.names import REGISTRY
from ..core.replay import Replay, Verdict

Row = tuple[Any, ...]
"""Values in the order of the table's columns."""

Policy = Literal["append", "replace", "keep"]


class Folded:
    """A batch of records after the fold.

    Attributes:
        verdicts: what became of each record, in log order.
        replay: the fold, as of the last record.
        accepted: verdicts of events that count, by event type; a terminal event that came too early
            counts where what it rests on arrived.
        rejected: verdicts of records that do not count.
        coordinations: the coordinations touched, with the sequence of their last admitted event.
    """

    def __init__(self, verdicts: Sequence[Verdict], replay: Replay) -> None:
        self.verdicts = verdicts
        self.replay = replay
        self.accepted: dict[str, list[Verdict]] = {}
        self.rejected: list[Verdict] = []
        self.coordinations: dict[str, tuple[Coordination, int]] = {}
        self.registry_touched = False
        for verdict in verdicts:
            event = verdict.event
            if verdict.rejection is not None:
                self.rejected.append(verdict)
            elif event is not None:
                self.accepted.setdefault(event.event.header.type, []).append(verdict)
            if verdict.settled is not None:
                settled = Verdict(verdict.record, verdict.settled, None, verdict.coordination)
                self.accepted.setdefault(verdict.settled.type, []).append(settled)
            if verdict.coordination is not None:
                self.coordinations[verdict.coordination.id] = (
                    verdict.coordination,
                    verdict.record.sequence,
                )
            elif event is not None and event.coordination == REGISTRY:
                self.registry_touched = True

    def of(self, *types: str) -> list[Verdict]:
        """Verdicts of events of these types that count; in log order within a type."""
        return [verdict for name in types for verdict in self.accepted.get(name, ())]


class Change(msgspec.Struct, frozen=True):
    """What a batch changes in one read model.

    Attributes:
        rows: new rows.
        scopes: scopes that ``rows`` replace; policy ``replace`` only.
        amendments: parameters of the projection's amendment, applied after the rows.
    """

    rows: Sequence[Row] = ()
    scopes: Collection[str] = ()
    amendments: Sequence[dict[str, Any]] = ()


class Projection(msgspec.Struct, frozen=True):
    """One read model.

    Attributes:
        table: its columns; its name is that of the public view.
        version: raised whenever the content for an old log changes; the model is then rebuilt.
        apply: rows from a folded batch; pure.
        policy: how rows are kept.
        scope: column that ``Change.scopes`` names; policy ``replace`` only.
        amendment: an update of rows of the table, built for the table of a generation.
    """

    table: Table
    version: int
    apply: Callable[[Folded], Change]
    policy: Policy
    scope: str = ""
    amendment: Callable[[Table], Update] | None = None

    @property
    def name(self) -> str:
        """Name of the read model and of its public view."""
        return self.table.name
