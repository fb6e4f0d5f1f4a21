"""From what a person types to a request: participants, parameters, queries."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ..core.errors import UsageError
from ..core.kernel_events import Invitee
from ..core.names import check_id


def participants_of(texts: Iterable[str]) -> list[Invitee]:
    """Invitees from ``a,b,c`` and ``a=WEIGHT`` (micro-units), in the order given.

    Raises:
        UsageError: an id or a weight is not one, or an id is given twice.
    """
    invitees: dict[str, Invitee] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        if not part:
            continue
        id, _, weight = part.partition("=")
        check_id(id, "agent id")
        if id in invitees:
            raise UsageError(f"agent {id!r} is given twice")
        invitees[id] = Invitee(id) if not weight else Invitee(id, _weight(id, weight))
    return list(invitees.values())


def _weight(id: str, text: str) -> int:
    try:
        return msgspec.convert(text, int, strict=False)
    except msgspec.ValidationError:
        raise UsageError(
            f"the weight of {id!r} is {text!r}, not an integer",
            hint="Weights are micro-units: 1000000 is the usual weight.",
        ) from None


def parameters_of(file: str | None, assignments: Iterable[str]) -> dict[str, Any]:
    """Protocol parameters from a JSON file (``-`` for standard input) and ``name=value`` texts.

    Values are JSON, or plain text where they are not.

    Raises:
        UsageError: not JSON, not an object, or an assignment without ``=``.
    """
    parameters = _read_object(file) if file else {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r} is not of the form NAME=VALUE")
        parameters[name] = json_or_text(value)
    return parameters


def json_or_text(text: str) -> Any:
    """The JSON value of a text, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_object(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read parameters from {file}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"the parameters in {file} are not a JSON object")
    return value
