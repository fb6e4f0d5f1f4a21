"""Checkers: what must hold in every run, whatever was done to it.

Each looks at the log from outside, as an observer who sees all of it, and at what the clients saw.
A checker yields one message for everything it finds broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ..audit.findings import Report
from ..audit.verify import audit_records
from ..coordination import FAILED, Coordination
from ..envelope import Event, decode_event
from ..errors import PeerProtocolError
from ..kernel_events import TERMINAL_TYPES
from ..machine import LogEvent
from ..names import REGISTRY
from ..replay import Replay, Verdict

if TYPE_CHECKING:
    from .world import World

_NO_ACCUSATION = frozenset({"early_deadline"})
"""Findings that name an author without blaming it: clocks may differ within the permitted skew."""


class Violation(msgspec.Struct, frozen=True):
    """Something that must always hold and does not."""

    checker: str
    message: str

    def __str__(self) -> str:
        return f"{self.checker}: {self.message}"


class Observation:
    """What an observer makes of a world's log.

    Attributes:
        world: the world.
        verdicts: on every record, in log order.
        folds: every coordination with a request in force, by id.
        changed: coordinations whose terminal event was in force and was replaced.
        provisional: ids of failures that were in force and not final.
        report: the auditor's.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.changed: list[str] = []
        self.provisional: dict[bytes, None] = {}
        self.verdicts: list[Verdict] = []
        records = world.network.broker.records
        replay = Replay(world.root.public_key, world.protocols)
        ended: dict[str, LogEvent] = {}
        for record in records:
            self.verdicts += replay.feed([record])
            fold = self.verdicts[-1].coordination
            terminal = fold.terminal if fold is not None else None
            if terminal is not None:
                name = terminal.coordination
                before = ended.get(name, terminal)
                if before.id != terminal.id and not _is_provisional(before):
                    self.changed.append(name)
                ended[name] = terminal
                if _is_provisional(terminal):
                    self.provisional[terminal.id] = None
        names = {verdict.coordination.id: None for verdict in self.verdicts if verdict.coordination}
        folds = {name: replay.coordination(name) for name in names}
        self.folds = {name: fold for name, fold in folds.items() if fold and fold.request}
        self.report: Report = audit_records(
            records, world.root.public_key, world.protocols, head=len(records)
        )

    def of(self, coordination: str) -> list[Verdict]:
        """The verdicts on the events of one coordination."""
        return [v for v in self.verdicts if v.coordination and v.coordination.id == coordination]


Checker = Callable[[Observation], Iterator[str]]


def _is_provisional(terminal: LogEvent) -> bool:
    """Whether a certificate that surfaces later replaces it."""
    return terminal.type == FAILED and not terminal.content.final


def one_terminal(seen: Observation) -> Iterator[str]:
    """At most one terminal event is ever in force in a coordination, and it stays."""
    for name in seen.changed:
        yield f"the terminal event of {name} was replaced by another"
    for name in seen.folds:
        in_force = [
            verdict
            for verdict in seen.of(name)
            if verdict.rejection is None
            and verdict.event
            and verdict.event.type in TERMINAL_TYPES
            and not _is_provisional(verdict.event)
        ]
        if len(in_force) > 1:
            yield f"{name} has {len(in_force)} terminal events in force"


def readers_agree(seen: Observation) -> Iterator[str]:
    """Every client saw the ending that the log gives."""
    for node in seen.world.readers():
        for name, (terminal, _) in node.seen.items():
            fold = seen.folds.get(name)
            given = fold.terminal.id if fold and fold.terminal else b""
            if given != terminal and terminal not in seen.provisional:
                yield f"{node.id} saw {name} end in {terminal.hex()[:12]}, the log gives another"


def auditor_agrees(seen: Observation) -> Iterator[str]:
    """The auditor counts the same endings, finds no fault in an honest log, and knows culprits."""
    endings = Counter(
        fold.terminal.type.removeprefix("coordination.") if fold.terminal else "open"
        for fold in seen.folds.values()
    )
    if dict(sorted(endings.items())) != dict(sorted(seen.report.endings.items())):
        yield f"the auditor counts {seen.report.endings}, the fold {dict(endings)}"
    for finding in seen.report.findings:
        if finding.severity == "wrong" and finding.culprit not in seen.world.dishonest:
            yield f"the auditor reports {finding.code}: {finding.message}"


def complete(seen: Observation) -> Iterator[str]:
    """Nothing that honest authors signed is missing from the log, unless it was on a lost disk."""
    nodes = seen.world.nodes
    excused = seen.world.dishonest.keys() | {id for id in nodes if nodes[id].has_lost_journal}
    for finding in seen.report.findings:
        if finding.severity == "incomplete" and finding.author not in excused:
            yield f"the auditor misses something: {finding.code}: {finding.message}"


