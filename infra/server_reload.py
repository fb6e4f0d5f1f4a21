"""Having the local server read its generated configuration again, from any process here."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from ..core.errors import MabeamError
from .home import Home

RELOAD_TIMEOUT_S = 10.0


class ServerReloadError(MabeamError):
    """The local server did not take its new configuration."""

    code = "server_reload"
    exit_code = 5


def reload_server(home: Home) -> bool:
    """Send SIGHUP to the local server of a home and wait until it has read its configuration.

    Returns:
        ``False`` if the home's server does not run on this machine: reload yours yourself.

    Raises:
        ServerReloadError: it did not take the new configuration.
    """
    pid = server_pid(home)
    if pid is None:
        return False
    monitor_url = home.config().monitor_url
    before = _load_time(monitor_url)
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_TIMEOUT_S
    while _load_time(monitor_url) in (before, ""):
        if time.monotonic() > deadline:
            raise ServerReloadError(
                "nats-server did not take its new configuration",
                hint=f"Read {home.nats_directory / 'nats-server.log'}.",
            )
        time.sleep(0.01)
    return True


def server_pid(home: Home) -> int | None:
    """Process id of the local server, if that process really uses the home's configuration."""
    try:
        pid = int(home.server_pid_path.read_text())
    except (OSError, ValueError):
        return None
    return pid if str(home.server_config_path) in _command_line(pid) else None


def _command_line(pid: int) -> str:
    """Program and arguments of a process, empty if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        command = ["ps", "-o", "command=", "-p", str(pid)]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _load_time(monitor_url: str) -> str:
    try:
        with urllib.request.urlopen(f"{monitor_url}/varz", timeout=5) as answer:
            return str(json.load(answer).get("config_load_time"))
    except (OSError, ValueError, http.client.HTTPException):
        return ""
