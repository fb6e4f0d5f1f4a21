"""Starting a daemon from the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from .invocation import Invocation

if TYPE_CHECKING:
    from ..daemon import Service
    from ..metrics import PrometheusTelemetry
    from ..wiring import Wiring

member_id = click.option("--id", "id", required=True, help="Id of this daemon; its key is used.")


def run_daemon(
    invocation: Invocation,
    id: str,
    role: str,
    build: Callable[[Wiring, PrometheusTelemetry], Service],
) -> int:
    """Run a daemon until it is told to end; returns its exit status."""
    from ...core.errors import UsageError
    from ..daemon import Daemon
    from ..metrics import PrometheusTelemetry
    from ..wiring import Wiring

    telemetry = PrometheusTelemetry()
    wiring = Wiring(invocation.home, id, config=invocation.config, telemetry=telemetry)
    if role not in wiring.member.roles:
        raise UsageError(
            f"{id!r} is admitted as {', '.join(wiring.member.roles)}, not as {role}",
            hint=f"Run 'mabeam key admit {id} --role {role}'.",
        )
    return Daemon(build(wiring, telemetry), wiring, telemetry).run()
