"""``mabeam agent``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .daemons import member_id, run_daemon
from .invocation import (
    Invocation,
    as_json,
    pass_invocation,
    plain,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from ...core.host.registry import RegistryView

_COLUMNS = (
    "agent",
    "roles",
    "controller",
    "node",
    "health",
    "capabilities",
    "model_type",
    "status",
)


@click.group("agent")
def agent_command() -> None:
    """Run agents; see who takes part."""


@agent_command.command()
@click.argument("target", metavar="MODULE:FACTORY")
@member_id
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory in which to look for the module, besides the current one.",
)
@pass_invocation
def run(invocation: Invocation, target: str, id: str, paths: tuple[Path, ...]) -> int:
    """Run the agent that MODULE:FACTORY makes. SIGTERM drains.

    FACTORY is an Agent class or a function without arguments that returns an agent.
    """
    from ..agent_loading import load_agent
    from ..services import AgentService

    agent = load_agent(target, paths)
    return run_daemon(
        invocation, id, "agent", lambda wiring, telemetry: AgentService(wiring, telemetry, agent)
    )


@agent_command.command("ls")
@click.option("--from-log", is_flag=True, help="Fold the registry from the log, not from SQL.")
@as_json
@pass_invocation
def list_agents(invocation: Invocation, from_log: bool, as_json: bool) -> None:
    """List everybody the registry knows."""
    rows = _from_log(invocation) if from_log else _from_sql(invocation)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [[_text(row[name]) for name in _COLUMNS] for row in rows])


@agent_command.command()
@click.argument("id")
@as_json
@pass_invocation
def show(invocation: Invocation, id: str, as_json: bool) -> None:
    """Show what the registry says about ID: keys, roles, registration, health."""
    from ...core.errors import NotFoundError

    registry = _registry(invocation)
    history = registry.keyring.history(id)
    if not history:
        raise NotFoundError(f"{id!r} was never admitted", hint="See 'mabeam agent ls --from-log'.")
    details = {
        **_row(registry, id),
        "keys": [
            {
                "key_id": entry.certificate.key_id,
                "serial": entry.certificate.serial,
                "sponsor": entry.certificate.sponsor,
                "since_sequence": entry.since,
                "until_sequence": entry.until,
                "end_reason": entry.end_reason,
            }
            for entry in history
        ],
    }
    if as_json:
        print_json(details)
        return
    for name, value in details.items():
        if name != "keys":
            click.echo(f"{name}: {_text(value)}")
    for key in plain(details["keys"]):
        end = f"until {key['until_sequence']} ({key['end_reason']})" if key["end_reason"] else "on"
        click.echo(f"key {key['key_id']} serial {key['serial']}: {key['since_sequence']} {end}")


def _registry(invocation: Invocation) -> RegistryView:
    return invocation.with_client(None, lambda client: client.agents())


def _from_log(invocation: Invocation) -> list[dict[str, Any]]:
    registry = _registry(invocation)
    return [_row(registry, id) for id in registry.keyring.ids()]


def _row(registry: RegistryView, id: str) -> dict[str, Any]:
    keyring = registry.keyring
    certificate = keyring.history(id)[-1].certificate
    agent = keyring.agent(id)
    registered = agent.registered
    return {
        "agent": id,
        "roles": list(certificate.roles),
        "controller": certificate.controller,
        "node": registered.node if registered else None,
        "health": agent.health if registered else None,
        "capabilities": list(registered.capabilities) if registered else None,
        "model_type": registered.model_type if registered else None,
        "status": "revoked" if keyring.current(id) is None else "active",
    }


def _from_sql(invocation: Invocation) -> list[dict[str, Any]]:
    from ..sql_reading import rows_of

    return rows_of(invocation.database_url, "SELECT * FROM agent ORDER BY agent")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
