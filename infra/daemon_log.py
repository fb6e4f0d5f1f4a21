"""Reading what a daemon wrote into its log."""

from __future__ import annotations

import json
from typing import Any

_WORDS = 500
_ABOUT_THE_LINE = frozenset({"at", "level", "logger", "event", "daemon", "member", "exception"})


def last_event(log: str) -> str:
    """The error a log ends with, else its last warning, else its last line; never many lines."""
    lines = [line for line in log.splitlines() if line.strip()]
    events = [event for line in lines if (event := _event(line))]
    errors = [line for line in lines if line.startswith("error[")]
    warnings = [event for event in events if event["level"] not in ("debug", "info")]
    if errors:
        words = errors[-1]
    elif lines and _event(lines[-1]):
        event = (warnings or events)[-1]
        fields = [f"{name}={event[name]}" for name in event if name not in _ABOUT_THE_LINE]
        words = " ".join([event["event"], *fields])
    else:
        words = lines[-1].strip() if lines else "it logged nothing"
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}…"


def _event(line: str) -> dict[str, Any]:
    """A line of a daemon's log, empty if it is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and {"level", "event"} <= event.keys() else {}
