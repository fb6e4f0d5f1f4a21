"""What people type when they ask for a coordination."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from mabeam.core.errors import UsageError
from mabeam.core.kernel_events import Invitee
from mabeam.infra.requesting import json_or_text, operation_of, parameters_of, participants_of


def test_participants_come_in_lists_and_with_weights() -> None:
    assert participants_of(["a,b=2000000", " c "]) == [
        Invitee("a"),
        Invitee("b", 2_000_000),
        Invitee("c"),
    ]


@pytest.mark.parametrize("text", ["A", "a,a", "a=heavy", "a b"])
def test_bad_participants_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        participants_of([text])


def test_parameters_are_json_or_text_and_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"rule": "majority", "max_ballots": 1}')
    assert parameters_of(str(file), ["max_ballots=2", "proposal=merge it", "options=[]"]) == {
        "rule": "majority",
        "max_ballots": 2,
        "proposal": "merge it",
        "options": [],
    }


def test_bad_parameters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    for file, assignments in (
        (None, ["rule"]),
        (str(tmp_path / "list.json"), []),
        (str(tmp_path / "missing.json"), []),
    ):
        with pytest.raises(UsageError):
            parameters_of(file, assignments)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("merge it", "merge it"),
        ("NaN is no number", "NaN is no number"),
        ('"NaN"', "NaN"),
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ('{"deposit": [1, 2.5, true, null]}', {"deposit": [1, 2.5, True, None]}),
        ("[" * 32 + "]" * 32, None),
    ],
)
def test_values_are_json_or_text(text: str, value: Any) -> None:
    assert value is None or json_or_text(text) == value
    json_or_text(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{bad json", r"line 1, column 2, before 'bad json': Expecting property name"),
        ('{"deposit": 5', "line 1, column 14, at its end: Expecting ',' delimiter"),
        (' [1, 2,, 3, "and so on for long"]', "column 8, before ', 3, "),
        ('{"a": 1}\n{"a": 2}', r"line 2, column 1, before '{\"a\": 2}': Extra data"),
        ('"half a text', "column 1"),
        ("{'deposit': 5}", "double quotes"),
    ],
)
def test_broken_json_is_refused_unless_it_is_meant_as_text(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        operation_of(text)
    assert refused.value.hint.endswith("give --text.")
    with pytest.raises(UsageError, match=said):
        parameters_of(None, [f"proposal={text}"])
    assert operation_of(text, is_text=True) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "not finite"),
        ("-Infinity", "not finite"),
        ('{"deposit": [1e400]}', "not finite"),
        ("18446744073709551616", "does not fit into 64 bits"),
        ("[-9223372036854775809]", "does not fit into 64 bits"),
        ('{"\\ud800": 1}', "no Unicode"),
        ("[" * 33 + "]" * 33, "more than 32 levels"),
        ("[" * 200_000, "more than 32 levels"),
    ],
)
def test_what_no_event_can_hold_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        json_or_text(text)
    file = tmp_path / "p.json"
    file.write_text(f'{{"proposal": {text}}}')
    with pytest.raises(UsageError):
        parameters_of(str(file), [])


def test_an_operation_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, operation in (('{"deposit": 5}\n', {"deposit": 5}), ("merge it\n", "merge it")):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        assert operation_of("-") == operation
    assert operation_of("5") == 5
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    with pytest.raises(UsageError, match="standard input"):
        operation_of("-")
