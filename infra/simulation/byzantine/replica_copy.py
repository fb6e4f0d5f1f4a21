"""Copies of a machine that share everything that cannot change."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

Machine = TypeVar("Machine")


def copy_of(machine: Machine) -> Machine:
    """A machine in the same state; what happens to one does not touch the other."""
    copied: Machine = _copy(machine, {})
    return copied


def _copy(value: Any, known: dict[int, Any]) -> Any:
    """A copy; what is referred to twice is copied once."""
    if id(value) in known:
        return known[id(value)]
    kind, shared = type(value), _SHARED
    copied: Any
    if kind is dict:
        copied = {k: v if type(v) in shared else _copy(v, known) for k, v in value.items()}
    elif kind is list:
        copied = [each if type(each) in shared else _copy(each, known) for each in value]
    elif kind is set:
        copied = set(value)
    elif issubclass(kind, msgspec.Struct):
        shared.add(kind)
        return value
    else:
        copied = object.__new__(kind)
        known[id(value)] = copied
        for name in getattr(value, "__dict__", None) or kind.__slots__:
            each = getattr(value, name)
            setattr(copied, name, each if type(each) in shared else _copy(each, known))
    known[id(value)] = copied
    return copied


_SHARED: set[type] = {bool, bytes, frozenset, int, str, tuple, type(None)}
"""Types whose values cannot change; those of messages are added as they are met."""
