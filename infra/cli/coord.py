"""``mabeam coord``: asking for coordinations and ending them; reading is in ``coord_reading``."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import click

from .coord_diagram import diagram
from .coord_reading import export, replay, show, watch
from .coord_reconfigure import reconfigure
from .coord_submit import submit
from .invocation import Invocation, as_id, as_json, pass_invocation, print_json, print_table

if TYPE_CHECKING:
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.client import Client, Decision
    from ...core.coordination import Coordination
    from ...core.machine import LogEvent

ORDERINGS = ("log", "bft")
FAULT_TOLERANCES = ("low_fault", "medium_fault", "high_fault", "any_fault")
_COLUMNS = ("coordination", "protocol", "status", "decision", "requester", "coordinator", "term")


@click.group("coord")
def coord_command() -> None:
    """Start, see, follow, explain, feed, hand over, export and cancel coordinations."""


for _command in (show, watch, replay, diagram, export, submit, reconfigure):
    coord_command.add_command(_command)


@coord_command.command()
@click.argument("protocol")
@click.option("-p", "--participants", multiple=True, metavar="A,B=WEIGHT,…", help="Who takes part.")
@click.option("--capability", multiple=True, help="Choose healthy agents with this capability.")
@click.option("--at-least", type=int, default=1, show_default=True, help="Fewest agents chosen.")
@click.option("--at-most", type=int, default=1000, show_default=True, help="Most agents chosen.")
@click.option("-s", "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Parameter.")
@click.option("--config", "config_file", metavar="FILE", help="Parameters as JSON; - for stdin.")
@click.option("--id", "id", help="Id of the coordination (random by default).")
@click.option("--timeout-ms", type=int, help="Overall time-out.")
@click.option("--fault-tolerance", type=click.Choice(FAULT_TOLERANCES), help="What may go wrong.")
@click.option(
    "--ordering",
    type=click.Choice(ORDERINGS),
    help="Who orders events: the log (its operator) or bft (replicas that may lie).",
)
@click.option("-f", "--faulty", "f", type=click.IntRange(0), help="Lying replicas tolerated.")
@click.option(
    "--replica", "replicas", multiple=True, help="Who orders with bft; all participants if unset."
)
@click.option("--topic", help="Topic under which accuracy is kept.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the outcome.")
@as_id
@as_json
@pass_invocation
def start(
    invocation: Invocation,
    /,
    protocol: str,
    participants: tuple[str, ...],
    capability: tuple[str, ...],
    at_least: int,
    at_most: int,
    assignments: tuple[str, ...],
    config_file: str | None,
    wait: bool,
    as_id: str | None,
    as_json: bool,
    id: str | None,
    **options: Any,
) -> None:
    """Ask for a coordination: mabeam coord start simple_consensus -p a,b,c -s proposal=merge

    Parameter values are JSON, or plain text where they do not begin like JSON. Ends with 1 if the
    coordination fails, and prints the failure.

    A service (-s mode=service) has no outcome to wait for: the command ends with 0 as soon as it is
    open. Participants that are admitted but not registered yet are given a moment to start.
    """
    from ...core.errors import UsageError
    from ...core.kernel_events import CapabilityQuery
    from ..requesting import is_service, parameters_of, participants_of
    from .coord_waiting import Waiting, until_registered

    if bool(participants) == bool(capability):
        raise UsageError(
            "name the participants, or a capability that chooses them",
            hint="For instance: -p pathologist-1,pathologist-2 or --capability diagnosis.",
        )
    invitees = participants_of(participants)
    query = CapabilityQuery(capability, at_least, at_most) if capability else None
    parameters = parameters_of(config_file, assignments)
    given = {name: value for name, value in options.items() if value not in (None, ())}

    name = id or secrets.token_hex(16)

    async def work(client: Client) -> Decision | LogEvent | None:
        await until_registered(client, [each.agent_id for each in invitees])
        waiting = Waiting(client, name, "be decided")
        async with waiting.speaking():
            waiting.signs(f"the request of {client.author.id}")
            await client.request(
                protocol, parameters, invitees, query=query, coordination=name, **given
            )
            waiting.stored()
            if not wait:
                return None
            if id is None:
                click.echo(f"asked for {name}", err=True)
            if is_service(protocol, parameters):
                return await client.until(name, lambda fold: fold.opened)
            return await client.result(name)

    _print_answer(name, invocation.with_client(as_id, work), as_json)


def _print_answer(name: str, answer: Decision | LogEvent | None, as_json: bool) -> None:
    """The decision, the opening of a service, or just the name of what was asked for."""
    from ...core.client import Decision

    if isinstance(answer, Decision):
        outcome, opened = answer.outcome, answer.opened
        text = f"{name}: {outcome.get('decision', outcome.get('result'))}"
        document = {
            "coordination": name,
            "outcome": outcome,
            "opened_sequence": opened.sequence,
            "terminal_sequence": answer.terminal.sequence,
        }
    elif answer is not None:
        text = f"{name}: open"
        document = {"coordination": name, "opened_sequence": answer.sequence}
    else:
        text, document = name, {"coordination": name}
    if as_json:
        print_json(document)
    else:
        click.echo(text)


@coord_command.command()
@click.argument("coordination")
@click.option("--reason", default="", help="Why; goes into the log.")
@as_id
@pass_invocation
def cancel(invocation: Invocation, coordination: str, reason: str, as_id: str | None) -> None:
    """Ask for COORDINATION to be cancelled; its coordinator decides whether it still can be.

    Only whoever asked for it may, as long as it has not ended.
    """
    from ...core.errors import NotFoundError

    async def work(client: Client) -> None:
        try:
            fold = await client.read(coordination)
        except NotFoundError:
            pass  # The request may wait in the client's journal, which cancel() looks at.
        else:
            _check_may_cancel(fold, client.author.id)
        await client.cancel(coordination, reason)

    invocation.with_client(as_id, work)
    click.echo(f"asked to cancel {coordination}")


def _check_may_cancel(fold: Coordination, id: str) -> None:
    from ...core.errors import UsageError

    requester = fold.request.author if fold.request is not None else ""
    if requester and requester != id:
        raise UsageError(
            f"{requester!r} asked for {fold.id!r}, so only {requester!r} may cancel it",
            hint=f"Use --as {requester}.",
        )
    if fold.terminal is not None:
        raise UsageError(
            f"{fold.id!r} has ended already: {fold.phase}",
            hint=f"See 'mabeam coord show {fold.id}'.",
        )


@coord_command.command("ls")
@click.option("--from-log", is_flag=True, help="Fold the whole log, verified, not SQL.")
@click.option("--status", help="Only those that stand so (open, decided, failed, cancelled …).")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@as_json
@pass_invocation
def list_coordinations(
    invocation: Invocation, from_log: bool, status: str | None, limit: int, as_json: bool
) -> None:
    """List coordinations, the newest first."""
    rows = _from_log(invocation) if from_log else _from_sql(invocation)
    if status is not None:
        rows = [row for row in rows if _has_status(row, status)]
    rows = rows[:limit]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in rows])


def _has_status(row: dict[str, Any], status: str) -> bool:
    if status == "open":
        return row["status"] not in ("decided", "failed", "cancelled")
    return bool(row["status"] == status)


def _from_sql(invocation: Invocation) -> list[dict[str, Any]]:
    from ..sql_reading import rows_of

    columns = ", ".join((*_COLUMNS, "requested_sequence", "requested_at"))
    return rows_of(
        invocation.database_url,
        f"SELECT {columns} FROM coordination ORDER BY requested_sequence DESC",
    )


def _from_log(invocation: Invocation) -> list[dict[str, Any]]:
    from ..log_folding import coordinations_of

    async def work(transport: JetStreamTransport) -> list[dict[str, Any]]:
        return await coordinations_of(transport.log, invocation.home.root_public_key())

    return invocation.with_transport(None, work)
