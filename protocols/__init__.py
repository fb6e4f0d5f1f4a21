"""The coordination protocols: pure state machines over the kernel's contracts."""

from __future__ import annotations

from ..core.machine import ProtocolSpec
from .byzantine import SPEC as BYZANTINE_CONSENSUS
from .ordered import ordered
from .simple import SPEC as SIMPLE_CONSENSUS

PROTOCOLS: dict[str, ProtocolSpec] = {
    spec.name: spec for spec in (ordered(SIMPLE_CONSENSUS), BYZANTINE_CONSENSUS)
}
"""Every protocol by the name requests use."""
