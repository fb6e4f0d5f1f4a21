"""``mabeam coord show/watch/replay/export``: reading one coordination from the log, verified."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .invocation import Invocation, as_id, as_json, pass_invocation, plain, print_json

if TYPE_CHECKING:
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.client import Client
    from ...core.log import EventLog, Record


@click.command()
@click.argument("coordination")
@as_json
@pass_invocation
def show(invocation: Invocation, coordination: str, as_json: bool) -> None:
    """Explain COORDINATION: who asked, coordinated, voted, was silent; what came out and why."""
    from ...core.audit.replay import steps
    from ...protocols import PROTOCOLS
    from ...protocols.ordered import replicas_in
    from ..evidence_report import folded
    from ..explanation import explain, in_words
    from ..replica_story import tell

    root = invocation.home.root_public_key()
    records = recorded(invocation, coordination)
    told = list(steps(records, coordination, root, PROTOCOLS))
    fold, events = folded(coordination, records, root, PROTOCOLS)
    replicas = replicas_in(fold.machine)
    story = tell(replicas, events) if replicas is not None else None
    explanation = explain(coordination, told, story)
    if as_json:
        print_json(explanation)
        return
    for line in in_words(explanation):
        click.echo(_safe(line))


@click.command()
@click.argument("coordination")
@as_id
@as_json
@pass_invocation
def watch(invocation: Invocation, coordination: str, as_id: str | None, as_json: bool) -> None:
    """Follow COORDINATION until it ends, one line an event."""
    from ...core.names import check_id

    check_id(coordination, "coordination id")

    async def work(client: Client) -> None:
        await _stored(client.transport.log, coordination)
        async for step in client.watch(coordination):
            event = step.event
            line = {
                "sequence": step.record.sequence,
                "type": event.type if event else "unreadable",
                "author": event.author if event else "",
                "no_effect": step.reason,
                "phase": step.coordination.phase,
                "waiting_for": step.coordination.waiting_for(),
            }
            if as_json:
                print_json(line)
            else:
                effect = f" (no effect: {step.reason})" if step.reason else ""
                text = f"{line['sequence']} {line['type']} by {line['author']}{effect}"
                click.echo(f"{text} → {line['phase']}")
            sys.stdout.flush()

    invocation.with_client(as_id, work)


@click.command()
@click.argument("coordination")
@click.option("--with", "overrides", multiple=True, metavar="NAME=VALUE", help="What if …")
@as_json
@pass_invocation
def replay(
    invocation: Invocation, coordination: str, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Step through COORDINATION; with --with, fold its inputs under other parameters."""
    from ...core.audit.replay import steps
    from ...protocols import PROTOCOLS

    root = invocation.home.root_public_key()
    if overrides:
        _what_if(invocation, coordination, overrides, as_json)
        return
    for step in steps(recorded(invocation, coordination), coordination, root, PROTOCOLS):
        if as_json:
            print_json(step)
            continue
        effect = "" if step.verdict == "in force" else f" (no effect: {step.verdict})"
        plans = ", ".join(f"{each.kind} {each.type or each.key}" for each in step.planned)
        click.echo(f"{step.sequence} {step.type} by {step.author}{effect} → {step.phase}")
        if plans:
            click.echo(f"    next: {plans}")


def _what_if(
    invocation: Invocation, coordination: str, overrides: tuple[str, ...], as_json: bool
) -> None:
    from ...core.audit.what_if import what_if
    from ...core.errors import UsageError
    from ...protocols import PROTOCOLS

    changes: dict[str, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is not of the form NAME=VALUE")
        changes[name] = value
    root = invocation.home.root_public_key()
    records = recorded(invocation, coordination)
    result = what_if(records, changes, coordination, root, PROTOCOLS)
    if as_json:
        print_json(result)
        return
    for name, (before, after) in result.changed.items():
        click.echo(f"{name}: {plain(before)} → {plain(after)}")
    for label, ending in (("recorded", result.recorded), ("alternative", result.alternative)):
        if ending is None:
            click.echo(f"{label}: open, waiting for {', '.join(result.waiting_for) or 'nobody'}")
            continue
        outcome = ending.content.get("outcome", {})
        decision = outcome.get("decision", ending.content.get("code", ""))
        click.echo(f"{label}: {ending.type} {decision}")


@click.command()
@click.argument("coordination")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; COORDINATION.bundle by default, - for standard output.",
)
@click.option("--unsigned", is_flag=True, help="Do not sign the bundle with this member's key.")
@as_json
@pass_invocation
def export(
    invocation: Invocation, coordination: str, out: Path | None, unsigned: bool, as_json: bool
) -> None:
    """Write COORDINATION as one file that verifies with nothing but the root public key."""
    from ...core.audit.bundle import Exporter, export_coordination
    from ...core.errors import UsageError
    from ..wiring import reader_id

    id = reader_id(invocation.home)
    wiring = invocation.wiring(id)
    exporter = None if unsigned else Exporter(id, wiring.key, wiring.member.certificate)

    async def work(transport: JetStreamTransport) -> bytes:
        return await export_coordination(
            transport.log, coordination, wiring.root_public_key, exporter
        )

    data = invocation.with_transport(id, work)
    if out is not None and str(out) == "-":
        sys.stdout.buffer.write(data)
        return
    target = out or Path(f"{coordination}.bundle")
    try:
        target.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
    if as_json:
        print_json({"coordination": coordination, "file": str(target), "bytes": len(data)})
    else:
        click.echo(f"{target}: {len(data)} bytes")
        files = shlex.join(
            ["--bundle", str(target), "--root-key", str(wiring.home.root_public_path)]
        )
        click.echo(f"verify with: mabeam audit verify {files}")
        click.echo("root.pub is the only other file that whoever verifies it needs")


def recorded(invocation: Invocation, coordination: str) -> list[Record]:
    """Records of a coordination and of the registry, in log order.

    Raises:
        NotFoundError: the log holds none of that coordination.
    """
    from ...core.names import REGISTRY, check_id

    check_id(coordination, "coordination id")

    async def work(transport: JetStreamTransport) -> list[Record]:
        records = await _stored(transport.log, coordination)
        return sorted(
            (*await transport.log.read(REGISTRY), *records), key=lambda record: record.sequence
        )

    return invocation.with_transport(None, work)


async def _stored(log: EventLog, coordination: str) -> list[Record]:
    """Records of a coordination.

    Raises:
        NotFoundError: the log holds none.
    """
    from ...core.errors import NotFoundError

    records = await log.read(coordination)
    if not records:
        raise NotFoundError(
            f"there is no coordination {coordination!r}", hint="See 'mabeam coord ls'."
        )
    return records


def _safe(line: str) -> str:
    """Agents' words must not move the cursor of whoever reads them."""
    return "".join(character if character.isprintable() else " " for character in line)
