"""Finding the agent a person named as ``module:factory``, and saying clearly why not."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.agent import Agent
from ..core.errors import MabeamError, UsageError

_EXAMPLE = "For instance: mabeam agent run clinic:make_pathologist --id pathologist-1"
_NO_AGENTS = "No agent or factory is in it; write a class that inherits from mabeam.Agent."


class AgentTargetError(UsageError):
    """``module:factory`` does not lead to an agent."""

    code = "agent_target"


def load_agent(target: str, search: Sequence[Path] = ()) -> Agent:
    """The agent that ``module:factory`` makes.

    Args:
        target: ``module:name``, where the name is an :class:`~mabeam.core.agent.Agent` class, a
            function without arguments that returns an agent, or an agent.
        search: directories to look in first; the current directory is always looked in.

    Raises:
        AgentTargetError: there is no such module or name, or it is no agent.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not name or not module_name:
        raise AgentTargetError(f"{target!r} is not of the form module:factory", hint=_EXAMPLE)
    if module_name.endswith(".py") or "/" in module_name:
        raise AgentTargetError(
            f"{module_name!r} is a file name, not a module name",
            hint=f"Write {Path(module_name).stem}:{name} and give its directory with --path.",
        )
    for directory in (str(Path.cwd()), *(str(path.absolute()) for path in reversed(search))):
        if directory not in sys.path:
            sys.path.insert(0, directory)
    return _made(_find(_load_module(module_name, search), name, target), target)


def _load_module(name: str, search: Sequence[Path]) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            places = ", ".join(str(path) for path in (*search, Path.cwd()))
            raise AgentTargetError(
                f"there is no module {name!r} in {places}",
                hint="Run in the directory of the module, or give it with --path.",
            ) from None
        raise AgentTargetError(
            f"{name} needs the module {error.name!r}, which is not installed",
            hint=f"Install it into this environment: {sys.executable} -m pip install …",
        ) from None
    except MabeamError:
        raise
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise AgentTargetError(
            f"importing {name} failed{_place(error)}: {type(error).__name__}: {error}"
        ) from error


def _find(module: Any, name: str, target: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(_candidates(module))
            raise AgentTargetError(
                f"{target}: {module.__name__} has no {part!r}",
                hint=f"Agents and factories in it: {known}." if known else _NO_AGENTS,
            )
        found = getattr(found, part)
    return found


def _candidates(module: Any) -> list[str]:
    """Names in a module that may lead to an agent; no functions of other packages."""
    package = module.__name__.partition(".")[0]
    return sorted(name for name, value in vars(module).items() if _is_candidate(value, package))


def _is_candidate(value: Any, package: str) -> bool:
    if inspect.isclass(value):
        return issubclass(value, Agent) and value is not Agent
    return isinstance(value, Agent) or (
        inspect.isfunction(value)
        and value.__module__.partition(".")[0] == package
        and not value.__name__.startswith("_")
        and _needs_nothing(value)
    )


def _needs_nothing(factory: Callable[..., Any]) -> bool:
    """Whether it can be called without arguments."""
    try:
        inspect.signature(factory).bind()
    except TypeError:
        return False
    return True


def _made(found: Any, target: str) -> Agent:
    if isinstance(found, Agent):
        return found
    if not callable(found):
        raise AgentTargetError(f"{target} is a {type(found).__name__}, not an agent or a factory")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise AgentTargetError(
            f"{target} cannot be called without arguments: {error}",
            hint="Point to a function without arguments that builds the agent.",
        ) from None
    try:
        agent = found()
    except MabeamError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise AgentTargetError(
            f"{target}() failed{_place(error)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(agent, Agent):
        raise AgentTargetError(
            f"{target}() returned {type(agent).__name__}, not an Agent",
            hint="Return an instance of a class that inherits from mabeam.Agent.",
        )
    return agent


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
