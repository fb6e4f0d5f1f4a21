"""From the steps of a recorded coordination to its diagram.

Lanes stand in the order requester, coordinators, participants, others. An arrow leads from the
author of an event to whoever answers it; what an answered event answers itself is left out, for
that follows. More than ``MAX_LANES`` lanes are not legible: then strangers share one, and so do all
participants who did nothing out of the ordinary; their equal events in a row are one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ...core.audit.replay import Step
from ...core.errors import NotFoundError
from .model import Diagram, Kind, Lane, Role, Row
from .template import printable, shortened
from .wording import answered, wording, words

MAX_LANES = 16
"""Lanes drawn side by side."""
IN_FORCE = "in force"
_ENDINGS = ("coordination.decided", "coordination.failed", "coordination.cancelled")
_ORDER: tuple[Role, ...] = ("requester", "coordinator", "participant", "other")


def compose(coordination: str, steps: Sequence[Step]) -> Diagram:
    """The diagram of a coordination.

    Args:
        coordination: its id.
        steps: what :func:`mabeam.core.audit.replay.steps` found.

    Raises:
        NotFoundError: there are no steps.
    """
    if not steps:
        raise NotFoundError(
            f"there is no coordination {coordination!r}", hint="See 'mabeam coord ls'."
        )
    opening = next((step for step in steps if _counts(step, "coordination.opened")), None)
    request = next((step for step in steps if _counts(step, "coordination.requested")), None)
    known = opening or request
    lanes = _lanes(steps, request, opening)
    return Diagram(
        coordination,
        known.content["protocol"] if known else "unknown protocol",
        lanes,
        tuple(_merged(_rows(steps, lanes), lanes)),
        _standing(steps[-1]),
    )


def _counts(step: Step, type: str) -> bool:
    return step.type == type and step.verdict == IN_FORCE


# Lanes ------------------------------------------------------------------------------------------


def _lanes(steps: Sequence[Step], request: Step | None, opening: Step | None) -> tuple[Lane, ...]:
    roles: dict[str, Role] = {}
    if request is not None:
        roles[request.author] = "requester"
    for step in steps:
        if step.type == "coordination.claimed" and step.author:
            roles.setdefault(step.author, "coordinator")
    known = opening or request
    for member in known.content["participants"] if known is not None else ():
        roles.setdefault(member["agent_id"], "participant")
    for step in steps:
        if step.author:
            roles.setdefault(step.author, "other")
    lanes = [Lane(name, role) for name, role in roles.items()]
    lanes.sort(key=lambda lane: _ORDER.index(lane.role))
    return tuple(_folded(lanes, steps))


def _folded(lanes: list[Lane], steps: Sequence[Step]) -> list[Lane]:
    """The lanes; if there are too many, strangers share one, then all ordinary participants."""
    remarkable = {step.author for step in steps if step.verdict != IN_FORCE}
    remarkable |= {step.content["accused"] for step in steps if _counts(step, "evidence.submitted")}
    return _shared(_shared(lanes, "other", "strangers", set()), "participant", "others", remarkable)


def _shared(lanes: list[Lane], role: Role, called: str, remarkable: set[str]) -> list[Lane]:
    """The lanes; if there are too many, one for those of a role, except whom one must see."""
    mine = [each.name for each in lanes if each.role == role]
    room = max(0, MAX_LANES - 1 - (len(lanes) - len(mine)))
    kept = {*[name for name in mine if name in remarkable][:room]}
    away = tuple(sorted(name for name in mine if name not in kept))
    if len(lanes) <= MAX_LANES or len(away) < 2:
        return lanes
    first = next(at for at, each in enumerate(lanes) if each.role == role)
    left = [each for each in lanes if each.name not in away]
    at = first + sum(each.role == role for each in left)
    return [*left[:at], Lane(f"{len(away)} {called}", role, away), *left[at:]]


# Rows -------------------------------------------------------------------------------------------


def _rows(steps: Sequence[Step], lanes: Sequence[Lane]) -> Iterator[Row]:
    place = {name: at for at, lane in enumerate(lanes) for name in (lane.members or (lane.name,))}
    positions = {step.event_id: step.sequence for step in reversed(steps) if step.event_id}
    authors = {step.event_id: step.author for step in steps if step.event_id}
    answers = {step.event_id: answered(step.type, step.content, step.refs) for step in steps}
    phase, claimant = "requested", ""
    for step in steps:
        lane = place.get(step.author)
        direct = _direct(answers[step.event_id], answers)
        sources = {place[authors[each]] for each in direct if authors.get(each) in place}
        says, kind = words(step.type, step.content, positions), wording(step.type).kind
        if _counts(step, "coordination.claimed"):
            if claimant and claimant != step.author:
                says, kind = f"takes over from {claimant}, term {step.content['term']}", "takeover"
            claimant = step.author
        yield Row(
            step.sequence,
            max(0, step.stored_ns - steps[0].stored_ns) // 1_000_000,
            lane,
            tuple(sorted(sources - {lane})) if lane is not None else (),
            printable(step.author) + ("?" if step.author and step.content is None else ""),
            says,
            _kind(kind, step),
            printable(step.type),
            "" if step.verdict == IN_FORCE else step.verdict,
            step.phase if step.phase != phase else "",
        )
        phase = step.phase


def _kind(kind: Kind, step: Step) -> Kind:
    """What has no effect must not look as if it had ended something."""
    return kind if step.verdict == IN_FORCE else "event"


def _direct(ids: Iterable[str], answers: dict[str, tuple[str, ...]]) -> list[str]:
    """The events answered, without those that another of them answers itself."""
    ids = tuple(ids)
    implied = {each for id in ids for each in answers.get(id, ())}
    return [id for id in ids if id not in implied]


def _merged(rows: Iterable[Row], lanes: Sequence[Lane]) -> Iterator[Row]:
    """Equal rows of a shared lane next to each other as one."""
    run: list[Row] = []
    for row in rows:
        shared = row.lane is not None and bool(lanes[row.lane].members)
        if run and not (shared and _alike(run[0], row)):
            yield _one(run)
            run = []
        if shared:
            run.append(row)
        else:
            yield row
    if run:
        yield _one(run)


def _alike(first: Row, row: Row) -> bool:
    same = (first.lane, first.sources, first.words, first.kind, first.reason)
    return same == (row.lane, row.sources, row.words, row.kind, row.reason) and not row.phase


def _one(run: Sequence[Row]) -> Row:
    if len(run) == 1:
        return run[0]
    authors = len({row.author for row in run})
    return msgspec.structs.replace(run[0], author=f"{authors} of them:", count=len(run))


def _standing(last: Step) -> str:
    if last.phase in {each.removeprefix("coordination.") for each in _ENDINGS}:
        return f"ended: {last.phase}"
    waiting = shortened(", ".join(last.waiting_for), 200) or "nobody in particular"
    due = [f"{each.key} in {each.delay_ms} ms" for each in last.planned if each.kind == "after"]
    pending = f"; running: {shortened(', '.join(due), 200)}" if due else ""
    return f"open ({last.phase}), waiting for {waiting}{pending}"
