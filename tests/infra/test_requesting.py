"""What people type when they ask for a coordination."""

from __future__ import annotations

from pathlib import Path

import pytest

from mabeam.core.errors import UsageError
from mabeam.core.kernel_events import Invitee
from mabeam.infra.requesting import parameters_of, participants_of


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
