"""Whether a running deployment keeps what it acknowledges, read from the monitoring pages."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import cast

from ..errors import LogUnavailableError

MIN_SERVER = (2, 15)
MIN_REPLICAS = 3
TIMEOUT_S = 5.0


async def production_problems(monitor_url: str) -> list[str]:
    """Why this deployment may not be called production-ready; empty if it may.

    Args:
        monitor_url: base of the server's monitoring pages, ``http://host:8222``.

    Raises:
        LogUnavailableError: the pages cannot be read.
    """
    base = monitor_url.rstrip("/")
    server, streams = await asyncio.gather(
        asyncio.to_thread(_fetch, f"{base}/varz"),
        asyncio.to_thread(_fetch, f"{base}/jsz?config=true&streams=true"),
    )
    return [*_server_problems(server, streams), *_stream_problems(streams)]


def _server_problems(server: Mapping[str, object], jetstream: Mapping[str, object]) -> list[str]:
    problems = []
    version = str(server.get("version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers or (int(numbers[1]), int(numbers[2])) < MIN_SERVER:
        problems.append(f"nats-server is {version or 'of unknown version'}, 2.15 is needed")
    config = cast(Mapping[str, object], jetstream.get("config") or {})
    if not config.get("sync_always"):
        problems.append("sync_interval is not 'always': acknowledged events can be lost")
    return problems


def _stream_problems(jetstream: Mapping[str, object]) -> list[str]:
    accounts = cast(list[Mapping[str, object]], jetstream.get("account_details") or [])
    found: dict[str, int] = {}
    for account in accounts:
        for stream in cast(list[Mapping[str, object]], account.get("stream_detail") or []):
            config = cast(Mapping[str, object], stream.get("config") or {})
            found[str(stream.get("name"))] = cast(int, config.get("num_replicas", 1))
    problems = []
    for name in ("EVT", "WORK", "PRESENCE"):
        if name not in found:
            problems.append(f"stream {name} does not exist")
        elif found[name] < MIN_REPLICAS:
            problems.append(f"stream {name} has {found[name]} replica(s), 3 are needed")
    return problems


def _fetch(url: str) -> Mapping[str, object]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return cast(Mapping[str, object], json.load(response))
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise LogUnavailableError(
            f"cannot read {url}: {error}",
            hint="Is 'http' set in the server's configuration and reachable from here?",
        ) from None
