"""``mabeam log``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .invocation import Invocation, as_json, pass_invocation, print_json

if TYPE_CHECKING:
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.log import Head


@click.group("log")
def log_command() -> None:
    """Provision the streams; see the head of the log."""


@log_command.command()
@as_json
@pass_invocation
def provision(invocation: Invocation, as_json: bool) -> None:
    """Create or check the streams, and announce members the registry does not know yet.

    Uses the settings replicas, max_bytes and lease_ms. Safe to repeat.
    """
    from ..home import OPERATOR
    from ..membership import announce, provision_streams

    async def work(transport: JetStreamTransport) -> list[str]:
        await provision_streams(invocation.config, transport)
        return await announce(invocation.home, transport)

    announced = invocation.with_transport(OPERATOR, work)
    if as_json:
        print_json({"provisioned": True, "announced": announced})
    else:
        click.echo("streams are as they should be")
        if announced:
            click.echo(f"announced: {', '.join(announced)}")


@log_command.command()
@as_json
@pass_invocation
def head(invocation: Invocation, as_json: bool) -> None:
    """Show the last sequence of the log."""

    async def work(transport: JetStreamTransport) -> Head:
        return await transport.log.head()

    found = invocation.with_transport(None, work)
    if as_json:
        print_json(found)
    else:
        click.echo(found.sequence)
