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
@click.option(
    "--text", "is_text", is_flag=True, help="OPERATION is text, even if it looks like JSON."
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it executed.")
@as_id
@as_json
@pass_invocation
def submit(
    invocation: Invocation,
    coordination: str,
    operation: str,
    is_text: bool,
    wait: bool,
    as_id: str | None,
    as_json: bool,
) -> None:
    """Submit OPERATION (JSON, or plain text) to the service COORDINATION of Byzantine replicas.

    What begins with {, [ or a double quote and is no JSON is refused, unless --text is given.
    With - as OPERATION it is read from standard input.

    The replicas order it among all others; that it executed is concluded here from their commit
    certificates, not from anybody's answer. Interrupted, the command says what may still execute.
    """
    from ...core.client import Effect
    from ...core.errors import UsageError
    from ...protocols.byzantine import ByzantineFold
    from ...protocols.byzantine.events import REQUEST, RequestSubmitted
    from ..requesting import operation_of
    from .coord_waiting import Waiting

    value = operation_of(operation, is_text=is_text)

    async def work(client: Client) -> Effect[Executed | None]:
        waiting = Waiting(client, coordination, "execute")

        def body(number: int) -> RequestSubmitted:
            waiting.signs(f"request {number} of {client.author.id}")
            return RequestSubmitted(number, value)

        def executed(fold: Coordination, request_id: bytes) -> Executed | None:
            waiting.stored(fold)
            machine = fold.machine
            return machine.slot_of(request_id) if isinstance(machine, ByzantineFold) else None

        async with waiting.speaking():
            machine = (await client.read(coordination)).machine
            if not isinstance(machine, ByzantineFold) or machine.config.mode != "service":
                raise UsageError(
                    f"{coordination!r} is no service of replicas",
                    hint="Start one: mabeam coord start byzantine_consensus -s mode=service -p …",
                )
            if wait:
                return await client.execute(coordination, REQUEST, body, executed)
            name = (await client.latest(coordination)).id
            return Effect(name, await client.submit(name, REQUEST, body), None)

    done = invocation.with_client(as_id, work)
    slot = done.result.sequence if done.result else None
    if as_json:
        document = {
            "coordination": done.coordination,
            "request_id": done.event_id.hex(),
            "slot": slot,
            "state_root": done.result.root.hex() if done.result else None,
        }
        print_json(document)
    elif slot is None:
        click.echo(done.event_id.hex())
    else:
        place = "" if done.coordination == coordination else f" of {done.coordination}"
        click.echo(f"executed in slot {slot}{place}")
