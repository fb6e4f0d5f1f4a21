"""Configuration: one TOML file, overridden by ``MABEAM_…`` variables, overridden by options.

Every value knows where it came from, so that ``mabeam config show --origin`` can tell. A key nobody
knows is refused with the nearest known one: a misspelt option must not silently mean its default.
"""

from __future__ import annotations

import difflib
import json
import os
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..core.admission import DEFAULT_CLOCK_SKEW_MS
from ..core.errors import ConfigError
from ..core.names import AgentId

ENVIRONMENT_PREFIX = "MABEAM_"
RESERVED_VARIABLES = frozenset({"MABEAM_HOME", "MABEAM_DEBUG"})

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one deployment directory.

    Attributes:
        url: NATS servers, several separated by commas.
        monitor_url: monitoring pages of one server, for ``mabeam doctor``.
        node: node of members admitted without another one.
        database: SQLAlchemy address of the projections; empty for ``mabeam.db`` in the home.
        health_host: address on which daemons answer ``/livez``, ``/readyz`` and ``/metrics``.
        metrics_port: port of the same; 0 chooses a free one.
        lease_ms: how long a request may stay without progress before another coordinator gets it;
            streams must be provisioned with the same value.
        capacity: coordinations one coordinator runs at a time.
        max_clock_skew_ms: how far an author's clock may run ahead of the log's.
        drain_ms: bound of the orderly end after SIGTERM.
        max_lag: events a projector may be behind the log and still call itself ready.
        replicas: copies of every message, for provisioning: 1 or 3.
        max_bytes: bytes the log takes before it refuses, for provisioning; 0 for no limit.
        tls_ca, tls_cert, tls_key: PEM files; TLS is spoken when ``tls_ca`` is given.
        log_level: least severe level that is logged.
        log_format: ``json``, ``text``, or ``auto``: text on a terminal, JSON lines elsewhere.
    """

    url: str = "nats://127.0.0.1:4222"
    monitor_url: str = "http://127.0.0.1:8222"
    node: AgentId = "local"
    database: str = ""
    health_host: str = "127.0.0.1"
    metrics_port: Port = 0
    lease_ms: Milliseconds = 5_000
    capacity: Count = 256
    max_clock_skew_ms: Milliseconds = DEFAULT_CLOCK_SKEW_MS
    drain_ms: Milliseconds = 20_000
    max_lag: Count = 1_000
    replicas: Literal[1, 3, 5] = 1
    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context, ``None`` without TLS.

        Raises:
            ConfigError: a file is missing or is not PEM.
        """
        if not self.tls_ca:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the TLS files cannot be used: {error}",
                hint="Check tls_ca, tls_cert and tls_key; all are PEM files.",
            ) from None
        return context


FIELDS: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Config)}


class Settings(msgspec.Struct, frozen=True):
    """A configuration and where each value came from.

    Attributes:
        config: the values.
        origin: by key: ``option``, a variable, a file, or ``default``.
    """

    config: Config
    origin: dict[str, str]


def load(
    path: Path,
    *,
    options: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the configuration.

    Args:
        path: the TOML file; it need not exist.
        options: values given on the command line; ``None`` values are absent.
        environment: variables, ``os.environ`` by default.

    Raises:
        ConfigError: unreadable file, unknown key, or a value out of its bounds.
    """
    values: dict[str, Any] = {}
    origin = dict.fromkeys(FIELDS, "default")
    for key, value in _read_file(path).items():
        _check_key(key, f"in {path}")
        values[key] = _convert(key, value, str(path), strict=True)
        origin[key] = str(path)
    for variable, text in sorted((os.environ if environment is None else environment).items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in RESERVED_VARIABLES:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        _check_key(key, f"(variable {variable})", shown=lambda name: f"MABEAM_{name.upper()}")
        values[key] = _convert(key, text, variable, strict=False)
        origin[key] = variable
    for key, value in (options or {}).items():
        if value is None:
            continue
        _check_key(key, "(option)")
        values[key] = _convert(key, value, "option", strict=False)
        origin[key] = "option"
    return Settings(Config(**values), origin)


def write(path: Path, values: Mapping[str, str | int]) -> None:
    """Write a new configuration file holding ``values``; the rest stays default."""
    for key, value in values.items():
        _check_key(key, "(new file)")
        _convert(key, value, "new file", strict=True)
    # JSON strings and numbers are TOML strings and numbers.
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    path.write_text(f"# Settings of this deployment: mabeam config show --origin\n{text}")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", hint='Write one setting a line: url = "nats://…"'
        ) from None


def _check_key(key: str, where: str, shown: Any = str) -> None:
    if key in FIELDS:
        return
    near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
    known = ", ".join(map(shown, FIELDS))
    hint = f"Did you mean {shown(near[0])!r}?" if near else f"The settings are: {known}."
    raise ConfigError(f"unknown setting {shown(key)!r} {where}", hint=hint)


def _convert(key: str, value: Any, source: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, FIELDS[key], strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"setting {key!r} is {value!r} ({source}): {error}",
            hint=f"Correct or remove it there; the default is {getattr(Config(), key)!r}.",
        ) from None
