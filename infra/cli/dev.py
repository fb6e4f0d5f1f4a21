"""``mabeam dev``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from .invocation import Invocation, pass_invocation

if TYPE_CHECKING:
    from ..development import Development

WATCH_S = 1.0


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

    wanted: dict[str, str] = {}
    for text in agents:
        id, equals, target = text.partition("=")
        if not equals or ":" not in target:
            raise UsageError(
                f"{text!r} is not of the form ID=MODULE:FACTORY",
                hint="For instance: --agent pathologist-1=clinic:make_pathologist",
            )
        wanted[id] = target
    return _development(invocation, wanted).run(once=once)


def _development(invocation: Invocation, agents: Mapping[str, str]) -> Development:
    from ..development import Development

    class Watched(Development):
        """Development that ends when its server has ended, too: daemons alone would wait for it."""

        def _watch(self) -> str:
            while not self._stop.wait(WATCH_S):
                self._deployment.check_running()
            return ""

    return Watched(invocation.home, agents, click.echo)
