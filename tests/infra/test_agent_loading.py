"""``module:factory``: found, made, or refused with a reason a person can act on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mabeam.core.agent import Agent
from mabeam.infra.agent_loading import AgentTargetError, load_agent

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _restore_search_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    sys.modules.pop("sample_agents", None)
    sys.modules.pop("broken_agent", None)


@pytest.mark.parametrize("name", ["Approving", "make_approving"])
def test_classes_and_factories_make_agents(name: str) -> None:
    assert isinstance(load_agent(f"sample_agents:{name}", [HERE]), Agent)


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("sample_agents", "not of the form module:factory", "mabeam agent run"),
        ("sample_agents:", "not of the form module:factory", "mabeam agent run"),
        ("sample_agents.py:Approving", "a file name", "sample_agents:Approving"),
        ("no_such_module:X", "there is no module 'no_such_module'", "--path"),
        ("sample_agents:Approvin", "has no 'Approvin'", "Approving"),
        ("mabeam:Nope", "mabeam has no 'Nope'", "inherits from mabeam.Agent"),
        ("sample_agents:SOMETHING", "is a int, not an agent", ""),
        ("sample_agents:with_argument", "without arguments", "without arguments"),
        ("sample_agents:make_number", "returned int, not an Agent", "mabeam.Agent"),
        ("sample_agents:make_nothing", "failed at sample_agents.py:", ""),
    ],
)
def test_bad_targets_are_explained(target: str, message: str, hint: str) -> None:
    with pytest.raises(AgentTargetError) as refusal:
        load_agent(target, [HERE])
    assert message in refusal.value.message
    assert hint in refusal.value.hint
    assert refusal.value.exit_code == 2


def test_functions_of_other_packages_are_no_factories(tmp_path: Path) -> None:
    source = "from importlib import import_module\ndef make_one(): ...\n"
    (tmp_path / "broken_agent.py").write_text(source)
    with pytest.raises(AgentTargetError) as refusal:
        load_agent("broken_agent:X", [tmp_path])
    assert refusal.value.hint == "Agents and factories in it: make_one."


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library\n", "needs the module 'no_such_library'"),
        ("x = 1 / 0\n", "importing broken_agent failed at broken_agent.py:1: ZeroDivisionError"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_modules_that_cannot_be_imported_are_explained(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "broken_agent.py").write_text(source)
    with pytest.raises(AgentTargetError) as refusal:
        load_agent("broken_agent:X", [tmp_path])
    assert message in refusal.value.message
