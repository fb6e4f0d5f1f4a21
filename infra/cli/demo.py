"""``mabeam demo``."""

from __future__ import annotations

from pathlib import Path

import click

from .invocation import Invocation, as_json, pass_invocation


@click.command("demo")
@click.option("--biopsies", type=click.IntRange(1), default=40, show_default=True)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Keep everything in this new directory; a temporary one by default.",
)
@click.option("--keep", is_flag=True, help="Keep the temporary directory.")
@as_json
@pass_invocation
def demo_command(
    invocation: Invocation, biopsies: int, directory: Path | None, keep: bool, as_json: bool
) -> int:
    """Five models vote on biopsies while their processes are killed; then the proof of it."""
    from ..demo.main import run

    return run(directory, biopsies=biopsies, keep=keep, json=as_json)
