"""``mabeam sim``: seeded simulations of a protocol under faults and adversaries."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import click
import msgspec

from ...core.errors import UsageError
from ...core.sim.adversaries import adversaries_against, adversary_class
from ...core.sim.run import Case, Result, run_case
from ...core.sim.shrink import shrink
from ..simulation import simulation_of
from ..simulation.recorded import record_run
from .invocation import as_json, print_json
from .sim_draw import draw_command
from .sim_explore import explore_command

NOBODY = "none"
EVERYBODY = "all"
AHEAD = 4
"""Runs drawn ahead for each process."""

MAX_SHRUNK = 5
"""Failing cases that are shrunk; of the others only the seeds are shown."""


@click.group("sim")
def sim_command() -> None:
    """Simulate a protocol under faults and adversaries, from seeds."""


sim_command.add_command(explore_command)
sim_command.add_command(draw_command)

_protocol = click.option("--protocol", default="simple_consensus", show_default=True)
_adversary = click.option(
    "--adversary",
    default=EVERYBODY,
    show_default=True,
    help="Name of one, 'none', or 'all' in turn.",
)


_replicas = click.option(
    "--replicas",
    type=click.IntRange(0, 100),
    default=0,
    help="Agents and adversaries together; by default drawn from the seed.",
)
_processes = click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="At a time."
)


@sim_command.command("run")
@_protocol
@_adversary
@_replicas
@_processes
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--operator", is_flag=True, help="Let the log itself break promises, too.")
@click.option(
    "--case",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Do the run of a kept case again instead.",
)
@click.option(
    "--export",
    "bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the log of the first failed run, shrunk, as a bundle; with --case, or a single "
    "run, also if nothing failed.",
)
@as_json
def run_command(
    protocol: str,
    adversary: str,
    replicas: int,
    processes: int,
    seed: int,
    runs: int,
    operator: bool,
    file: Path | None,
    bundle: Path | None,
    as_json: bool,
) -> int:
    """Run schedules; ends with 1 if anything does not hold."""
    seeds = range(seed, seed + runs)
    cases = draw_cases(protocol, adversary, seeds, operator=operator, replicas=replicas)
    if file is not None:
        try:
            cases = iter([msgspec.json.decode(file.read_bytes(), type=Case)])
        except msgspec.MsgspecError as error:
            raise UsageError(f"{file} is no case: {error}") from None
    return _report(cases, as_json, processes, bundle)


@sim_command.command("soak")
@_protocol
@_adversary
@_replicas
@_processes
@click.option("--minutes", type=click.FloatRange(min=0), default=10.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), help="The first; by default another every time.")
@as_json
def soak_command(
    protocol: str,
    adversary: str,
    replicas: int,
    processes: int,
    minutes: float,
    seed: int | None,
    as_json: bool,
) -> int:
    """Run ever new seeds for a while, every tenth with a log that breaks promises."""
    first = int(time.time()) * 1000 if seed is None else seed
    end = time.monotonic() + 60 * minutes

    def cases() -> Iterator[Case]:
        for number in count(first):
            if time.monotonic() >= end:
                return
            operator = number % 10 == 0
            yield from draw_cases(
                protocol, adversary, [number], operator=operator, replicas=replicas
            )

    return _report(cases(), as_json, processes)


def draw_cases(
    protocol: str,
    adversary: str,
    seeds: Iterable[int],
    *,
    operator: bool = False,
    replicas: int = 0,
) -> Iterator[Case]:
    """One case per seed; ``all`` takes the adversaries, and none, in turn."""
    everybody = ["", *adversaries_against(protocol)]
    turn = everybody if adversary == EVERYBODY else [adversary.replace(NOBODY, "")]
    for name in filter(None, turn):
        adversary_class(name)
        if name not in everybody:
            raise UsageError(
                f"{name!r} does not attack {protocol}",
                hint=f"These do: {', '.join(everybody[1:])}.",
            )
    for seed in seeds:
        yield Case(protocol, seed, turn[seed % len(turn)], replicas, operator)


def _run(case: Case) -> Result:
    return run_case(case, simulation_of(case.protocol))


def _results(cases: Iterable[Case], processes: int) -> Iterator[Result]:
    """Do the runs; with several processes, a few more are drawn than are under way."""
    if processes == 1:
        yield from map(_run, cases)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        under_way: deque[Future[Result]] = deque()
        for case in cases:
            under_way.append(pool.submit(_run, case))
            if len(under_way) > AHEAD * processes:
                yield under_way.popleft().result()
        yield from (each.result() for each in under_way)


def _report(
    cases: Iterable[Case], as_json: bool, processes: int, bundle: Path | None = None
) -> int:
    last: Result | None = None
    failures: list[Result] = []
    runs = records = 0
    started = time.perf_counter()
    for result in _results(cases, processes):
        runs, records, last = runs + 1, records + result.records, result
        if result.failed:
            failures.append(result)
    seconds = time.perf_counter() - started
    if as_json:
        shown = [_failure(result) for result in failures]
        rate = round(runs / seconds, 1)
        print_json({"runs": runs, "per_second": rate, "records": records, "failures": shown})
        if bundle is not None and (kept := _to_keep(failures, last, runs)) is not None:
            _export(kept, bundle)
        return 1 if failures else 0
    click.echo(f"{runs} schedules, {runs / seconds:.1f} per second, {records} records")
    for number, result in enumerate(failures):
        shrunk = _shrunk(result) if number < MAX_SHRUNK else None
        for line in _told(result, shrunk):
            click.echo(line)
        failures[number] = shrunk or result
    click.echo(f"{len(failures)} failed" if failures else "nothing failed")
    if bundle is not None:
        kept = _to_keep(failures, last, runs)
        if kept is None:
            click.echo(f"{bundle} is not written: no run failed")
        else:
            for line in _export(kept, bundle):
                click.echo(line)
    return 1 if failures else 0


def _to_keep(failures: list[Result], last: Result | None, runs: int) -> Result | None:
    if failures:
        return failures[0]
    return last if runs == 1 else None


def _export(kept: Result, bundle: Path) -> Iterator[str]:
    """Do a run again with real signatures and write its log; what to do with it."""
    run = record_run(kept.case, simulation_of(kept.case.protocol))
    try:
        bundle.write_bytes(run.bundle)
    except OSError as error:
        raise UsageError(f"cannot write {bundle}: {error.strerror}") from None
    root = run.root_public_key.hex()
    lines = [
        f"{bundle}: {len(run.bundle)} bytes, {run.coordination} of seed {kept.case.seed}",
        f"  mabeam coord diagram --bundle {bundle} --root-key {root}",
        f"  mabeam audit verify --bundle {bundle} --root-key {root}",
    ]
    if run.result.violations != kept.violations:
        lines.insert(1, "  it went another way than before: the program has changed meanwhile?")
    return iter(lines)


def _shrunk(result: Result) -> Result:
    return shrink(result, simulation_of(result.case.protocol))


def replay_command(case: Case) -> str:
    """The command that does a drawn run again."""
    options = " --operator" if case.operator else ""
    options += f" --replicas {case.replicas}" if case.replicas else ""
    return (
        f"mabeam sim run --protocol {case.protocol} --seed {case.seed} "
        f"--adversary {case.adversary or NOBODY}{options}"
    )


def _told(result: Result, shrunk: Result | None) -> Iterator[str]:
    yield f"seed {result.case.seed} failed; again with: {replay_command(result.case)}"
    least = shrunk or result
    yield from (f"  {violation}" for violation in least.violations)
    if least.case.drawn_with and not least.case.adversary:
        yield "  it fails without any adversary, too"
    if least.story:
        yield "  lies and faults of the shrunk case:" if shrunk else "  lies and faults:"
        yield from (f"    {line}" for line in least.story)
    if shrunk:
        yield f"  shrunk case, to be kept: {msgspec.json.encode(shrunk.case).decode()}"


def _failure(result: Result) -> dict[str, Any]:
    return {
        "seed": result.case.seed,
        "replay": replay_command(result.case),
        "violations": [str(violation) for violation in result.violations],
        "story": result.story,
        "case": msgspec.to_builtins(result.case),
    }
