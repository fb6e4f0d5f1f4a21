"""Settings: precedence, origins, and refusals that name the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mabeam.core.errors import ConfigError
from mabeam.infra import config


def _load(tmp_path: Path, text: str = "", **more: Any) -> config.Settings:
    path = tmp_path / "mabeam.toml"
    if text:
        path.write_text(text)
    return config.load(path, environment=more.pop("environment", {}), **more)


def test_without_a_file_everything_is_default(tmp_path: Path) -> None:
    settings = _load(tmp_path)
    assert settings.config == config.Config()
    assert set(settings.origin.values()) == {"default"}


def test_option_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        'lease_ms = 1\ncapacity = 2\nnode = "f"\n',
        environment={"MABEAM_LEASE_MS": "3", "MABEAM_CAPACITY": "4", "HOME": "/"},
        options={"lease_ms": 5, "capacity": None},
    )
    assert (settings.config.lease_ms, settings.config.capacity) == (5, 4)
    assert settings.config.node == "f"
    assert settings.origin["lease_ms"] == "option"
    assert settings.origin["capacity"] == "MABEAM_CAPACITY"
    assert settings.origin["node"] == str(tmp_path / "mabeam.toml")
    assert settings.origin["url"] == "default"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"text": "lease_mss = 1"}, "unknown setting 'lease_mss'", "'lease_ms'"),
        ({"text": "databse = ''"}, "unknown setting 'databse'", "'database'"),
        ({"text": "zzzzzz = 1"}, "unknown setting 'zzzzzz'", "The settings are: url, "),
        (
            {"environment": {"MABEAM_METRIC_PORT": "1"}},
            "unknown setting 'MABEAM_METRIC_PORT'",
            "'MABEAM_METRICS_PORT'",
        ),
        ({"text": "lease_ms = 'x'"}, "setting 'lease_ms' is 'x'", "the default is 5000"),
        ({"text": "metrics_port = 70000"}, "setting 'metrics_port' is 70000", ""),
        ({"environment": {"MABEAM_REPLICAS": "2"}}, "setting 'replicas' is '2'", ""),
        ({"text": "node = 'North'"}, "setting 'node' is 'North'", ""),
        ({"text": "a = = b"}, "is not valid TOML", ""),
    ],
)
def test_bad_settings_are_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        _load(tmp_path, **arguments)
    assert message in refusal.value.message
    assert hint in refusal.value.hint


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "mabeam.toml"
    config.write(path, {"url": 'nats://h:1?a="b"\\', "lease_ms": 77})
    read = config.load(path, environment={}).config
    assert (read.url, read.lease_ms) == ('nats://h:1?a="b"\\', 77)


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match="TLS files"):
        config.Config(tls_ca=missing).tls()
    assert config.Config().tls() is None
