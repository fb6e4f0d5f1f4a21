"""``mabeam bench``: all figures of one machine in one run."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ...core.bus.jetstream import connect
from ..home import OPERATOR, Home
from ..local import LocalDeployment
from . import appending, byzantine, coordinating, ordering_daemons, projecting
from .result import Figure, table

Result = TypeVar("Result")
SECTIONS = ("append", "project", "byzantine", "coordinate", "memory")


def run_fast(work: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop where there is one, as daemons do."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def run(sections: tuple[str, ...] = SECTIONS, *, events: int = 100_000, json: bool = False) -> int:
    """Measure and print.

    Args:
        sections: which of :data:`SECTIONS` to run.
        events: size of the bulk runs and of the log at which memory is read.
        json: print one JSON document instead of tables.
    """
    scratch = Path(tempfile.mkdtemp(prefix="mabeam-bench-"))
    scratch.chmod(0o755)
    results: dict[str, list[Figure]] = {}
    try:
        for section, figures in measure(sections, events, scratch):
            results[section] = figures
            if not json:
                print(table(section, figures), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if json:
        print(msgspec.json.encode(results).decode())
    return 0


def measure(
    sections: tuple[str, ...], events: int, scratch: Path
) -> Iterator[tuple[str, list[Figure]]]:
    """Yield (section, figures) as they are measured."""
    if "append" in sections:
        yield "append", measure_append(scratch / "append", events)
    if "project" in sections:
        yield "project", projecting.measure(scratch / "project", max(5_000, events // 5))
    if "byzantine" in sections:
        yield "byzantine", list(byzantine.measure(run_fast, scratch))
        yield "byzantine daemons", measure_daemons(scratch / "byzantine", max(5_000, events // 5))
    if "coordinate" in sections or "memory" in sections:
        deployment = coordinating.start(scratch / "coordinate")
        try:
            if "coordinate" in sections:
                work = coordinating.measure(deployment, unloaded=300, loaded=2_000)
                yield "coordinate", run_fast(work)
            if "memory" in sections:
                yield "memory", run_fast(coordinating.measure_memory(deployment, events=events))
        finally:
            deployment.stop_all()


def measure_daemons(directory: Path, requests: int) -> list[Figure]:
    """Ordering by replicas that are processes of their own."""
    deployment = ordering_daemons.start(directory)
    try:
        return run_fast(ordering_daemons.measure(deployment, requests))
    finally:
        deployment.stop_all()


def measure_append(directory: Path, events: int) -> list[Figure]:
    """The append figures on a fresh server with ``sync_interval: always``."""
    with LocalDeployment(Home(directory)) as deployment:
        deployment.create()
        deployment.start_server()
        deployment.provision()
        home = deployment.home

        async def work() -> list[Figure]:
            url, seed = home.config().url, home.secrets(OPERATOR).nkey_seed
            transport = await connect(url, id=OPERATOR, role="operator", nkey_seed=seed)
            try:
                return await appending.measure(transport.log, url, seed, min(events, 50_000))
            finally:
                await transport.close()

        return run_fast(work())
