"""Every test that takes ``engine`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logbook import Logbook, eventful_log
from sqlalchemy import Engine

from mabeam import migrations
from mabeam.projections.database import open_database
from mabeam.projections.digest import digest
from mabeam.projections.projector import Projector
from mabeam.protocols import PROTOCOLS

MakeProjector = Callable[..., Projector]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mabeam.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database at the newest schema, with nothing in it."""
    migrations.upgrade(database_url)
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def book() -> Logbook:
    """A log in which everything happens once. Not to be written to."""
    return eventful_log()


@pytest.fixture
def make_projector(engine: Engine, book: Logbook) -> MakeProjector:
    """Makes projectors of ``book`` into ``engine``, as a restarted process would."""

    def make(**options: object) -> Projector:
        return Projector(
            engine,
            book.root.public_key,
            PROTOCOLS,
            book.created_ns,
            **options,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="session")
def expected_models(book: Logbook, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of ``book`` projected record by record into SQLite."""
    url = f"sqlite:///{tmp_path_factory.mktemp('reference')}/mabeam.db"
    migrations.upgrade(url)
    reference = open_database(url)
    projector = Projector(reference, book.root.public_key, PROTOCOLS, book.created_ns)
    for record in book.records:
        projector.project([record])
    models = digest(reference).models
    reference.dispose()
    return models
