"""``mabeam``: the root command, lazy subcommands, errors and exit codes.

Importing this module imports click and nothing heavy: a subcommand's module is imported when the
subcommand runs, and the table below is enough for ``--help``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Create a deployment directory: root key, operator key, settings."),
    "dev": ("dev", "Run a server, a coordinator and a projector on this machine."),
    "demo": ("demo", "See agents decide together, and the proof of it."),
    "doctor": ("doctor", "Check the deployment; says why it is not ready for production."),
    "key": ("key", "Create, admit, rotate and revoke keys."),
    "agent": ("agent", "Run agents; see who takes part."),
    "coordinator": ("coordinator", "Run a coordinator."),
    "projector": ("projector", "Run the projector, which writes the log into SQL."),
    "coord": ("coord", "Start, see, follow, explain, hand over, export and cancel coordinations."),
    "audit": ("audit", "Verify decisions from the log, a bundle or the mirror."),
    "projection": ("projection", "See, rebuild and compare the projections."),
    "db": ("db", "Upgrade, query and document the database."),
    "log": ("log", "Provision the streams; see the head of the log."),
    "sim": ("sim", "Simulate a protocol under faults and adversaries, from seeds."),
    "bench": ("bench", "Measure throughput and latency on this machine."),
    "config": ("config", "Show settings and where they come from."),
}

EXIT_CODES = (
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 verification failed, 4 not found, "
    "5 unavailable, 130 interrupted."
)
INTERRUPTED = 130


@click.group(
    cls=LazyGroup,
    package=__name__.rpartition(".")[0],
    table=COMMANDS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Deployment directory (MABEAM_HOME, else ./.mabeam).",
)
@click.option("--url", help="NATS servers, several separated by commas.")
@click.option("--database", help="SQLAlchemy address of the projections.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-format", help="json, text or auto.")
@click.option("--debug", is_flag=True, help="Show the traceback of unexpected errors.")
@click.version_option(package_name="mabeam")
@click.pass_context
def mabeam(context: click.Context, /, home: Path | None, debug: bool, **settings: Any) -> None:
    """Agents decide together, and everybody can prove how."""
    from .invocation import Invocation

    context.obj = Invocation(home, settings)


def main() -> None:
    """Entry point of the ``mabeam`` program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status and never raises."""
    debug = "--debug" in arguments or bool(os.environ.get("MABEAM_DEBUG"))
    try:
        status = mabeam.main(list(arguments), prog_name="mabeam", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except BrokenPipeError:
        # The reader of our output has seen enough; there is nobody to write to any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.ClickException as error:
        return _report_usage(error)
    except Exception as error:  # the last line of defence: one line, unless asked for more
        if debug:
            raise
        return _report(error)


def _report_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mabeam"
    return _print("usage", error.format_message(), f"Try '{command} --help'.", 2)


def _report(error: Exception) -> int:
    from ...core.errors import MabeamError

    if isinstance(error, MabeamError):
        return _print(error.code, error.message, error.hint, error.exit_code)
    text = f"{type(error).__name__}: {error}"
    return _print("internal", text, "This is a bug; run again with 'mabeam --debug …'.", 1)


def _print(code: str, message: str, hint: str, status: int) -> int:
    click.echo(f"error[{code}]: {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return status
