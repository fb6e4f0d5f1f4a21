"""The audit: everything a log claims is computed again from its records and the root public key.

Every position, hash, signature and author chain; the registry and its snapshots; every opening
with its certificates; every act of a coordinator; every result, byte for byte; every
equivocation.

What makes an audit fail (``wrong``):

* ``sequence_gap``, ``sequence_order``, ``truncated_log``, ``history_changed``: the storage lost,
  reordered, cut off or changed records;
* ``damaged_record``: an event is missing and a record its author did not sign stands in its
  place;
* ``wrong_certificates``, ``wrong_opening``: the frozen configuration is not what request and
  registry give;
* ``wrong_outcome``, ``premature_ending``, ``wrong_ending``, ``two_endings``,
  ``unfounded_failure``, ``wrong_failure`` (E9): the coordinator in force signed an ending the
  events do not give;
* ``snapshot_mismatch``, ``order_mismatch``: it saw another registry, or counted the same events
  in another order; the log may be at fault, so nobody is accused;
* ``false_predecessor``: a service that claims to go on from another whose end gives something else;
* ``not_intended``, ``false_notice``: a coordinator's act its machine did not intend, a verdict
  the fold did not give; likewise acts that the fold refuses with evidence (``wrong_tally``).

What leaves it open (``incomplete``): ``chain_gap``, ``missing_event``, ``missing_request``,
``registry_incomplete``, ``snapshot_unavailable``, ``history_missing``, ``unknown_protocol``,
``machine_failed``. Something the verdict depends on is not there or cannot be judged here. A
finding that would accuse somebody becomes ``incomplete`` where missing records could explain it:
absence is never evidence (EVI-2).

What is contained (``warning``): equivocators with their proofs (E1, E4, E7), accepted evidence and
chains that name a predecessor which is not there (``broken_chain``), forged records without
effect, deadlines early by the signer's clock (COM-7), snapshots overtaken by a revocation,
failures and answers that only the coordinator can know, internal errors reported where the result
had been reached (``suppressed_result``), predecessors that are not among what was read
(``unchecked_predecessor``). Records without effect are no failure: they are counted
by reason. A coordination without an ending is counted as open.

What no audit of a log can show: that the log's operator delayed or dropped a record that nothing
else names (``operator_order``), or cut off a tail that no known head reaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from itertools import islice

from ..errors import NotFoundError, SequenceGapError
from ..log import EventLog, Record
from ..machine import Protocols
from ..names import REGISTRY
from .auditor import DEFAULT_CAPACITY, Auditor
from .findings import Report
from .intake import Scope

BATCH = 1024

History = Callable[[str], Iterable[Record]]
"""All records of a coordination from the log, in order."""

Progress = Callable[[int], None]
"""Told the position reached after every batch."""


def audit_records(
    records: Iterable[Record],
    root_public_key: bytes,
    protocols: Protocols,
    *,
    scope: Scope = "log",
    head: int | None = None,
    history: History | None = None,
    pool: Executor | None = None,
    capacity: int = DEFAULT_CAPACITY,
) -> Report:
    """Audit records given in log order.

    Args:
        records: every record of the log, or a selection that includes the registry.
        root_public_key: the deployment's root key.
        protocols: known protocols.
        scope: see :class:`Auditor`.
        head: last position the log is known to have.
        history: reads a coordination again that was forgotten to save memory; without it a log with
            more than ``capacity`` coordinations may come out incomplete.
        pool: where signatures are checked.
        capacity: coordinations kept in memory.
    """
    auditor = Auditor(root_public_key, protocols, scope=scope, capacity=capacity)
    remaining = iter(records)
    while batch := list(islice(remaining, BATCH)):
        if history is not None:
            for name in auditor.forgotten(batch):
                auditor.restore(name, history(name))
        auditor.feed(batch, pool)
    return auditor.finish(head)


async def audit_log(
    log: EventLog,
    root_public_key: bytes,
    protocols: Protocols,
    *,
    pool: Executor | None = None,
    capacity: int = DEFAULT_CAPACITY,
    progress: Progress | None = None,
) -> Report:
    """Audit a whole log up to its present head; the work is done on a thread.

    Raises:
        LogUnavailableError: the log cannot be read.
    """
    auditor = Auditor(root_public_key, protocols, capacity=capacity)
    head = (await log.head()).sequence
    try:
        async for batch in log.read_all():
            for name in auditor.forgotten(batch):
                auditor.restore(name, await log.read(name))
            await asyncio.to_thread(auditor.feed, batch, pool)
            if progress is not None:
                progress(auditor.position)
    except SequenceGapError as error:
        auditor.damaged("sequence_gap", error.message)
    return auditor.finish(head)


async def audit_coordination(
    log: EventLog,
    coordination: str,
    root_public_key: bytes,
    protocols: Protocols,
    *,
    pool: Executor | None = None,
) -> Report:
    """Audit one coordination of a log, with the registry.

    Raises:
        NotFoundError: the log holds no record of it.
        LogUnavailableError: the log cannot be read.
    """
    records = await log.read(coordination)
    if not records:
        raise NotFoundError(
            f"the log holds nothing of {coordination!r}", hint="See 'mabeam coord ls'."
        )
    registry = await log.read(REGISTRY)
    merged = sorted((*registry, *records), key=lambda record: record.sequence)
    auditor = Auditor(root_public_key, protocols, scope="selection")
    await asyncio.to_thread(auditor.feed, merged, pool)
    return auditor.finish(single=coordination)
