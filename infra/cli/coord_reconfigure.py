"""``mabeam coord reconfigure``: other replicas for a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .invocation import Invocation, as_id, as_json, pass_invocation, print_json

if TYPE_CHECKING:
    from ...core.client import Client
    from ..reconfiguration import Reconfigured


@click.command()
@click.argument("coordination")
@click.option(
    "-p", "--participants", multiple=True, metavar="A,B,…", required=True, help="The new replicas."
)
@click.option("-s", "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Parameter.")
@click.option("-f", "--faulty", "f", type=click.IntRange(0), help="Lying replicas tolerated.")
@click.option("--id", "successor", default="", help="Id of the successor (the next number).")
@as_id
@as_json
@pass_invocation
def reconfigure(
    invocation: Invocation,
    coordination: str,
    participants: tuple[str, ...],
    assignments: tuple[str, ...],
    f: int | None,
    successor: str,
    as_id: str | None,
    as_json: bool,
) -> None:
    """Let other replicas go on with the service COORDINATION, in a successor of it.

    The replicas stop it at a slot they agree on; the successor starts from the state they vouch
    for. Parameters that are not given stay. Given again after a crash, the command goes on where
    it was.
    """
    from ..reconfiguration import Change, reconfigure
    from ..requesting import parameters_of, participants_of

    change = Change(participants_of(participants), parameters_of(None, assignments), f, successor)

    async def work(client: Client) -> Reconfigured:
        return await reconfigure(client, coordination, change)

    done = invocation.with_client(as_id, work)
    if as_json:
        print_json(done)
        return
    click.echo(
        f"{done.coordination}: handed over to {done.successor} at slot {done.sequence}, "
        f"state {done.state_root[:12]}"
    )
    click.echo(f"{done.successor}: {', '.join(done.replicas)} go on, f = {done.f}")
