"""Endings that do not count: a terminal event the coordinator in force signed and the fold refused.

The fold refuses for two kinds of reasons. An honest coordinator may be overtaken by an event it
had not seen (a vote decides while its cancellation is under way); then its machine had intended
just this. Otherwise it signed a result that the events do not give: evidence E9.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..coordination import Coordination
from ..errors import PeerProtocolError
from ..machine import TERMINAL_KEY, Append, Intent, LogEvent
from .conformance import Window
from .findings import Finding, about, blame, differences

_CODES = {
    "wrong_outcome": "wrong_outcome",
    "wrong_phase": "premature_ending",
    "not_authorised": "premature_ending",
    "already_decided": "wrong_ending",
}
_REORDERED = (
    "it counts the same events in another order than the log's: the coordinator counted wrongly or "
    "the log was reordered"
)


def is_overtaken(event: LogEvent, error: PeerProtocolError, window: Window) -> bool:
    """Whether the ending is void for a reason that says nothing about its content."""
    return error.reason not in _CODES or window.offer(event) is not None


def second_ending(event: LogEvent, error: PeerProtocolError, first: LogEvent) -> Finding | None:
    """The finding about an ending after the one in force, unless it says the same."""
    if error.reason != "already_decided" or _content(event) == _content(first):
        return None
    message = f"a second, different ending after the one at position {first.sequence}"
    proof = (first.event,) if first.author == event.author else ()
    return blame("two_endings", event, message, *proof, rule="E9")


def false_ending(event: LogEvent, error: PeerProtocolError, fold: Coordination) -> Finding:
    """The finding about an ending that the events do not give."""
    message = error.message
    due = _due(fold.intents())
    if error.reason == "wrong_outcome" and due is not None:
        message = differences(event.content, due.body)
        if not message and sorted(due.refs) == sorted(event.event.header.refs):
            return about("wrong", "order_mismatch", event, _REORDERED)
        message = message or "it counts other events than the log gives"
    return blame(_CODES[error.reason], event, message, rule="E9")


def suppressed_result(event: LogEvent, fold: Coordination) -> Finding | None:
    """The finding about an internal error reported where the result had been reached."""
    due = _due(fold.machine.intents()) if fold.machine is not None else None
    if due is None:
        return None
    message = f"it reports {event.content.code!r}, but the events had led to {due.type}"
    return about("warning", "suppressed_result", event, message, culprit=event.author)


def _due(intents: Iterable[Intent]) -> Append | None:
    endings = (each for each in intents if isinstance(each, Append) and each.key == TERMINAL_KEY)
    return next(endings, None)


def _content(event: LogEvent) -> tuple[str, tuple[bytes, ...], bytes]:
    return event.type, event.event.header.refs, event.event.body
