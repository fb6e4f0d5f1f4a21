"""``mabeam bench``."""

from __future__ import annotations

import click

from .invocation import as_json


@click.command("bench")
@click.argument("sections", nargs=-1)
@click.option("--events", type=click.IntRange(1000), default=100_000, show_default=True)
@as_json
def bench_command(sections: tuple[str, ...], events: int, as_json: bool) -> int:
    """Measure throughput and latency on this machine.

    SECTIONS: append, project, byzantine, coordinate, memory; all by default.
    """
    from ...core.errors import UsageError
    from ..bench.main import SECTIONS, run

    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        raise UsageError(
            f"there is no section {', '.join(unknown)}", hint=f"Sections: {', '.join(SECTIONS)}."
        )
    return run(sections or SECTIONS, events=events, json=as_json)
