"""What daemons report about themselves; the sink is wired in, the kernel only names the figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

Labels = Mapping[str, str]


class Telemetry(Protocol):
    """Receives counters, durations and the six protocol events (specification 14)."""

    def count(self, metric: str, /, value: int = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, metric: str, /, seconds: float, **labels: str) -> None:
        """Add one duration to a histogram."""
        ...

    def gauge(self, metric: str, /, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def event(
        self, name: str, measurements: Mapping[str, int], metadata: Mapping[str, str]
    ) -> None:
        """A protocol event of TEL-2, exactly once per coordination."""
        ...


class NoTelemetry:
    """Discards everything."""

    def count(self, metric: str, /, value: int = 1, **labels: str) -> None:
        """Discard."""

    def observe(self, metric: str, /, seconds: float, **labels: str) -> None:
        """Discard."""

    def gauge(self, metric: str, /, value: float, **labels: str) -> None:
        """Discard."""

    def event(
        self, name: str, measurements: Mapping[str, int], metadata: Mapping[str, str]
    ) -> None:
        """Discard."""


def logger(daemon: str) -> logging.Logger:
    """The logger of a daemon; messages are constant event names, details go into ``extra``."""
    return logging.getLogger(f"mabeam.{daemon}")
