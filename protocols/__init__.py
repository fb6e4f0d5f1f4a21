"""The coordination protocols: pure state machines over the kernel's contracts."""

from __future__ import annotations

from ..core.machine import ProtocolSpec
from .simple import SPEC as SIMPLE_CONSENSUS

PROTOCOLS: dict[str, ProtocolSpec] = {spec.name: spec for spec in (SIMPLE_CONSENSUS,)}
"""Every protocol by the name requests use."""
