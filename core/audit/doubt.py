"""Doubt: an accusation stands only where nothing missing could explain what was found (EVI-2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ..succession import Link
from .findings import Finding
from .links import check_link

_UNREPRODUCED = frozenset({"snapshot_mismatch", "registry_incomplete"})
"""Findings about a registry that is not the one the coordinator saw."""

_CERTAIN = frozenset({"wrong_certificates", "two_endings"})
"""Findings that nothing missing could explain."""


class RegistryDoubt(msgspec.Struct, frozen=True):
    """What is missing from the registry, in words; empty strings if nothing is.

    Attributes:
        anything: any event.
        keys: events that may have said which keys count. Nothing else of the registry matters to a
            coordination that was opened with the very registry at hand.
    """

    anything: str = ""
    keys: str = ""


class Summary(msgspec.Struct, frozen=True):
    """What an audit remembers of a coordination that is not in memory.

    Attributes:
        first: position of its first record.
        digest: hash over its records, to recognise them when they are read again.
        requested: whether it has a request.
        ending: type of its terminal event in force, or empty.
        omissions: what is missing from it.
        held: findings that stand unless something missing could explain them.
        link: what it says about other coordinations, ``None`` if it names none.
        reproduced: whether it was opened with the very registry at hand.
    """

    first: int
    digest: bytes
    requested: bool
    ending: str
    omissions: tuple[Finding, ...] = ()
    held: tuple[Finding, ...] = ()
    link: Link | None = None
    reproduced: bool = False


def is_unreproduced(summary: Summary) -> bool:
    """Whether it was opened with a registry that is not the one read here."""
    return any(finding.code in _UNREPRODUCED for finding in summary.held)


def resolve(
    summary: Summary, holes: Sequence[tuple[int, int]], registry_doubt: RegistryDoubt
) -> Iterator[Finding]:
    """The findings about a coordination once everything has been read.

    Args:
        summary: the coordination.
        holes: stretches of the log that cannot be relied on.
        registry_doubt: what is missing from the registry.
    """
    yield from summary.omissions
    of_registry = registry_doubt.keys if summary.reproduced else registry_doubt.anything
    doubt = _doubt(summary, holes) or of_registry
    for finding in summary.held:
        yield _doubted(finding, doubt)


def resolve_link(
    summary: Summary,
    summaries: Mapping[str, Summary],
    holes: Sequence[tuple[int, int]],
    registry_doubt: RegistryDoubt,
    *,
    whole_log: bool,
) -> Iterator[Finding]:
    """The finding about the predecessor a coordination claims, once everything has been read.

    Args:
        summaries: all coordinations read, by id.
        summary, holes, registry_doubt: see :func:`resolve`.
        whole_log: every record of the log was read.
    """
    if summary.link is None or summary.link.predecessor is None:
        return
    name = summary.link.predecessor.coordination
    before = summaries.get(name)
    link = (before.link or Link(name, None, b"", None, None)) if before is not None else None
    finding = check_link(summary.link, link, whole_log=whole_log)
    if finding is not None:
        doubts = (_doubt(each, holes) for each in (summary, before) if each is not None)
        yield _doubted(finding, next(filter(None, doubts), registry_doubt.anything))


def _doubted(finding: Finding, doubt: str) -> Finding:
    accuses = bool(finding.culprit) and finding.code not in _CERTAIN
    return _in_doubt(finding, doubt) if doubt and accuses else finding


def _doubt(summary: Summary, holes: Sequence[tuple[int, int]]) -> str:
    missing = [each.message for each in summary.omissions if each.severity != "warning"]
    if missing:
        return missing[0]
    if is_unreproduced(summary):
        return "events of the registry are missing"
    if any(last >= summary.first for _, last in holes):
        return "records of that stretch of the log are missing or out of order"
    return ""


def _in_doubt(finding: Finding, doubt: str) -> Finding:
    """The same finding where something is missing that could explain it: nobody is accused."""
    return msgspec.structs.replace(
        finding,
        severity="incomplete",
        message=f"{finding.message}; not provable, because {doubt}",
        culprit="",
        rule="",
        proof_ids=(),
        proof=(),
    )
