"""The telemetry events of a coordination (specification 14), reported by its coordinator."""

from __future__ import annotations

from typing import Any

from ..coordination import Coordination
from ..telemetry import Telemetry


def protocol_of(coordination: Coordination) -> str:
    """Name of the protocol for metric labels; ``none`` before the opening."""
    return coordination.config.protocol if coordination.config else "none"


def result_of(coordination: Coordination) -> str:
    """``success``, ``no_result``, ``error`` or ``cancelled`` (TEL-3)."""
    terminal = coordination.terminal
    if terminal is None or terminal.type == "coordination.failed":
        return "error"
    if terminal.type == "coordination.cancelled":
        return "cancelled"
    without = terminal.content.outcome.get("decision") == "no_consensus"
    return "no_result" if without else "success"


def report_started(telemetry: Telemetry, coordination: Coordination) -> None:
    """``mabeam.protocol.started``."""
    config = coordination.config
    if config is not None:
        telemetry.event(
            "mabeam.protocol.started",
            {"participants": len(config.participants)},
            {"protocol": config.protocol, "coordination": coordination.id},
        )


def report_ended(telemetry: Telemetry, coordination: Coordination, duration_s: float) -> None:
    """``mabeam.protocol.completed`` or ``failed``, ``performance`` and ``consensus.achieved``."""
    terminal, config = coordination.terminal, coordination.config
    assert terminal is not None
    outcome: dict[str, Any] = getattr(terminal.content, "outcome", {})
    decided = terminal.type == "coordination.decided"
    result = result_of(coordination)
    metadata = {
        "protocol": protocol_of(coordination),
        "result": result,
        "coordination": coordination.id,
    }
    measurements = {
        "duration_us": int(duration_s * 1e6),
        "participants": len(config.participants) if config else 0,
    }
    kind = "completed" if decided else "failed"
    reason = {} if decided else {"reason": getattr(terminal.content, "code", "cancelled")}
    telemetry.event(f"mabeam.protocol.{kind}", measurements, {**metadata, **reason})
    telemetry.event(
        "mabeam.protocol.performance",
        {**measurements, "events": coordination.events, "rounds": outcome.get("ballot", 1)},
        metadata,
    )
    if result == "success" and "vote_ratio_ppm" in outcome:
        telemetry.event(
            "mabeam.consensus.achieved",
            {
                "duration_us": measurements["duration_us"],
                "vote_ratio_ppm": outcome["vote_ratio_ppm"],
            },
            {"protocol": metadata["protocol"], "decision": str(outcome["decision"])},
        )
