"""Event bodies as JSON that people and SQL can read: byte strings in hexadecimal.

For every message type the places that may hold bytes are found once, from its annotations; the rest
goes to the JSON encoder untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

MAX_DEPTH = 32
"""Levels of nesting shown of free-form values; what lies deeper is only in the event itself."""

MAX_BYTES = 64
"""Bytes shown in full; of longer values (certificates, proofs) length and hash are shown."""

TOO_DEEP = "nested too deeply to be shown"

_encode = msgspec.json.Encoder().encode
_Converter = Callable[[Any], Any]


def json_of(value: Any) -> str:
    """JSON text of a message, a dict or a list; one value has one text on every platform.

    NUL, which PostgreSQL cannot hold, becomes U+FFFD.
    """
    convert = _struct_converter(type(value)) if isinstance(value, msgspec.Struct) else _free_form
    converted = value if convert is None else convert(value)
    encoded = _encode(converted)
    if b"\\u0000" in encoded:
        encoded = _encode(_without_nul(msgspec.json.decode(encoded)))
    return encoded.decode()


@cache
def _struct_converter(kind: type[msgspec.Struct]) -> _Converter | None:
    return _converter(inspect.type_info(kind))


def _converter(kind: inspect.Type) -> _Converter | None:
    """How to make values of this type encodable; ``None`` if they are already."""
    if isinstance(kind, inspect.Metadata):
        return _converter(kind.type)
    if isinstance(kind, inspect.BytesType):
        return _hex
    if isinstance(kind, inspect.StructType):
        fields = {field.name: _converter(field.type) for field in kind.fields}
        return _fields_converter({n: c for n, c in fields.items() if c is not None})
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        each = _converter(kind.item_type)
        return None if each is None else lambda items: [each(item) for item in items]
    if isinstance(kind, inspect.UnionType):
        members = [_converter(member) for member in kind.types]
        found = [member for member in members if member is not None]
        alone = len(found) == 1 and len(kind.types) == 2 and kind.includes_none
        return (found[0] if alone else _free_form) if found else None
    plain = inspect.IntType | inspect.StrType | inspect.BoolType | inspect.NoneType
    return None if isinstance(kind, plain | inspect.LiteralType) else _free_form


def _hex(value: bytes) -> str:
    if len(value) <= MAX_BYTES:
        return value.hex()
    return f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"


def _fields_converter(converters: dict[str, _Converter]) -> _Converter | None:
    if not converters:
        return None
    items = tuple(converters.items())

    def convert(message: msgspec.Struct) -> dict[str, Any]:
        fields = msgspec.structs.asdict(message)
        for name, each in items:
            value = fields[name]
            if value is not None:
                fields[name] = each(value)
        return fields

    return convert


def _free_form(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind is bytes:
        return _hex(value)
    if kind is dict:
        if depth == MAX_DEPTH:
            return TOO_DEEP
        return {
            name if type(name) is str else str(name): _free_form(each, depth + 1)
            for name, each in value.items()
        }
    if kind is list or kind is tuple:
        return TOO_DEEP if depth == MAX_DEPTH else [_free_form(each, depth + 1) for each in value]
    return value


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {name.replace("\0", "\ufffd"): _without_nul(each) for name, each in value.items()}
    return [_without_nul(each) for each in value] if isinstance(value, list) else value
