"""``mabeam key``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .invocation import Invocation, as_json, pass_invocation, print_json

if TYPE_CHECKING:
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.identity import Secrets
    from ..home import Member

ROLES = ("agent", "coordinator", "client", "projector", "operator")


@click.group("key")
def key_command() -> None:
    """Create, admit, rotate and revoke keys."""


@key_command.command()
@click.argument("id")
@as_json
@pass_invocation
def new(invocation: Invocation, id: str, as_json: bool) -> None:
    """Create the key file of ID (mode 0600) and print its public keys.

    Works in a directory without a deployment, too: the secret then never leaves its host, and the
    operator admits the public keys with 'mabeam key admit ID --event-key … --nkey …'.
    """
    secrets = invocation.home.new_secrets(id)
    path = invocation.home.key_path(id)
    _print({"id": id, "file": str(path), **_public(secrets)}, as_json)


@key_command.command()
@click.argument("id")
@as_json
@pass_invocation
def show(invocation: Invocation, id: str, as_json: bool) -> None:
    """Show the public keys, roles and certificate of ID; never a secret."""
    from ...core.identity import verify_certificate

    member = invocation.home.member(id)
    certificate = verify_certificate(member.certificate, invocation.home.root_public_key())
    _print(
        {
            "id": id,
            "roles": list(certificate.roles),
            "node": member.node,
            "controller": certificate.controller,
            "sponsor": certificate.sponsor,
            "event_key": certificate.event_key.hex(),
            "key_id": certificate.key_id.hex(),
            "nkey": certificate.nkey,
            "serial": certificate.serial,
            "not_after_ns": certificate.not_after_ns,
            "revoked": member.revoked,
            "secret_here": invocation.home.key_path(id).exists(),
        },
        as_json,
    )


@key_command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(ROLES),
    default=("agent",),
    show_default=True,
    help="What it may do; may be given several times.",
)
@click.option("--node", default="", help="Node token of its subjects.")
@click.option("--controller", default="ops", show_default=True, help="Its owner.")
@click.option("--event-key", help="Public event key made elsewhere, 64 hex digits.")
@click.option("--nkey", help="Public connection key made elsewhere, U….")
@as_json
@pass_invocation
def admit(
    invocation: Invocation,
    ids: tuple[str, ...],
    roles: tuple[Any, ...],
    node: str,
    controller: str,
    event_key: str | None,
    nkey: str | None,
    as_json: bool,
) -> None:
    """Admit every ID: keys (unless there are some), certificate, registry event, server users."""
    from ...core.errors import UsageError
    from ..key_material import read_public_key
    from ..membership import Applicant, admit

    if (event_key is None) != (nkey is None):
        raise UsageError("--event-key and --nkey belong together")
    if event_key is not None and len(ids) > 1:
        raise UsageError("public keys belong to one id only")
    public = {"event_key": read_public_key(event_key), "nkey": nkey} if event_key else {}
    applicants = [
        Applicant(id, roles, node, controller, **public)  # type: ignore[arg-type]
        for id in ids
    ]

    async def work(transport: JetStreamTransport) -> list[Member]:
        return await admit(invocation.home, transport, applicants)

    _operate(invocation, work)
    reloaded = _reload(invocation)
    if as_json:
        print_json({"admitted": list(ids), "server_reloaded": reloaded})
        return
    click.echo(f"admitted {', '.join(ids)} as {', '.join(roles)}")
    _advise(invocation, reloaded)


@key_command.command()
@click.argument("id")
@as_json
@pass_invocation
def rotate(invocation: Invocation, id: str, as_json: bool) -> None:
    """Give ID new keys. Start its daemon again: the old ones no longer count."""
    from ..membership import rotate

    async def work(transport: JetStreamTransport) -> Member:
        return await rotate(invocation.home, transport, id)

    _operate(invocation, work)
    reloaded = _reload(invocation)
    if as_json:
        print_json({"rotated": id, "server_reloaded": reloaded})
        return
    click.echo(f"rotated the keys of {id}; start its daemon again")
    _advise(invocation, reloaded)


@key_command.command()
@click.argument("id")
@click.option("--reason", default="", help="Why; goes into the log.")
@as_json
@pass_invocation
def revoke(invocation: Invocation, id: str, reason: str, as_json: bool) -> None:
    """Void all keys of ID from here on and take its right to connect."""
    from ..membership import revoke

    async def work(transport: JetStreamTransport) -> None:
        await revoke(invocation.home, transport, id, reason)

    _operate(invocation, work)
    reloaded = _reload(invocation)
    if as_json:
        print_json({"revoked": id, "server_reloaded": reloaded})
        return
    click.echo(f"revoked {id}")
    _advise(invocation, reloaded)


def _operate(invocation: Invocation, work: Any) -> None:
    from ..home import OPERATOR

    invocation.home.root_key()  # fails early, with the reason
    invocation.with_transport(OPERATOR, work)


def _reload(invocation: Invocation) -> bool:
    from ..server_reload import reload_server

    return reload_server(invocation.home)


def _advise(invocation: Invocation, reloaded: bool) -> None:
    if not reloaded:
        path = invocation.home.server_config_path
        click.echo(f"no local server runs here: give yours {path} and reload it")


def _public(secrets: Secrets) -> dict[str, str]:
    from ..key_material import nkey_of

    key = secrets.key_pair()
    return {
        "event_key": key.public_key.hex(),
        "key_id": key.key_id.hex(),
        "nkey": nkey_of(secrets),
    }


def _print(details: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(details)
        return
    for name, value in details.items():
        click.echo(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
