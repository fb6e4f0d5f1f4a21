"""The documented schema is the schema, and the documented queries run."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import source_tree
from logbook import Logbook
from sqlalchemy import Engine, inspect

from mabeam.projections.database import reading
from mabeam.projections.projector import Projector
from mabeam.projections.schema_docs import schema_markdown
from mabeam.projections.views import public_views, view_columns

FOLDER = source_tree.ROOT / "docs" / "sql"


def test_the_page_is_current() -> None:
    """If this fails: ``mabeam db docs > docs/sql/schema.md``."""
    assert (FOLDER / "schema.md").read_text(encoding="utf-8") == schema_markdown()


def test_views_have_the_documented_columns(
    engine: Engine, make_projector: Callable[..., Projector]
) -> None:
    make_projector()
    found = inspect(engine)
    assert set(found.get_view_names()) == set(public_views())
    for name, table in public_views().items():
        documented = {column: comment for column, comment, _ in view_columns(table)}
        columns = found.get_columns(name)
        assert [column["name"] for column in columns] == list(documented)
        if engine.dialect.name == "postgresql":
            assert {column["name"]: column["comment"] for column in columns} == documented


def _recipes() -> list[tuple[str, str]]:
    page = (FOLDER / "recipes.md").read_text(encoding="utf-8")
    return re.findall(r"^## (.*?)\n.*?```sql\n(.*?)```", page, flags=re.MULTILINE | re.DOTALL)


def test_there_are_a_dozen_recipes() -> None:
    assert len(_recipes()) >= 12


def test_recipes_run_and_find_something(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook
) -> None:
    make_projector().project(book.records)
    for title, query in _recipes():
        with reading(engine) as connection:
            rows = connection.exec_driver_sql(query.replace("%", "%%")).all()
        assert rows, title


@pytest.mark.parametrize("query", ["SELECT body ->> 'option' FROM event", "SELECT * FROM event"])
def test_hostile_text_breaks_no_query(
    engine: Engine, make_projector: Callable[..., Projector], book: Logbook, query: str
) -> None:
    make_projector().project(book.records)
    with reading(engine) as connection:
        assert len(connection.exec_driver_sql(query).all()) == len(book.records)
