"""``mabeam projector``."""

from __future__ import annotations

import click

from .daemons import member_id, run_daemon
from .invocation import Invocation, pass_invocation


@click.group("projector")
def projector_command() -> None:
    """Run the projector, which writes the log into SQL."""


@projector_command.command()
@member_id
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    help="Processes that check signatures (0: none; default: cores minus one, at most 3).",
)
@click.option("--no-migrate", is_flag=True, help="Do not upgrade the schema at the start.")
@pass_invocation
def run(invocation: Invocation, id: str, workers: int | None, no_migrate: bool) -> int:
    """Follow the log and keep the SQL projections up to date. SIGTERM drains."""
    from ..projector_service import ProjectorService

    return run_daemon(
        invocation,
        id,
        "projector",
        lambda wiring, telemetry: ProjectorService(
            wiring, telemetry, workers=workers, migrate=not no_migrate
        ),
    )
