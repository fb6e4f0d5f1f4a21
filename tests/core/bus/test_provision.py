"""Streams and the shared consumer: created once, verified ever after, judged for production."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mabeam.core.bus.production import production_problems
from mabeam.core.errors import ConfigError, LogUnavailableError

pytestmark = pytest.mark.integration


async def test_repeating_changes_nothing(bus: Any) -> None:
    operator = await bus.connect("operator")
    await operator.log.append(bus.submission(0, author="operator"))
    before = await operator.log.head()
    await operator.provision()
    assert await operator.log.head() == before


async def test_stream_keeps_everything_and_obeys_no_header(bus: Any) -> None:
    raw = await bus.raw("operator")
    config = json.loads((await raw.request("$JS.API.STREAM.INFO.EVT")).data)["config"]
    for field in ("deny_delete", "deny_purge", "allow_direct", "allow_atomic"):
        assert config[field] is True
    for field in ("allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules"):
        assert not config.get(field)
    assert (config["discard"], config["max_age"], config["compression"]) == ("new", 0, "s2")


async def test_another_configuration_is_named(bus: Any) -> None:
    operator = await bus.connect("operator")
    with pytest.raises(ConfigError, match="stream EVT exists with max_bytes = -1"):
        await operator.provision(max_bytes=10**9)
    with pytest.raises(ConfigError, match="consumer requests exists with ack_wait"):
        await operator.provision(ack_wait_s=7)


async def test_wrong_key_cannot_provision(bus: Any) -> None:
    raw = await bus.raw("operator")
    await raw.request("$JS.API.STREAM.DELETE.WORK")
    coordinator = await bus.connect("coord")
    with pytest.raises(Exception, match="not permitted"):
        await coordinator.provision()


async def test_a_single_server_is_not_called_production_ready(bus: Any) -> None:
    problems = await production_problems(bus.server.monitor_url)
    assert problems == [
        f"stream {name} has 1 replica(s), 3 are needed" for name in ("EVT", "WORK", "PRESENCE")
    ]


async def test_unreachable_monitoring_is_an_error() -> None:
    with pytest.raises(LogUnavailableError):
        await production_problems("http://127.0.0.1:1")
