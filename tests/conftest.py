"""Fixtures shared by all tests: real servers on loopback, one of each for a test process.

Every server ends with its fixture, at exit, or through its guard when the test process is killed.
``pytest PATH --rewrite`` writes the golden output below that path anew; the diff is the review.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mabeam.infra.nats_server import EmbeddedNats
from mabeam.infra.postgres_server import EmbeddedPostgres


class Golden:
    """Compares with files kept next to the tests, or writes them.

    Args:
        rewrite: write instead of comparing.
    """

    def __init__(self, rewrite: bool) -> None:
        self._rewrite = rewrite

    def check(self, path: Path, text: str) -> None:
        """``text`` is what stands in the file."""
        if self._rewrite:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path.name}: see --rewrite"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of golden tests."""
    parser.addoption("--rewrite", action="store_true", help="write golden output anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Golden files."""
    return Golden(bool(request.config.getoption("--rewrite")))


@contextmanager
def _short_directory() -> Iterator[Path]:
    """A fresh directory below one that every user may enter: PostgreSQL may run as another user."""
    directory = Path(tempfile.mkdtemp(prefix="mabeam-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """An empty directory for the data of one embedded server, removed afterwards."""
    with _short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def nats_server() -> Iterator[EmbeddedNats]:
    """A running nats-server: one account, no authentication, ``sync_interval: always``.

    Shared by the tests of a process, so each uses stream names of its own.
    """
    with _short_directory() as directory, EmbeddedNats(directory) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL, shared by the tests of a process."""
    with _short_directory() as directory, EmbeddedPostgres(directory) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """SQLAlchemy address of an empty database of this test's own, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    address = f"host=127.0.0.1 port={postgres_server.port} user=postgres dbname=postgres"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres_server.url(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
