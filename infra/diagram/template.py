"""Sentences with gaps, filled from the body of an event.

``{field}`` is a field, ``{outer.inner}`` one of a field, ``{field:form}`` one in a form of
``FORMS``. A part in square brackets is left out when one of its fields is absent, empty or not what
its form expects::

    votes {option}[, confidence {confidence_ppm:percent}]
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_VALUE = 60
DIGEST_DIGITS = 8

_PART = re.compile(r"\[([^\[\]]*)\]")
_GAP = re.compile(r"\{([\w.]+)(?::(\w+))?\}")
Positions = Mapping[str, int]


class AbsentError(Exception):
    """A field that a part of the sentence needs has no value to show."""


def fill(template: str, body: Any, positions: Positions) -> str:
    """The sentence.

    Args:
        template: see above.
        body: fields by name; byte strings are hexadecimal.
        positions: sequence of an event id, for the form ``event``.
    """
    parts = _PART.split(template)  # what stands in brackets is every second one
    return "".join(
        _part(part, body, positions, "" if place % 2 else "?") for place, part in enumerate(parts)
    )


def _part(text: str, body: Any, positions: Positions, absent: str) -> str:
    found: list[str] = []
    for gap in _GAP.finditer(text):
        try:
            found.append(_value(body, gap[1], gap[2] or "plain", positions))
        except AbsentError:
            if not absent:
                return ""
            found.append(absent)
    values = iter(found)
    return _GAP.sub(lambda gap: next(values), text)


def _value(body: Any, path: str, form: str, positions: Positions) -> str:
    value = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None or value in ("", [], {}):
        raise AbsentError(path)
    try:
        return FORMS[form](value, positions)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise AbsentError(path) from None


def printable(text: str) -> str:
    """Agents' words must neither move a cursor nor begin a line."""
    return "".join(character if character.isprintable() else " " for character in text)


def shortened(text: str, limit: int = MAX_VALUE) -> str:
    """At most ``limit`` characters, printable."""
    text = " ".join(printable(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def duration(milliseconds: int) -> str:
    """``250 ms``, ``1.5 s``, ``20 s``, ``5 min`` …"""
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds} ms"


def _plain(value: Any, positions: Positions) -> str:
    return shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _json(value: Any, positions: Positions) -> str:
    return shortened(json.dumps(value, ensure_ascii=False))


def _digest(value: str, positions: Positions) -> str:
    return value[:DIGEST_DIGITS]


def _percent(value: int, positions: Positions) -> str:
    return f"{value / 10_000:.4g} %"


def _duration(value: int, positions: Positions) -> str:
    return duration(value)


def _listed(value: Sequence[Any], positions: Positions) -> str:
    return shortened(", ".join(map(str, value)))


def _count(value: Sequence[Any], positions: Positions) -> str:
    return str(len(value))


def _event(value: str, positions: Positions) -> str:
    return f"#{positions[value]}" if value in positions else value[:DIGEST_DIGITS]


def _events(value: Sequence[str], positions: Positions) -> str:
    named = [_event(each, positions) for each in value]
    return " ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")


def _final(value: bool, positions: Positions) -> str:
    return "final" if value is True else "a certificate may still surface"


def _positive(value: int, positions: Positions) -> str:
    if value <= 0:
        raise ValueError
    return str(value)


def _later(value: int, positions: Positions) -> str:
    """A number, unless it is the first of its kind."""
    if value <= 1:
        raise ValueError
    return str(value)


def _slots(value: Sequence[Mapping[str, Any]], positions: Positions) -> str:
    named = [_slot(each) for each in value]
    return " ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def _slot(slot: Mapping[str, Any]) -> str:
    view = f" v{slot['view']}" if "view" in slot else ""
    return f"s{slot['sequence']}{view} {slot['batch_digest'][:DIGEST_DIGITS]}"


FORMS: Mapping[str, Callable[[Any, Positions], str]] = {
    "plain": _plain,
    "json": _json,
    "digest": _digest,
    "percent": _percent,
    "duration": _duration,
    "listed": _listed,
    "count": _count,
    "event": _event,
    "events": _events,
    "final": _final,
    "later": _later,
    "positive": _positive,
    "slots": _slots,
}
