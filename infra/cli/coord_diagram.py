"""``mabeam coord diagram``: one coordination as a sequence diagram."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .coord_reading import recorded
from .invocation import Invocation, as_json, pass_invocation, print_json

if TYPE_CHECKING:
    from ...core.log import Record
    from ..diagram.model import Diagram

PLAIN_WIDTH = 100
NARROWEST, WIDEST = 80, 120


@click.command()
@click.argument("coordination", required=False)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read a file from 'coord export' instead of the log.",
)
@click.option("--root-key", "--root", "root_key", help="Root public key: hex, or a file.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "svg", "mermaid"]),
    default="text",
    show_default=True,
    help="For a terminal, a browser, or a page that renders Mermaid.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; standard output by default.",
)
@as_json
@pass_invocation
def diagram(
    invocation: Invocation,
    coordination: str | None,
    bundle: Path | None,
    root_key: str | None,
    form: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw COORDINATION: who said what, in answer to whom, what had no effect, how it ended.

    With --bundle, COORDINATION may be left out. With --json, what would be drawn.
    """
    from ...core.audit.replay import steps
    from ...core.errors import UsageError
    from ...protocols import PROTOCOLS
    from ..diagram.compose import compose

    if coordination is None and bundle is None:
        raise UsageError(
            "say what to draw: a coordination, or --bundle FILE",
            hint="For instance: mabeam coord diagram c-1",
        )
    if bundle is not None:
        name, records = _bundled(bundle, coordination)
    else:
        assert coordination is not None
        name, records = coordination, recorded(invocation, coordination)
    root = invocation.root_key(root_key)
    drawn = compose(name, list(steps(records, name, root, PROTOCOLS)))
    if as_json:
        print_json(drawn)
        return
    text = _rendered(drawn, form, on_terminal=output is None)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"{output}: {sum(row.count for row in drawn.rows)} events", err=True)


def _rendered(drawn: Diagram, form: str, *, on_terminal: bool) -> str:
    from ..diagram import mermaid, svg, text

    if form == "svg":
        return svg.render(drawn)
    if form == "mermaid":
        return mermaid.render(drawn)
    width = PLAIN_WIDTH
    if on_terminal and sys.stdout.isatty():
        width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    return text.render(drawn, width)


def _bundled(path: Path, coordination: str | None) -> tuple[str, list[Record]]:
    """The coordination in a bundle and its records, in log order."""
    from ...core.audit.bundle_audit import read_file
    from ...core.audit.bundle_log import BundleLog
    from ...core.errors import NotFoundError

    bundle = BundleLog(read_file(path)).bundle
    name = bundle.header.coordination
    if coordination not in (None, name):
        raise NotFoundError(f"{path} holds {name!r}, not {coordination!r}")
    return name, sorted(bundle.records, key=lambda record: record.sequence)
