"""The embedded PostgreSQL: committed rows survive a crash, databases are a test's own."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from mabeam.infra.embedded_server import EmbeddedServerError
from mabeam.infra.postgres_server import EmbeddedPostgres

pytestmark = pytest.mark.integration


def _execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def _numbers(url: str) -> list[int]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT number FROM entry ORDER BY number")))


def test_committed_rows_survive_a_crash(server_directory: Path) -> None:
    with EmbeddedPostgres(server_directory) as server:
        url = server.url()
        _execute(url, "CREATE TABLE entry (number int)")
        _execute(url, "INSERT INTO entry SELECT generate_series(1, 1000)")
        first_pid = server.pid
        server.kill()
        assert not server.is_running
        server.start()
        assert server.pid != first_pid
        assert server.url() == url
        assert _numbers(url) == list(range(1, 1001))


def test_a_crash_with_an_open_transaction_rolls_it_back(server_directory: Path) -> None:
    with EmbeddedPostgres(server_directory) as server:
        url = server.url()
        _execute(url, "CREATE TABLE entry (number int)")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        connection = engine.connect()
        connection.execute(sa.text("INSERT INTO entry VALUES (1)"))
        server.kill()
        server.start()
        with pytest.raises(sa.exc.OperationalError):
            connection.execute(sa.text("SELECT 1"))
        connection.close()
        assert _numbers(url) == []
        server.restart()
        assert _numbers(url) == []


def test_each_test_gets_an_empty_database(
    postgres_url: str, postgres_server: EmbeddedPostgres
) -> None:
    _execute(postgres_url, "CREATE TABLE entry (number int)")
    assert _numbers(postgres_url) == []
    with pytest.raises(sa.exc.ProgrammingError, match="entry"):
        _numbers(postgres_server.url())


def test_only_loopback_is_served(postgres_server: EmbeddedPostgres) -> None:
    address = f"host=127.0.0.1 port={postgres_server.port} user=postgres"
    with psycopg.connect(address) as connection:
        row = connection.execute("SHOW listen_addresses").fetchone()
    assert row == ("127.0.0.1",)


def test_unknown_setting_is_reported_with_the_servers_own_words(server_directory: Path) -> None:
    server = EmbeddedPostgres(server_directory, settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        server.start()
    assert not server.is_running
