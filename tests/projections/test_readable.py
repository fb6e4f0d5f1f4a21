"""Bodies as JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logbook import Logbook

from mabeam.core.author import encode_body
from mabeam.core.kernel_events import CoordinationClaimed, CoordinationDecided, Cut
from mabeam.core.replay import Replay
from mabeam.projections.columns import bounded_integer, clean_text
from mabeam.projections.readable import MAX_BYTES, MAX_DEPTH, TOO_DEEP, json_of
from mabeam.protocols import PROTOCOLS


def _hex(value: Any) -> Any:
    if isinstance(value, bytes):
        digest = f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"
        return value.hex() if len(value) <= MAX_BYTES else digest
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_hex(key): _hex(each) for key, each in value.items()}
    return [_hex(each) for each in value] if isinstance(value, list) else value


def test_every_body_of_the_log_is_what_was_signed(book: Logbook) -> None:
    seen = set()
    for verdict in Replay(book.root.public_key, PROTOCOLS).feed(book.records):
        if verdict.event is not None:
            seen.add(verdict.event.type)
            signed = msgspec.msgpack.decode(encode_body(verdict.event.content))
            assert json.loads(json_of(verdict.event.content)) == _hex(signed)
    assert len(seen) > 12


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), values))
def test_free_form_values(outcome: dict[str, Any]) -> None:
    body = CoordinationDecided(outcome, 3, Cut(1, bytes(32)))
    shown = json_of(body)
    assert "\\u0000" not in shown or "\\\\u0000" in shown
    assert json.loads(shown)["cut"] == {"count": 1, "root": "00" * 32}
    assert json.loads(shown)["outcome"] == _hex(outcome)


def test_depth_is_bounded() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    shown = json_of(CoordinationDecided({"deep": deep}, 0, Cut(0, bytes(32))))
    assert TOO_DEEP in shown
    assert shown.count("[") < MAX_DEPTH


def test_bytes_are_hexadecimal() -> None:
    assert json_of(CoordinationClaimed(1, b"\xab" * 32)) == f'{{"term":1,"previous":"{"ab" * 32}"}}'


@pytest.mark.parametrize(
    ("text", "clean"), [("plain", "plain"), ("a\0b", "a\ufffdb"), ("é\ud800", "é\ufffd")]
)
def test_text_that_postgresql_cannot_hold(text: str, clean: str) -> None:
    assert clean_text(text) == clean


def test_integers_are_bounded() -> None:
    values: list[object] = [7, 2**63 - 1, 2**63, True, "7", None, 1.5]
    assert [bounded_integer(value) for value in values] == [7, 2**63 - 1, *[None] * 5]
