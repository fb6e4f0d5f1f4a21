"""``mabeam audit``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .invocation import Invocation, as_json, pass_invocation, plain, print_json

if TYPE_CHECKING:
    from ...core.audit.findings import Report
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.log import EventLog, Record
    from ..evidence_report import EvidenceReport

FAILED = 3
MAX_SHOWN = 20
MAX_NAMED = 10
_UNPROVEN = frozenset({"wrong_root", "wrong_exporter"})


@click.group("audit")
def audit_command() -> None:
    """Verify decisions from the log, a bundle or the mirror."""


@audit_command.command()
@click.argument("coordination", required=False)
@click.option("--all", "whole_log", is_flag=True, help="The whole log.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A file from 'coord export'.")
@click.option("--root-key", "--root", "root_key", help="Root public key: hex, or a file.")
@click.option(
    "--source",
    type=click.Choice(["log", "mirror"]),
    default="log",
    show_default=True,
    help="Read the log itself, or its mirror in SQL.",
)
@as_json
@pass_invocation
def verify(
    invocation: Invocation,
    coordination: str | None,
    whole_log: bool,
    bundle: Path | None,
    root_key: str | None,
    source: str,
    as_json: bool,
) -> int:
    """Compute everything again: signatures, chains, registry, openings, outcomes.

    Ends with 0 if nothing is wrong and nothing is missing, else with 3. That somebody lied, with
    proof and without effect, is no fault of the log: it is listed, and the status stays 0.
    """
    _check_one(coordination, whole_log, bundle, "what to verify", "verify")
    root = invocation.root_key(root_key)
    if bundle is not None:
        return _verify_bundle(bundle, root, as_json)
    if source == "mirror":
        report = _verify_mirror(invocation, coordination, root)
    else:

        async def work(transport: JetStreamTransport) -> Report:
            return await _verify_log(transport.log, coordination, root)

        report = invocation.with_transport(None, work)
    if as_json:
        print_json(report)
    else:
        _show(report)
    return 0 if report.clean else FAILED


def _check_one(
    coordination: str | None, whole_log: bool, bundle: Path | None, what: str, command: str
) -> None:
    from ...core.errors import UsageError

    given = sum((coordination is not None, whole_log, bundle is not None))
    if given != 1:
        say = "give only one of" if given else f"say {what}:"
        raise UsageError(
            f"{say} a coordination, --bundle FILE, or --all",
            hint=f"For instance: mabeam audit {command} --all",
        )


@audit_command.command()
@click.argument("coordination", required=False)
@click.option("--all", "whole_log", is_flag=True, help="The whole log.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A file from 'coord export'.")
@click.option("--root-key", "--root", "root_key", help="Root public key: hex, or a file.")
@as_json
@pass_invocation
def evidence(
    invocation: Invocation,
    coordination: str | None,
    whole_log: bool,
    bundle: Path | None,
    root_key: str | None,
    as_json: bool,
) -> int:
    """List the proofs of misbehaviour, check each on its own, and name who made a fork possible.

    Ends with 0 if every proof holds and nothing forked, else with 3.
    """
    from ..evidence_report import in_words, report_on, report_on_log

    _check_one(coordination, whole_log, bundle, "where to look", "evidence")
    from ...protocols import PROTOCOLS

    root = invocation.root_key(root_key)
    if bundle is not None:
        report = report_on(_bundled(bundle), root, PROTOCOLS)
    elif coordination is not None:
        from .coord_reading import recorded

        report = report_on(recorded(invocation, coordination), root, PROTOCOLS)
    else:

        async def work(transport: JetStreamTransport) -> EvidenceReport:
            return await report_on_log(transport.log, root, PROTOCOLS)

        report = invocation.with_transport(None, work)
    if as_json:
        print_json(report)
    else:
        for line in in_words(report):
            click.echo("".join(c if c.isprintable() else " " for c in line))
    return 0 if report.clean else FAILED


def _bundled(path: Path) -> tuple[Record, ...]:
    from ...core.audit.bundle import decode_bundle
    from ...core.audit.bundle_audit import read_file
    from ...core.errors import VerificationError

    bundle, damage = decode_bundle(read_file(path))
    if bundle is None:
        first = damage[0]
        raise VerificationError(
            f"bundle {path} is damaged: line {first.line}, {first.where}: {first.message}",
            hint=f"See all damage: mabeam audit verify --bundle {path}",
        )
    return bundle.records


def _verify_bundle(path: Path, root: bytes, as_json: bool) -> int:
    from ...core.audit.bundle import decode_bundle
    from ...core.audit.bundle_audit import read_file, verify_bundle
    from ...protocols import PROTOCOLS

    data = read_file(path)
    report = verify_bundle(data, root, PROTOCOLS)
    bundle, _ = decode_bundle(data)
    # Position and exporter are as good as the file and the signature.
    unproven = any(finding.code in _UNPROVEN for finding in report.findings)
    exporter = bundle.manifest.exporter if bundle is not None and not unproven else ""
    position = bundle.header.position if bundle is not None and exporter else None
    if as_json:
        print_json({**plain(report), "signed_by": exporter or None, "signed_position": position})
    elif bundle is None or unproven:
        _show(report)
    else:
        signed = f"exported and signed by {exporter} at position {position}"
        _show(report, f"{signed if exporter else 'unsigned'}; ")
    return 0 if report.clean else FAILED


def _verify_mirror(invocation: Invocation, coordination: str | None, root: bytes) -> Report:
    import msgspec

    from ...projections.database import check_schema
    from ...projections.sql_log import SqlLog
    from ..sql_reading import open_for_reading

    with open_for_reading(invocation.database_url) as engine:
        check_schema(engine)
        report = asyncio.run(_verify_log(SqlLog(engine), coordination, root))
    return msgspec.structs.replace(report, source="mirror")


async def _verify_log(log: EventLog, coordination: str | None, root: bytes) -> Report:
    from concurrent.futures import ThreadPoolExecutor

    from ...core.audit.verify import audit_coordination, audit_log
    from ...protocols import PROTOCOLS

    with ThreadPoolExecutor(2) as pool:
        if coordination is not None:
            return await audit_coordination(log, coordination, root, PROTOCOLS, pool=pool)
        head = (await log.head()).sequence
        if not sys.stderr.isatty():
            return await audit_log(log, root, PROTOCOLS, pool=pool)
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("verifying", total=head)
            return await audit_log(
                log,
                root,
                PROTOCOLS,
                pool=pool,
                progress=lambda position: progress.update(task, completed=position),
            )


def _show(report: Report, origin: str = "") -> None:
    click.echo(
        f"{_verdict(report)}: {origin}{report.records} records, {report.signatures} signatures, "
        f"{report.coordinations} coordinations ({report.source})"
    )
    if report.endings:
        click.echo(", ".join(f"{number} {name}" for name, number in report.endings.items()))
    if report.rejections:
        listed = ", ".join(f"{number} {reason}" for reason, number in report.rejections.items())
        click.echo(f"records without effect: {listed}")
    shown = sorted(report.findings, key=lambda finding: finding.severity == "warning")
    for finding in shown[:MAX_SHOWN]:
        where = f" at {finding.sequence}" if finding.sequence else ""
        culprit = f"; at fault: {finding.culprit}" if finding.culprit else ""
        rule = f" ({finding.rule})" if finding.rule else ""
        text = f"{finding.severity} {finding.code}{rule}{where}: {finding.message}{culprit}"
        click.echo("".join(c if c.isprintable() else " " for c in text))
    if len(shown) > MAX_SHOWN:
        click.echo(f"… and {len(shown) - MAX_SHOWN} more; see --json")


def _verdict(report: Report) -> str:
    """``clean`` only if nobody is proven guilty either; a lie does not make the log wrong."""
    if not report.clean:
        return "incomplete" if report.ok else "FAILED"
    guilty = sorted({finding.culprit for finding in report.findings if finding.culprit})
    if not guilty:
        return "clean"
    more = f" and {len(guilty) - MAX_NAMED} more" if len(guilty) > MAX_NAMED else ""
    return f"verified; {len(guilty)} at fault ({', '.join(guilty[:MAX_NAMED])}{more})"
