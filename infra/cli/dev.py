"""``mabeam dev``."""

from __future__ import annotations

import click

from .invocation import Invocation, pass_invocation


@click.command("dev")
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="ID=MODULE:FACTORY",
    help="Also admit and run this agent; may be given several times.",
)
@click.option("--once", is_flag=True, hidden=True, help="End as soon as everything is ready.")
@pass_invocation
def dev_command(invocation: Invocation, agents: tuple[str, ...], once: bool) -> int:
    """Run a server, a coordinator and a projector on this machine, until Ctrl-C.

    If one of them ends by itself, the others are ended too, and it says which one.
    Creates the deployment directory at the first start; data, keys and ports stay for the next.
    """
    from ...core.errors import UsageError
    from ..development import Development

    wanted: dict[str, str] = {}
    for text in agents:
        id, equals, target = text.partition("=")
        if not equals or ":" not in target:
            raise UsageError(
                f"{text!r} is not of the form ID=MODULE:FACTORY",
                hint="For instance: --agent pathologist-1=clinic:make_pathologist",
            )
        wanted[id] = target
    return Development(invocation.home, wanted, click.echo).run(once=once)
