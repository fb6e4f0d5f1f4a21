"""What is stored in a deployment's log, and what an observer who folds all of it makes of it."""

from __future__ import annotations

from deployment import Deployment

from mabeam.core.envelope import Event, decode_event
from mabeam.core.kernel_events import TERMINAL_TYPES
from mabeam.core.log import Record
from mabeam.core.replay import Replay, Verdict
from mabeam.protocols import PROTOCOLS


def verdicts(deployment: Deployment, coordination: str | None = None) -> list[Verdict]:
    """The observer's verdict on every record, or on those of one coordination."""
    found = Replay(deployment.root.public_key, PROTOCOLS).feed(deployment.broker.records)
    return [each for each in found if coordination in (None, _coordination(each.record))]


def effective(deployment: Deployment, coordination: str) -> list[str]:
    """Types of a coordination's events that count, in order."""
    return [_type(each) for each in verdicts(deployment, coordination) if each.rejection is None]


def reasons(deployment: Deployment, coordination: str | None = None) -> list[str]:
    """Why records have no effect, in order."""
    found = verdicts(deployment, coordination)
    return [each.rejection.reason for each in found if each.rejection is not None]


def terminals(deployment: Deployment, coordination: str) -> list[Verdict]:
    """Everything stored that pretends to end the coordination, in force or not."""
    found = verdicts(deployment, coordination)
    return [each for each in found if _type(each) in TERMINAL_TYPES]


def stored(deployment: Deployment, coordination: str, type_name: str = "") -> list[Event]:
    """The stored events of a coordination, of one type if that is given."""
    records = deployment.broker.by_coordination.get(coordination, [])
    events = [decode_event(record.wire) for record in records]
    return [event for event in events if type_name in ("", event.header.type)]


def forks(deployment: Deployment) -> list[tuple[str, str, int]]:
    """Chain positions under which more than one event is stored: what no honest author does."""
    seen: dict[tuple[str, str, int], bytes] = {}
    found = []
    for record in deployment.broker.records:
        event = decode_event(record.wire)
        header = event.header
        place = (header.coordination, header.author, header.author_seq)
        if seen.setdefault(place, event.id) != event.id:
            found.append(place)
    return found


def _coordination(record: Record) -> str:
    return record.subject.split(".", 4)[3]


def _type(verdict: Verdict) -> str:
    return verdict.record.subject.split(".")[5].replace("_", ".", 1)
