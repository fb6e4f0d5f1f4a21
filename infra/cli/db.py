"""``mabeam db``."""

from __future__ import annotations

import sys

import click

from .invocation import Invocation, as_json, pass_invocation, plain, print_json, print_table


@click.group("db")
def db_command() -> None:
    """Upgrade, query and document the database."""


@db_command.command()
@as_json
@pass_invocation
def upgrade(invocation: Invocation, as_json: bool) -> None:
    """Bring the schema to what this program needs; the projector does so at its start, too."""
    from ...migrations import upgrade
    from ...projections.schema import SCHEMA_REVISION

    upgrade(invocation.database_url)
    if as_json:
        print_json({"schema": SCHEMA_REVISION})
    else:
        click.echo(f"the schema is at {SCHEMA_REVISION}")


@db_command.command()
@click.argument("sql")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True)
@as_json
@pass_invocation
def query(invocation: Invocation, sql: str, limit: int, as_json: bool) -> None:
    """Run one read-only SQL query on the public views; - reads it from standard input."""
    from ..sql_reading import open_for_reading, run_query

    text = sys.stdin.read() if sql == "-" else sql
    with open_for_reading(invocation.database_url) as engine:
        columns, rows = run_query(engine, text, limit + 1)
    cut = len(rows) > limit
    rows = rows[:limit]
    if as_json:
        print_json([dict(zip(columns, plain(row), strict=True)) for row in rows])
    else:
        print_table(columns, rows)
    if cut:
        click.echo(f"only the first {limit} rows are shown; see --limit", err=True)


@db_command.command()
@as_json
def docs(as_json: bool) -> None:
    """Describe every public view and column, as Markdown."""
    from ...projections.schema_docs import schema_markdown
    from ...projections.views import public_views, view_columns

    if not as_json:
        click.echo(schema_markdown(), nl=False)
        return
    print_json(
        {
            name: {
                "about": table.comment or "",
                "columns": [
                    {"name": column, "type": kind, "about": about}
                    for column, about, kind in view_columns(table)
                ],
            }
            for name, table in public_views().items()
        }
    )
