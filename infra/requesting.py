"""From what a person types to a request: participants, parameters, queries."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..core.admission import MAX_NESTING, is_shallow
from ..core.errors import UsageError
from ..core.kernel_events import Invitee
from ..core.names import check_id

_JSON_BEGINS = ("{", "[", '"')
_SHOWN = 24


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

    Values are JSON, or plain text where they do not begin like JSON.

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


def is_service(protocol: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a request is one for a service of replicas, which runs until somebody ends it."""
    return protocol == "byzantine_consensus" and parameters.get("mode") == "service"


def operation_of(text: str, *, is_text: bool = False) -> Any:
    """The operation a person typed, see :func:`json_or_text`; ``-`` for standard input.

    Args:
        text: what was typed.
        is_text: take it literally, whatever it looks like.

    Raises:
        UsageError: standard input is no text, no event can hold the value, or it is broken JSON.
    """
    try:
        given = text if text != "-" else sys.stdin.read().removesuffix("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the operation from standard input: {error}") from None
    return _checked(given) if is_text else json_or_text(given, "give --text")


def json_or_text(text: str, otherwise: str = "write it as JSON, in quotes") -> Any:
    """The JSON value of a text, or the text itself if it does not begin like JSON.

    Args:
        text: what a person typed.
        otherwise: how to say that a text which begins like JSON is meant literally, for the hint.

    Raises:
        UsageError: no event can hold the value, or it begins with ``{``, ``[`` or ``"`` and is no
            JSON: whoever typed that did not mean it as text.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith(_JSON_BEGINS):
            raise _broken(error, otherwise) from None
        value = text
    except ValueError:  # an integer of thousands of digits
        value = text
    except RecursionError:
        raise _too_deep() from None
    return _checked(value)


def _broken(error: json.JSONDecodeError, otherwise: str) -> UsageError:
    rest = error.doc[error.pos :]
    where = f"before {rest[:_SHOWN]!r}" if rest.strip() else "at its end"
    return UsageError(
        f"broken JSON at line {error.lineno}, column {error.colno}, {where}: {error.msg}",
        hint=f"Mend it; if it is meant as plain text, {otherwise}.",
    )


def _checked(value: Any) -> Any:
    """``value``, if an event can hold it.

    Raises:
        UsageError: it is nested too deep, holds a number that is not finite or an integer that
            does not fit into 64 bits, or a text that is no Unicode.
    """
    if not is_shallow(value):
        raise _too_deep()
    for each in _leaves(value):
        if isinstance(each, float) and not math.isfinite(each):
            raise UsageError(
                "a number is not finite, or too large",
                hint="Numbers must be finite; write a text in quotes.",
            )
        if isinstance(each, int) and not -(2**63) <= each < 2**64:
            raise UsageError(
                f"integer {each} does not fit into 64 bits", hint="Write it as a text, in quotes."
            )
        if isinstance(each, str) and any("\ud800" <= c <= "\udfff" for c in each):
            raise UsageError("a text is no Unicode: it holds half a surrogate pair")
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _too_deep() -> UsageError:
    return UsageError(f"the value is nested more than {MAX_NESTING} levels deep")


def _read_object(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read parameters from {file}: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise UsageError(f"the parameters in {file} are not a JSON object")
    return {name: _checked(each) for name, each in value.items()}
