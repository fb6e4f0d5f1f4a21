"""``mabeam config``."""

from __future__ import annotations

import click

from .invocation import Invocation, as_json, pass_invocation, print_json, print_table


@click.group("config")
def config_command() -> None:
    """Show settings and where they come from."""


@config_command.command()
@click.option("--origin", is_flag=True, help="Also show where each value comes from.")
@as_json
@pass_invocation
def show(invocation: Invocation, origin: bool, as_json: bool) -> None:
    """Show all settings in force."""
    settings = invocation.settings
    values = {name: getattr(settings.config, name) for name in settings.origin}
    if as_json:
        print_json(
            {
                name: {"value": value, "origin": settings.origin[name]}
                for name, value in values.items()
            }
            if origin
            else values
        )
        return
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    rows = [(name, value, settings.origin[name]) for name, value in values.items()]
    print_table(columns, [row[: len(columns)] for row in rows])
