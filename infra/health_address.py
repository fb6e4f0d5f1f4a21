"""Where the daemon of an id answers health requests: published in a file, asked over HTTP."""

from __future__ import annotations

import http.client
from pathlib import Path

import msgspec

from .home import Home

_TIMEOUT_S = 5.0


class HealthAddress(msgspec.Struct, frozen=True):
    """Where a running daemon answers health requests; written to ``state/<id>/health.json``."""

    pid: int
    host: str
    port: int


def health_address_path(home: Home, id: str) -> Path:
    """File in which the daemon of an id publishes its health address."""
    return home.state_directory(id) / "health.json"


def read_health_address(home: Home, id: str) -> HealthAddress | None:
    """The health address of an id's daemon as last published, ``None`` without one."""
    try:
        return msgspec.json.decode(health_address_path(home, id).read_bytes(), type=HealthAddress)
    except (OSError, msgspec.MsgspecError):
        return None


def ask(address: HealthAddress, path: str) -> tuple[int, str]:
    """Status and text of a health request; status 0 when nobody answers."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()
