"""Columns of the SQL schema: a few types that mean the same on SQLite and PostgreSQL.

Text compares by code point on both databases, so that rows sorted by key have one order. Text that
agents chose goes through :func:`clean_text`: PostgreSQL stores neither NUL nor half a surrogate
pair.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Text

TEXT = Text().with_variant(Text(collation="C"), "postgresql")
INTEGER = BigInteger().with_variant(Integer(), "sqlite")

MAX_INTEGER = 2**63 - 1
_REPLACEMENT = "\ufffd"


def text(name: str, comment: str, **options: Any) -> Column[Any]:
    """Text, compared by code point."""
    return _column(name, TEXT, comment, options)


def json_text(name: str, comment: str, **options: Any) -> Column[Any]:
    """JSON stored as text; the public views show it as ``jsonb`` on PostgreSQL."""
    return _column(name, TEXT, comment, options, json=True)


def integer(name: str, comment: str, **options: Any) -> Column[Any]:
    """A signed integer of 64 bits."""
    return _column(name, INTEGER, comment, options)


def time_ns(name: str, comment: str, **options: Any) -> Column[Any]:
    """Nanoseconds since 1970, named ``…_ns``; the public views add ``…_at`` as readable text."""
    return _column(name, INTEGER, comment, options, time=True)


def flag(name: str, comment: str, **options: Any) -> Column[Any]:
    """True or false."""
    return _column(name, Boolean(), comment, options)


def raw(name: str, comment: str, **options: Any) -> Column[Any]:
    """Bytes."""
    return _column(name, LargeBinary(), comment, options)


def _column(
    name: str, kind: Any, comment: str, options: dict[str, Any], **info: bool
) -> Column[Any]:
    settings = {"nullable": False} | options
    return Column(name, kind, comment=comment, info=info, **settings)


def clean_text(value: str) -> str:
    """``value`` with what PostgreSQL cannot store replaced by U+FFFD."""
    if value.isascii() and "\0" not in value:
        return value
    stored = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return stored.replace("\0", _REPLACEMENT)


def bounded_integer(value: object) -> int | None:
    """``value`` if it is an integer of 64 bits, else ``None``."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER:
        return value
    return None
