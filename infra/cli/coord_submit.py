"""``mabeam coord submit``: an operation for a service of replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .invocation import Invocation, as_id, as_json, pass_invocation, print_json

if TYPE_CHECKING:
    from ...core.client import Client
    from ...core.coordination import Coordination
    from ...protocols.byzantine.execution import Executed


@click.command()
@click.argument("coordination")
@click.argument("operation")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it executed.")
@as_id
@as_json
@pass_invocation
def submit(
    invocation: Invocation,
    coordination: str,
    operation: str,
    wait: bool,
    as_id: str | None,
    as_json: bool,
) -> None:
    """Submit OPERATION (JSON, or plain text) to the service COORDINATION of Byzantine replicas.

    The replicas order it among all others; that it executed is concluded here from their commit
    certificates, not from anybody's answer.
    """
    from ...core.errors import UsageError
    from ...protocols.byzantine import ByzantineFold
    from ...protocols.byzantine.events import REQUEST, RequestSubmitted
    from ..requesting import json_or_text

    async def work(client: Client) -> tuple[bytes, Executed | None]:
        machine = (await client.read(coordination)).machine
        if not isinstance(machine, ByzantineFold) or machine.config.mode != "service":
            raise UsageError(
                f"{coordination!r} is no service of replicas",
                hint="Start one: mabeam coord start byzantine_consensus -s mode=service -p …",
            )
        request_id = await client.submit(
            coordination, REQUEST, lambda number: RequestSubmitted(number, json_or_text(operation))
        )

        def executed(fold: Coordination) -> Executed | None:
            machine = fold.machine
            return machine.slot_of(request_id) if isinstance(machine, ByzantineFold) else None

        return request_id, await client.until(coordination, executed) if wait else None

    request_id, done = invocation.with_client(as_id, work)
    slot = done.sequence if done else None
    if as_json:
        root = done.root.hex() if done else None
        print_json({"request_id": request_id.hex(), "slot": slot, "state_root": root})
    else:
        click.echo(request_id.hex() if slot is None else f"executed in slot {slot}")
