"""The projector as a service: one follower that writes the log into the database."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor

from sqlalchemy import Engine

from ..core.bus.counters import Counters
from ..core.bus.jetstream import JetStreamTransport
from ..core.errors import LogError
from ..core.telemetry import logger
from ..migrations import upgrade
from ..projections.database import DatabaseUnavailableError, open_database
from ..projections.follower import Follower
from ..projections.projector import Projector
from ..projections.verification import tune_collector, verification_pool
from ..protocols import PROTOCOLS
from .health_server import Check
from .metrics import PrometheusTelemetry
from .services import persist
from .wiring import Wiring

_log = logger("projector")

MEASURE_S = 1.0
STALE_S = 15.0
"""Without a measurement of the lag for so long, readiness is denied."""


class ProjectorService:
    """Runs one projector.

    Args:
        wiring: whose keys and settings are used.
        telemetry: where figures go.
        workers: processes that check signatures; 0 checks them inline.
        migrate: upgrade the schema at the start.
    """

    kind = "projector"

    def __init__(
        self,
        wiring: Wiring,
        telemetry: PrometheusTelemetry,
        *,
        workers: int | None = None,
        migrate: bool = True,
    ) -> None:
        self._wiring = wiring
        self._telemetry = telemetry
        self._workers = default_workers() if workers is None else workers
        self._migrate = migrate
        self._transport: JetStreamTransport | None = None
        self._follower: Follower | None = None
        self._following: asyncio.Task[None] | None = None
        self._draining = False
        self._lag: int | None = None
        self._measured_at = 0.0
        self._reported: dict[tuple[str, str], int] = {}
        telemetry.watch(self._counters)

    def _counters(self) -> Counters | None:
        return self._transport.counters if self._transport is not None else None

    async def run(self) -> None:
        """Connect, however long it takes, then project."""
        tune_collector()
        engine = open_database(self._wiring.home.database_url(self._wiring.config))
        pool: Executor | None = None
        try:
            if self._migrate:
                await self._upgrade(engine)
            transport = self._transport = await self._wiring.connect_patiently()
            if self._workers:
                pool = await asyncio.to_thread(verification_pool, self._workers)
            await persist(
                lambda: self._project(transport, engine, pool),
                lambda: self._telemetry.count("host_restarts"),
            )
        finally:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            if self._transport is not None:
                await self._transport.close()
            engine.dispose()

    async def _upgrade(self, engine: Engine) -> None:
        """Bring the schema up to date, waiting for a database that is not up yet."""
        pause_s = 0.5
        while True:
            try:
                await asyncio.to_thread(upgrade, engine)
                return
            except DatabaseUnavailableError as error:
                _log.warning("waiting_for_database", extra={"why": error.message})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 10.0)

    async def _project(
        self, transport: JetStreamTransport, engine: Engine, pool: Executor | None
    ) -> None:
        wiring = self._wiring
        head = await transport.log.head()
        projector = await asyncio.to_thread(
            Projector,
            engine,
            wiring.root_public_key,
            PROTOCOLS,
            head.created_ns,
            pool=pool,
            max_clock_skew_ms=wiring.config.max_clock_skew_ms,
        )
        follower = self._follower = Follower(projector, transport.log)
        _log.info("projecting", extra={"from": follower.position, "head": head.sequence})
        measuring = asyncio.create_task(self._measure(follower, projector))
        self._following = asyncio.create_task(follower.run())
        try:
            await self._following
        except asyncio.CancelledError:
            if not self._draining:
                raise
            # The batch under way was committed; position and rows are one transaction.
            _log.info("position_flushed", extra={"sequence": follower.position})
        finally:
            measuring.cancel()
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _measure(self, follower: Follower, projector: Projector) -> None:
        while True:
            try:
                self._lag = await follower.lag()
                self._measured_at = time.monotonic()
                self._telemetry.gauge("projector_lag", self._lag)
            except LogError as error:
                _log.warning("lag_not_measured", extra={"why": error.message})
            self._telemetry.gauge("projector_position", follower.position)
            for key, number in list(projector.counts.rejections.items()):
                more = number - self._reported.get(key, 0)
                if more > 0:
                    self._telemetry.count(
                        "inputs_rejected", more, protocol=key[0] or "none", reason=key[1]
                    )
                self._reported[key] = number
            await asyncio.sleep(MEASURE_S)

    def drain(self) -> bool:
        """Commit the batch under way and stop."""
        if self._following is None:
            return False
        self._draining = True
        self._following.cancel()
        return True

    async def hand_over(self) -> None:
        """Nothing to give back: another projector continues from the committed position."""

    async def checks(self) -> Sequence[Check]:
        """Bus reachable, lag measured lately against the broker, and small."""
        connected = self._transport is not None and self._transport.connection.is_connected
        fresh = self._lag is not None and time.monotonic() - self._measured_at < STALE_S
        limit = self._wiring.config.max_lag
        position = self._follower.position if self._follower is not None else 0
        return (
            Check("bus", connected, self._wiring.config.url),
            Check("measured", fresh, "lag measured against the broker"),
            Check(
                "lag",
                self._lag is not None and self._lag <= limit,
                f"{'unknown' if self._lag is None else self._lag} behind, at {position}, "
                f"at most {limit} allowed",
            ),
        )


def default_workers() -> int:
    """Processes that check signatures unless told otherwise: all cores but one, at most three."""
    return min(3, max(0, (os.cpu_count() or 1) - 1))
