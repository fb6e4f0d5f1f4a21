"""``mabeam audit evidence``: every proof in a log or bundle, and who made a fork possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from ..core.audit.exhibits import Exhibit, Exhibits
from ..core.audit.replay import Recording
from ..core.audit.roots import check_root
from ..core.coordination import Coordination
from ..core.envelope import decode_event
from ..core.errors import PeerProtocolError
from ..core.evidence import proof_bytes
from ..core.kernel_events import CoordinationOpened
from ..core.log import EventLog, Record
from ..core.machine import LogEvent, Protocols
from ..core.names import REGISTRY
from ..protocols.byzantine import analyse, submission
from ..protocols.ordered import replicas_in
from .evidence_words import proof_in_words


class Culprit(msgspec.Struct, frozen=True):
    """One replica that made a fork possible, and the size of the proof in bytes."""

    replica: str
    rule: str
    words: str
    proof_bytes: int


class Fork(msgspec.Struct, frozen=True):
    """Two certificates for one slot (specification 13, EVI-3).

    Attributes:
        coordination, slot: where.
        f: Byzantine replicas the group tolerates; a fork needs more.
        verdict: ``culprits`` if more than f are proven, else ``incomplete``.
        culprits: by replica.
        missing: ids of events that are referred to and not there, hexadecimal.
    """

    coordination: str
    slot: int
    f: int
    verdict: Literal["culprits", "incomplete"]
    culprits: tuple[Culprit, ...]
    missing: tuple[str, ...]


class EvidenceReport(msgspec.Struct, frozen=True):
    """What was submitted, and what forked.

    Attributes:
        exhibits: in log order.
        forks: by coordination.
        clean: every proof holds and nothing forked.
    """

    exhibits: tuple[Exhibit, ...]
    forks: tuple[Fork, ...]
    clean: bool


def report_on(
    records: Iterable[Record], root_public_key: bytes, protocols: Protocols
) -> EvidenceReport:
    """Report on records given in log order, those of the registry among them.

    Raises:
        VerificationError: they belong to another root key.
    """
    given = list(records)
    check_root(given, root_public_key)
    docket = Exhibits(root_public_key, protocols)
    exhibits = list(_worded(docket, given))
    forks = [_fork(name, given, root_public_key, protocols) for name in _replicated(docket)]
    return _report(exhibits, forks)


async def report_on_log(
    log: EventLog, root_public_key: bytes, protocols: Protocols
) -> EvidenceReport:
    """Report on a whole log; one coordination after the other is read again to look for forks.

    Raises:
        LogUnavailableError, SequenceGapError: the log cannot be read.
        VerificationError: it belongs to another root key.
    """
    check_root(await log.read(REGISTRY), root_public_key)
    docket = Exhibits(root_public_key, protocols)
    exhibits: list[Exhibit] = []
    async for batch in log.read_all():
        exhibits.extend(_worded(docket, batch))
    registry = await log.read(REGISTRY)
    forks = []
    for name in _replicated(docket):
        records = sorted((*registry, *await log.read(name)), key=lambda record: record.sequence)
        forks.append(_fork(name, records, root_public_key, protocols))
    return _report(exhibits, forks)


def _report(exhibits: list[Exhibit], forks: Iterable[Fork | None]) -> EvidenceReport:
    found = tuple(each for each in forks if each is not None)
    return EvidenceReport(
        tuple(exhibits), found, not found and all(each.valid for each in exhibits)
    )


def _replicated(docket: Exhibits) -> list[str]:
    """Coordinations whose replicas could fork, by what their openings claim."""
    found = set()
    for (name, _), wire in docket.openings.items():
        opened = msgspec.msgpack.decode(decode_event(wire).body, type=CoordinationOpened)
        if opened.ordering == "bft":
            found.add(name)
    return sorted(found)


def _worded(docket: Exhibits, records: Iterable[Record]) -> Iterator[Exhibit]:
    for exhibit, events in docket.feed(records):
        words = proof_in_words(exhibit.rule, exhibit.accused, events)
        yield msgspec.structs.replace(exhibit, words=words)


def _fork(
    name: str, records: Iterable[Record], root_public_key: bytes, protocols: Protocols
) -> Fork | None:
    """The fork of a coordination of replicas, if there is one."""
    fold, events = folded(name, records, root_public_key, protocols)
    machine = replicas_in(fold.machine)
    if machine is None:
        return None
    found = analyse(events, machine.group)
    if found.verdict == "no_fork":
        return None
    return Fork(
        name,
        found.sequence,
        machine.group.f,
        found.verdict,
        tuple(
            Culprit(
                accused,
                proof.rule,
                proof_in_words(proof.rule, accused, proof.events),
                proof_bytes(submission(proof)),
            )
            for accused, proof in found.culprits.items()
        ),
        tuple(each.hex() for each in found.missing),
    )


def folded(
    name: str, records: Iterable[Record], root_public_key: bytes, protocols: Protocols
) -> tuple[Coordination, list[LogEvent]]:
    """A coordination's fold, and every authentic event under its configuration, void or not."""
    recording = Recording(name, root_public_key, protocols)
    events: list[LogEvent] = []
    for _, result in recording.read(records):
        if isinstance(result, LogEvent):
            events.append(result)
            _apply(recording.fold, result)
    epoch = recording.fold.epoch
    return recording.fold, [each for each in events if each.event.header.epoch == epoch]


def _apply(fold: Coordination, event: LogEvent) -> bool:
    try:
        fold.apply(event)
    except PeerProtocolError:
        return False
    return True


def in_words(report: EvidenceReport) -> Iterator[str]:
    """The lines for people."""
    if not report.exhibits and not report.forks:
        yield "no evidence was submitted, and nothing forked"
    for each in report.exhibits:
        if not each.valid:
            yield (
                f"{each.sequence} {each.coordination}: NOT PROVEN, {each.submitter} accuses "
                f"{each.accused} of {each.rule}: {each.problem}"
            )
            continue
        how = _HOW[each.alone]
        yield (
            f"{each.sequence} {each.coordination}: {each.words} ({each.rule}, submitted by "
            f"{each.submitter}; {len(each.proof_ids)} events, {each.proof_bytes} bytes, {how})"
        )
    for fork in report.forks:
        yield from _fork_words(fork)


_HOW: Mapping[bool, str] = {
    True: "valid with the opening and the root key alone",
    False: "valid with the keys of the registry",
}


def _fork_words(fork: Fork) -> Iterator[str]:
    yield (
        f"{fork.coordination}: FORK, slot {fork.slot} has two certificates; more than "
        f"{fork.f} replicas lied"
    )
    for each in fork.culprits:
        yield f"  {each.words} ({each.rule}, {each.proof_bytes} bytes)"
    if fork.verdict == "incomplete":
        named = ", ".join(each[:12] for each in fork.missing) or "nothing that is referred to"
        yield (
            f"  incomplete: {len(fork.culprits)} of at least {fork.f + 1} culprits are proven; "
            f"missing: {named}"
        )
