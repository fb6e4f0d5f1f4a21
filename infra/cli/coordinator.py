"""``mabeam coordinator``."""

from __future__ import annotations

import click

from .daemons import member_id, run_daemon
from .invocation import Invocation, pass_invocation


@click.group("coordinator")
def coordinator_command() -> None:
    """Run a coordinator."""


@coordinator_command.command()
@member_id
@pass_invocation
def run(invocation: Invocation, id: str) -> int:
    """Take requests, open coordinations and bring them to their end. SIGTERM drains."""
    from ..services import CoordinatorService

    return run_daemon(invocation, id, "coordinator", CoordinatorService)
