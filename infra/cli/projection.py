"""``mabeam projection``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from .invocation import Invocation, as_json, pass_invocation, print_json, print_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ...core.bus.jetstream import JetStreamTransport
    from ...core.log import EventLog
    from ...projections.rebuild import Progress, Rebuilt


@click.group("projection")
def projection_command() -> None:
    """See, rebuild and compare the projections."""


@projection_command.command("ls")
@as_json
@pass_invocation
def list_projections(invocation: Invocation, as_json: bool) -> None:
    """List generations of read models, their position and versions."""
    from ...projections.database import check_schema, reading
    from ...projections.generations import generations
    from ..sql_reading import open_for_reading

    with open_for_reading(invocation.database_url) as engine:
        check_schema(engine)
        with reading(engine) as connection:
            found = generations(connection)
    if as_json:
        print_json(found)
        return
    rows = [
        (each.number, each.state, each.position.sequence, name, version)
        for each in found
        for name, version in each.models.items()
    ]
    print_table(("generation", "state", "sequence", "projection", "version"), rows)


@projection_command.command()
@click.option("--from-log", is_flag=True, help="Verify every signature again, from the log itself.")
@click.option("--no-swap", is_flag=True, help="Build beside the live one, but do not put it live.")
@as_json
@pass_invocation
def rebuild(invocation: Invocation, from_log: bool, no_swap: bool, as_json: bool) -> None:
    """Build all read models anew beside the live ones, then swap them in."""
    from ...projections.database import open_database
    from ..sql_reading import check_exists

    check_exists(invocation.database_url)
    engine = open_database(invocation.database_url)
    try:
        if from_log:

            async def work(transport: JetStreamTransport) -> Rebuilt:
                return await _rebuild(invocation, engine, transport.log, not no_swap)

            result = invocation.with_transport(None, work)
        else:
            result = asyncio.run(_rebuild(invocation, engine, None, not no_swap))
    finally:
        engine.dispose()
    if as_json:
        print_json(result)
        return
    state = "live" if result.live else "built, not live"
    click.echo(f"generation {result.generation} is {state} at sequence {result.sequence}")


async def _rebuild(
    invocation: Invocation, engine: Engine, log: EventLog | None, swap: bool
) -> Rebuilt:
    from ...projections.rebuild import rebuild
    from ...protocols import PROTOCOLS

    root = invocation.home.root_public_key()
    if not sys.stderr.isatty():
        return await rebuild(engine, root, PROTOCOLS, log=log, swap=swap)
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rebuilding", total=None)
        progress: Progress = lambda done, total: bar.update(  # noqa: E731 (a callback, no name)
            task, completed=done, total=total
        )
        return await rebuild(engine, root, PROTOCOLS, log=log, swap=swap, progress=progress)


@projection_command.command()
@click.option("--generation", type=int, help="Which one; the live one by default.")
@as_json
@pass_invocation
def digest(invocation: Invocation, generation: int | None, as_json: bool) -> None:
    """Print content digests; equal digests mean equal content, on any database."""
    from ...projections.database import check_schema
    from ...projections.digest import digest
    from ..sql_reading import open_for_reading

    with open_for_reading(invocation.database_url) as engine:
        check_schema(engine)
        found = digest(engine, generation)
    if as_json:
        print_json(found)
        return
    rows = [(name, found.sequence, value) for name, value in found.models.items()]
    print_table(("projection", "sequence", "sha256"), rows)
