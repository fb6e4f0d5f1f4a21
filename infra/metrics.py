"""The telemetry sink of a daemon: Prometheus metrics, and the six protocol events as log lines.

Durations are in seconds. No label holds the id of an agent or a coordination: both are unbounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from ..core.bus.counters import Counters
from ..core.telemetry import logger

_log = logger("telemetry")

disable_created_metrics()  # type: ignore[no-untyped-call]

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

_DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LATENCIES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
_UNBOUNDED_LABELS = frozenset({"agent", "coordination"})

# Counters by the name the kernel uses: labels and help.
_COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "admission_rejected": (("reason",), "Stored records that are no events."),
    "fold_rejected": (("reason",), "Registry events without effect."),
    "inputs_rejected": (("protocol", "reason"), "Events a coordination refused."),
    "invitation_rejected": (("reason",), "Invitations an agent refused."),
    "requests_answered": (("result",), "Requests the agent's own code answered."),
    "deadlines_passed": (("protocol", "name"), "Deadlines that passed."),
    "sequence_conflicts": ((), "Appends that lost the race for their coordination."),
    "mute": ((), "Requests left to others: this key may have signed what it does not know."),
    "claims_lost": ((), "Coordinations another coordinator took over."),
    "heartbeats_rejected": ((), "Heartbeats without a good signature."),
    "view_changes": (("protocol",), "View changes."),
    "evidence": (("rule",), "Proofs of misbehaviour."),
    "protocols_started": (("protocol",), "Coordinations opened here."),
    "protocol_completions": (("protocol", "result"), "Coordinations ended here."),
    "consensus_achieved": (("protocol",), "Decisions other than no_consensus."),
    "auctions_completed": (("mechanism",), "Auctions decided here."),
    "host_restarts": ((), "Times a host was started again because the log was unreachable."),
}
_GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "sessions": ((), "Coordinations in hand."),
    "registry_agents": (("status",), "Registered agents by health."),
    "projector_position": ((), "Last sequence written to the database."),
    "projector_lag": ((), "Events stored but not yet written to the database."),
    "ready": ((), "Whether /readyz answers 200."),
}
_HISTOGRAMS: dict[str, tuple[tuple[str, ...], str, Sequence[float]]] = {
    "append": ((), "From submission of an event to its acknowledgement, seconds.", _LATENCIES_S),
    "protocol_duration": (("protocol",), "Opening to terminal event, seconds.", _DURATIONS_S),
    "projector_batch": ((), "Folding and writing one batch, seconds.", _LATENCIES_S),
}


class PrometheusTelemetry:
    """:class:`~mabeam.core.telemetry.Telemetry` of one daemon, with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._participation = Histogram(
            "mabeam_auction_participation",
            "Bids of an auction.",
            ("mechanism",),
            buckets=_COUNTS,
            registry=self.registry,
        )

    def count(self, metric: str, /, value: int = 1, **labels: str) -> None:
        """Add to the counter ``mabeam_<metric>_total``."""
        known = _COUNTERS.get(metric)
        names = known[0] if known else _bounded(labels)
        counter = self._counters.get(metric)
        if counter is None:
            text = known[1] if known else metric
            counter = Counter(f"mabeam_{metric}", text, names, registry=self.registry)
            self._counters[metric] = counter
        _child(counter, names, labels).inc(value)

    def observe(self, metric: str, /, seconds: float, **labels: str) -> None:
        """Add to the histogram ``mabeam_<metric>_seconds``."""
        known = _HISTOGRAMS.get(metric)
        names = known[0] if known else _bounded(labels)
        histogram = self._histograms.get(metric)
        if histogram is None:
            histogram = Histogram(
                f"mabeam_{metric}_seconds",
                known[1] if known else metric,
                names,
                buckets=known[2] if known else _DURATIONS_S,
                registry=self.registry,
            )
            self._histograms[metric] = histogram
        _child(histogram, names, labels).observe(seconds)

    def gauge(self, metric: str, /, value: float, **labels: str) -> None:
        """Set the gauge ``mabeam_<metric>``."""
        known = _GAUGES.get(metric)
        names = known[0] if known else _bounded(labels)
        gauge = self._gauges.get(metric)
        if gauge is None:
            text = known[1] if known else metric
            gauge = Gauge(f"mabeam_{metric}", text, names, registry=self.registry)
            self._gauges[metric] = gauge
        _child(gauge, names, labels).set(value)

    def event(
        self, name: str, measurements: Mapping[str, int], metadata: Mapping[str, str]
    ) -> None:
        """Log a protocol event and add it to the metrics (TEL-2 and TEL-4)."""
        _log.info(name, extra={**metadata, **measurements})
        protocol = metadata.get("protocol", "")
        if name == "mabeam.protocol.started":
            self.count("protocols_started", protocol=protocol)
        elif name in ("mabeam.protocol.completed", "mabeam.protocol.failed"):
            self.count("protocol_completions", protocol=protocol, result=metadata["result"])
            self.observe("protocol_duration", measurements["duration_us"] / 1e6, protocol=protocol)
        elif name == "mabeam.consensus.achieved":
            self.count("consensus_achieved", protocol=protocol)
        elif name == "mabeam.auction.completed":
            mechanism = metadata.get("mechanism", "")
            self.count("auctions_completed", mechanism=mechanism)
            self._participation.labels(mechanism).observe(measurements.get("bids", 0))

    def watch(self, counters: Callable[[], Counters | None]) -> None:
        """Export what a connection counts."""
        self.registry.register(_ConnectionCollector(counters))

    def exposition(self) -> bytes:
        """The answer to ``/metrics``."""
        return generate_latest(self.registry)


class _ConnectionCollector(Collector):
    def __init__(self, counters: Callable[[], Counters | None]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[CounterMetricFamily]:
        """All counters of the connection, ``mabeam_log_<name>_total``."""
        counters = self._counters()
        if counters is None:
            return
        for name, value in sorted(vars(counters).items()):
            text = f"{name.replace('_', ' ')} of this daemon's connection to the log."
            yield CounterMetricFamily(f"mabeam_log_{name}", text.capitalize(), value=value)


def _bounded(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in sorted(labels) if name not in _UNBOUNDED_LABELS)


def _child(metric: Metric, names: Sequence[str], labels: Mapping[str, str]) -> Metric:
    if not names:
        return metric
    return metric.labels(*(labels.get(name, "unknown") for name in names))
