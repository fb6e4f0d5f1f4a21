"""What ``mabeam doctor`` looks at; every check says what was found and what to do about it."""

from __future__ import annotations

import asyncio
import json
import stat
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import datetime

import msgspec

from ..core.bus.production import production_problems
from ..core.errors import MabeamError
from ..core.log import Head
from ..projections.database import check_schema, reading
from ..projections.generations import live_generation
from ..projections.schema import SCHEMA_REVISION
from .config import Config
from .home import Home
from .sql_reading import open_for_reading
from .wiring import Wiring, reader_id

TIMEOUT_S = 5.0


class Diagnosis(msgspec.Struct, frozen=True):
    """One check.

    Attributes:
        name: what was checked.
        ok: whether it is as production needs it.
        detail: what was found.
        hint: what to do, if it is not.
        production_only: acceptable in development.
    """

    name: str
    ok: bool
    detail: str
    hint: str = ""
    production_only: bool = False


async def diagnose(home: Home, config: Config) -> list[Diagnosis]:
    """Look at everything; what cannot be looked at is a failed check, not an error."""
    home.require()
    checks = [*_keys(home), *_transport_security(config)]
    head = await _log(home, config, checks)
    checks += [each async for each in _server(config)]
    checks.append(await asyncio.to_thread(_clock, config))
    checks += await asyncio.to_thread(lambda: list(_database(home, config, head)))
    return checks


def _keys(home: Home) -> Iterator[Diagnosis]:
    open_files = [
        str(path)
        for path in sorted([*home.path.glob("keys/*.key"), *home.path.glob("root.key")])
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    yield Diagnosis(
        "key files",
        not open_files,
        f"open to others: {', '.join(open_files)}" if open_files else "readable by the owner only",
        f"Run: chmod 600 {' '.join(open_files)}" if open_files else "",
    )


def _transport_security(config: Config) -> Iterator[Diagnosis]:
    local = all(
        url.strip().rpartition("//")[2].startswith(("127.", "localhost", "[::1]"))
        for url in config.url.split(",")
    )
    yield Diagnosis(
        "encryption",
        local or bool(config.tls_ca),
        "TLS" if config.tls_ca else "no TLS" + (", loopback only" if local else ""),
        "Set tls_ca (and tls_cert, tls_key) and TLS in the server's configuration.",
        production_only=True,
    )


async def _log(home: Home, config: Config, checks: list[Diagnosis]) -> Head | None:
    try:
        transport = await Wiring(home, reader_id(home), config=config).connect()
    except MabeamError as error:
        checks.append(Diagnosis("log", False, error.message, error.hint))
        return None
    try:
        head = await transport.log.head()
    except MabeamError as error:
        checks.append(Diagnosis("log", False, error.message, "Run 'mabeam log provision'."))
        return None
    finally:
        await transport.close()
    checks.append(Diagnosis("log", True, f"reachable, at sequence {head.sequence}"))
    return head


async def _server(config: Config) -> AsyncIterator[Diagnosis]:
    try:
        problems = await production_problems(config.monitor_url)
    except MabeamError as error:
        yield Diagnosis("server", False, error.message, error.hint)
        return
    if not problems:
        yield Diagnosis("server", True, "version, sync_interval, streams and replicas are right")
    for problem in problems:
        yield Diagnosis(
            "server",
            False,
            problem,
            "See docs/operate/deployment.md.",
            production_only="replica" in problem,
        )


def _clock(config: Config) -> Diagnosis:
    limit_ms = config.max_clock_skew_ms // 2
    hint = "Synchronise both clocks (chrony, systemd-timesyncd)."
    try:
        before = time.time()
        with urllib.request.urlopen(f"{config.monitor_url}/varz", timeout=TIMEOUT_S) as answer:
            now = datetime.fromisoformat(str(json.load(answer)["now"])[:26] + "+00:00")
        middle = (before + time.time()) / 2
    except (OSError, ValueError, KeyError) as error:
        return Diagnosis("clock", False, f"cannot compare with the server: {error}", hint)
    skew_ms = int(abs(now.timestamp() - middle) * 1000)
    found = f"{skew_ms} ms apart from the server, at most {limit_ms} ms allowed"
    return Diagnosis("clock", skew_ms <= limit_ms, found, hint)


def _database(home: Home, config: Config, head: Head | None) -> Iterator[Diagnosis]:
    try:
        with open_for_reading(home.database_url(config)) as engine:
            check_schema(engine)
            yield Diagnosis("schema", True, f"at {SCHEMA_REVISION}")
            with reading(engine) as connection:
                live = live_generation(connection)
    except MabeamError as error:
        yield Diagnosis("schema", False, error.message, error.hint)
        return
    if live is None:
        yield Diagnosis("projector", False, "never ran", "Run 'mabeam projector run'.")
    elif head is not None:
        lag = head.sequence - live.position.sequence
        yield Diagnosis(
            "projector",
            0 <= lag <= config.max_lag and live.position.stream_created_ns == head.created_ns,
            f"{lag} events behind the log, at most {config.max_lag} allowed",
            "Is the projector running, and is it this log's database?",
        )