def nobody_honest_accused(seen: Observation) -> Iterator[str]:
    """No honest id is a culprit, is proven guilty, or has signed two events with one number."""
    honest = seen.world.nodes.keys() - seen.world.dishonest.keys()
    for finding in seen.report.findings:
        if finding.culprit in honest and finding.code not in _NO_ACCUSATION:
            yield f"the auditor blames {finding.culprit}: {finding.code}: {finding.message}"
    for verdict in seen.verdicts:
        event = verdict.event
        if event is None or event.type != "evidence.submitted" or verdict.rejection is not None:
            continue
        if event.content.accused in honest:
            yield f"evidence {event.content.rule} against {event.content.accused} was accepted"
    yield from _forks(seen, [verdict.event.event for verdict in seen.verdicts if verdict.event])


def nobody_honest_accusable(seen: Observation) -> Iterator[str]:
    """Even with the events that the log has lost, no honest id has signed two with one number."""
    lost = [_decoded(record.wire) for record in seen.world.network.lost]
    stored = [verdict.event.event for verdict in seen.verdicts if verdict.event]
    yield from _forks(seen, [*(event for event in lost if event is not None), *stored])


def _forks(seen: Observation, events: list[Event]) -> Iterator[str]:
    honest = seen.world.nodes.keys() - seen.world.dishonest.keys()
    signed: dict[tuple[str, str, int], bytes] = {}
    for event in events:
        header = event.header
        place = header.coordination, header.author, header.author_seq
        if header.author in honest and signed.setdefault(place, event.id) != event.id:
            yield f"{header.author} signed two events {header.author_seq} in {header.coordination}"


def _decoded(wire: bytes) -> Event | None:
    try:
        return decode_event(wire)
    except PeerProtocolError:
        return None


def label_is_honest(seen: Observation) -> Iterator[str]:
    """The tolerance label claims no more than the frozen configuration gives (COM-27)."""
    for name, fold in seen.folds.items():
        outcome = getattr(fold.terminal.content, "outcome", None) if fold.terminal else None
        if outcome is not None:
            for claim in _over_claims(fold, outcome.get("tolerance") or {}):
                yield f"{name}: {claim}"


def _over_claims(fold: Coordination, label: dict[str, Any]) -> Iterator[str]:
    opened = fold.config
    assert opened is not None
    assumes = set(label.get("assumes", ()))
    if label.get("ordering") != opened.ordering or label.get("f", 0) > opened.f:
        yield f"the label {label} claims more than the configuration gives"
    needed = {"operator_order"} if opened.ordering == "log" else {"at_most_f_byzantine"}
    if opened.ordering == "log" and not label.get("f"):
        needed.add("crash_only")
    if len({each.controller for each in opened.participants}) == 1:
        needed.add("single_controller")
    if missing := needed - assumes:
        yield f"the label hides {', '.join(sorted(missing))}"


def everything_ended(seen: Observation) -> Iterator[str]:
    """Once stable for the stated time, coordinations have ended and every client knows."""
    for name, fold in seen.folds.items():
        if fold.terminal is None:
            waiting = ", ".join(fold.waiting_for()) or "nobody"
            yield f"{name} is still {fold.phase}, waiting for {waiting}"
    for node in seen.world.readers():
        for name in seen.world.known():
            if name not in node.seen:
                yield f"{node.id} has not seen {name} end"


def hosts_live(seen: Observation) -> Iterator[str]:
    """No host of an honest node ended by itself, except for want of the log or of its admission."""
    for record in seen.world.network.lost:
        if record.subject.split(".", 4)[3] == REGISTRY:
            return
    for id, node in seen.world.nodes.items():
        if id not in seen.world.dishonest:
            yield from (f"{id} died of {death}" for death in node.deaths)


def adversaries_live(seen: Observation) -> Iterator[str]:
    """No adversary failed at misbehaving: a run with one that broke says nothing."""
    world = seen.world
    yield from (f"something broke: {error}" for error in world.errors)
    for id in world.dishonest:
        yield from (f"adversary {id} died of {death}" for death in world.nodes[id].deaths)


SAFETY: tuple[Checker, ...] = (
    one_terminal,
    readers_agree,
    auditor_agrees,
    nobody_honest_accused,
    label_is_honest,
    hosts_live,
    adversaries_live,
)
LIVENESS: tuple[Checker, ...] = (everything_ended, complete)
UNTRUSTED_OPERATOR: tuple[Checker, ...] = (one_terminal, nobody_honest_accused, hosts_live)
"""What is left when the log itself breaks its promises and the configuration trusts it."""


def check(
    world: World, checkers: tuple[Checker, ...] = (*SAFETY, *LIVENESS)
) -> tuple[Violation, ...]:
    """Run checkers over a world as it is now."""
    return check_observation(Observation(world), checkers)


def check_observation(
    seen: Observation, checkers: tuple[Checker, ...] = (*SAFETY, *LIVENESS)
) -> tuple[Violation, ...]:
    """Run checkers over an observation."""
    return tuple(
        Violation(checker.__name__, message) for checker in checkers for message in checker(seen)
    )
