"""Verified, folded and written to SQL: events a second, against the bare verification rate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import MabeamError
from ...core.log import Record
from ...migrations import upgrade
from ...projections.database import open_database
from ...projections.projector import MAX_BATCH, Projector
from ...projections.verification import tune_collector, verification_pool
from ...protocols import PROTOCOLS
from .result import Figure
from .sample_log import SampleLog, sample_log
from .signatures import VERIFY_THREADS, verify_rate

WARM_UP = 2_000


def project_rate(url: str, log: SampleLog) -> float:
    """Events a second from stored bytes to committed rows, in a fresh database."""
    engine = open_database(url)
    pool = verification_pool(VERIFY_THREADS)
    try:
        upgrade(engine)
        projector = Projector(engine, log.root.public_key, PROTOCOLS, 1, pool=pool)
        projector.project(log.records[:WARM_UP])
        rest = log.records[WARM_UP:]
        started = time.perf_counter()
        for batch in batches(rest):
            projector.offer(batch)
        projector.flush()
        return len(rest) / (time.perf_counter() - started)
    finally:
        pool.shutdown()
        engine.dispose()


def batches(records: Sequence[Record]) -> list[Sequence[Record]]:
    """As a follower hands them over under load."""
    return [records[at : at + MAX_BATCH] for at in range(0, len(records), MAX_BATCH)]


def measure(directory: Path, events: int) -> list[Figure]:
    """The projection figures, on SQLite and, where its wheel is installed, on PostgreSQL."""
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    log = sample_log(events)
    tune_collector()
    limit = verify_rate()
    figures = [Figure("Ed25519 verifications, two threads", limit, "/s")]
    sqlite = project_rate(f"sqlite:///{directory / 'bench.db'}", log)
    figures.append(
        Figure("verify + fold + SQLite", sqlite, "/s", sqlite / limit, "verify rate", ">= 0.6")
    )
    try:
        from ..postgres_server import EmbeddedPostgres

        server = EmbeddedPostgres(directory / "postgres")
        server.start()
    except (ImportError, MabeamError) as error:
        print(f"PostgreSQL is not measured: {error}")
        return figures
    try:
        rate = project_rate(server.url("postgres"), log)
    finally:
        server.stop()
    figures.append(
        Figure("verify + fold + PostgreSQL", rate, "/s", rate / limit, "verify rate", ">= 0.6")
    )
    return figures
