"""``mabeam doctor``."""

from __future__ import annotations

import asyncio

import click

from .invocation import Invocation, as_json, pass_invocation, print_json


@click.command("doctor")
@click.option("--dev", is_flag=True, help="Accept what only production must not have.")
@as_json
@pass_invocation
def doctor_command(invocation: Invocation, dev: bool, as_json: bool) -> int:
    """Check server, streams, clocks, keys, database and projector.

    Ends with 1 and the list of problems unless the deployment may be called production-ready.
    """
    from ..diagnosis import diagnose

    checks = asyncio.run(diagnose(invocation.home, invocation.config))
    bad = [check for check in checks if not check.ok and not (dev and check.production_only)]
    ready = not any(not check.ok for check in checks)
    if as_json:
        print_json({"ok": not bad, "production_ready": ready, "checks": checks})
        return 1 if bad else 0
    for check in checks:
        mark = "ok  " if check.ok else "    " if check not in bad else "FAIL"
        click.echo(f"{mark} {check.name}: {check.detail}")
        if not check.ok and check.hint:
            click.echo(f"       hint: {check.hint}")
    if ready:
        click.echo("production-ready")
    elif dev and not bad:
        click.echo("fine for development; not production-ready")
    else:
        click.echo(f"not production-ready: {len(bad)} problem(s)")
    return 1 if bad else 0
