"""``mabeam init``."""

from __future__ import annotations

from typing import Any

import click

from .invocation import Invocation, as_json, pass_invocation, print_json


@click.command("init")
@click.option("--monitor-url", help="Monitoring pages of the server (for doctor).")
@click.option("--node", help="Node of members admitted without another one.")
@click.option("--replicas", type=click.Choice(["1", "3", "5"]), help="Copies of every message.")
@as_json
@pass_invocation
def init_command(invocation: Invocation, /, as_json: bool, **options: Any) -> None:
    """Create a deployment directory: root key, operator key, settings.

    Start nats-server with the generated nats/server.conf, then run 'mabeam log provision'.
    """
    from ..membership import set_up

    settings = {
        key: origin_value
        for key, origin_value in (
            ("url", _given(invocation, "url")),
            ("database", _given(invocation, "database")),
            ("monitor_url", options["monitor_url"]),
            ("node", options["node"]),
            ("replicas", int(options["replicas"]) if options["replicas"] else None),
        )
        if origin_value is not None
    }
    home = invocation.home
    set_up(home, **settings)
    if as_json:
        print_json({"home": str(home.path), "root_public_key": home.root_public_key()})
        return
    click.echo(f"created {home.path}")
    click.echo(f"root public key {home.root_public_key().hex()}")
    click.echo(f"next: nats-server -c {home.server_config_path} --store_dir DIRECTORY")
    click.echo("then: mabeam log provision; keep root.key off every other machine")


def _given(invocation: Invocation, key: str) -> Any:
    """The value of a global setting if it was given for this run."""
    settings = invocation.settings
    return None if settings.origin[key] == "default" else getattr(settings.config, key)
