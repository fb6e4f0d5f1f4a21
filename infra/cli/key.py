"""``mabeam key``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from .invocation import Invocation, as_json, pass_invocation, print_json

if TYPE_CHECKING:
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.identity import Secrets
    from ..home import Member
    from ..membership import Admission

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
@click.option("--new-key", is_flag=True, help="Make new keys for an id whose keys are void.")
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
    new_key: bool,
    as_json: bool,
) -> None:
    """Admit every ID: keys (unless there are some), certificate, registry event, server users.

    Who is admitted with the same keys, roles, node and controller stays as it is.
    """
    from ...core.errors import UsageError
    from ..membership import Applicant, admit

    if (event_key is None) != (nkey is None):
        raise UsageError("--event-key and --nkey belong together")
    if event_key is not None and len(ids) > 1:
        raise UsageError("public keys belong to one id only")
    if event_key is not None and new_key:
        raise UsageError("give the public keys of an id, or have new keys made, not both")
    public = _given_keys(event_key, nkey) if event_key is not None and nkey is not None else {}
    applicants = [Applicant(id, roles, node, controller, **public) for id in ids]

    async def work(transport: JetStreamTransport) -> list[Admission]:
        return await admit(invocation.home, transport, applicants, new_keys=new_key)

    admissions: list[Admission] = _operate(invocation, work)
    reloaded = _reload(invocation)
    changed = [each.member.id for each in admissions if each.changed]
    unchanged = [each.member.id for each in admissions if not each.changed]
    if as_json:
        print_json({"admitted": changed, "unchanged": unchanged, "server_reloaded": reloaded})
        return
    for id in unchanged:
        click.echo(f"{id} is admitted already as {', '.join(roles)}")
    if changed:
        click.echo(f"admitted {', '.join(changed)} as {', '.join(roles)}")
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

    async def work(transport: JetStreamTransport) -> bool:
        return await revoke(invocation.home, transport, id, reason)

    changed: bool = _operate(invocation, work)
    reloaded = _reload(invocation)
    if as_json:
        print_json({"revoked": id, "changed": changed, "server_reloaded": reloaded})
        return
    if not changed:
        click.echo(f"{id} is revoked already")
        return
    click.echo(f"revoked {id}")
    _advise(invocation, reloaded)


def _operate(invocation: Invocation, work: Any) -> Any:
    from ..home import OPERATOR

    invocation.home.root_key()  # fails early, with the reason
    return invocation.with_transport(OPERATOR, work)


def _reload(invocation: Invocation) -> bool:
    from ..server_reload import reload_server

    return reload_server(invocation.home)


def _advise(invocation: Invocation, reloaded: bool) -> None:
    if not reloaded:
        path = invocation.home.server_config_path
        click.echo(f"no server of 'mabeam dev' runs here; give yours {path}, then: kill -HUP PID")


def _given_keys(event_key: str, nkey: str) -> dict[str, Any]:
    """Public keys made elsewhere, each checked."""
    from ...core.errors import UsageError
    from ...core.identity import check_public_key

    try:
        key = bytes.fromhex(event_key)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(
            f"--event-key {event_key!r} is not a public event key",
            hint="Give the 64 hex digits that 'mabeam key new' printed as event_key.",
        )
    check_public_key(key)
    if not re.fullmatch("U[A-Z2-7]{55}", nkey):
        raise UsageError(
            f"--nkey {nkey!r} is not a public connection key",
            hint="Give the 56 characters that 'mabeam key new' printed as nkey.",
        )
    return {"event_key": key, "nkey": nkey}


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
