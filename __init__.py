"""mabeam: multi-agent coordination that can be trusted and proved.

The names below are the public interface. They are imported when first used, so that
``import mabeam`` and ``mabeam --help`` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.agent import Agent, on
    from .core.client import Client, CoordinationFailedError, Decision
    from .core.errors import MabeamError
    from .core.kernel_events import CapabilityQuery, Invitee
    from .protocols.byzantine import ProposalRequest, Verdict
    from .protocols.simple import Ballot, VoteRequest

_MODULES = {
    "Agent": ".core.agent",
    "Ballot": ".protocols.simple",
    "CapabilityQuery": ".core.kernel_events",
    "Client": ".core.client",
    "CoordinationFailedError": ".core.client",
    "Decision": ".core.client",
    "Invitee": ".core.kernel_events",
    "MabeamError": ".core.errors",
    "ProposalRequest": ".protocols.byzantine",
    "Verdict": ".protocols.byzantine",
    "VoteRequest": ".protocols.simple",
    "on": ".core.agent",
}

__all__ = [
    "Agent",
    "Ballot",
    "CapabilityQuery",
    "Client",
    "CoordinationFailedError",
    "Decision",
    "Invitee",
    "MabeamError",
    "ProposalRequest",
    "Verdict",
    "VoteRequest",
    "on",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module, __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
