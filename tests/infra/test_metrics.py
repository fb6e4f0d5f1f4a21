"""Telemetry as Prometheus text."""

from __future__ import annotations

import logging

import pytest

from mabeam.core.bus.counters import Counters
from mabeam.infra.metrics import PrometheusTelemetry


@pytest.fixture
def telemetry() -> PrometheusTelemetry:
    return PrometheusTelemetry()


def _lines(telemetry: PrometheusTelemetry) -> list[str]:
    return telemetry.exposition().decode().splitlines()


def test_counters_gauges_and_histograms_carry_their_units(telemetry: PrometheusTelemetry) -> None:
    telemetry.count("sequence_conflicts", 2)
    telemetry.count("inputs_rejected", reason="late")
    telemetry.gauge("registry_agents", 3, status="healthy")
    telemetry.observe("append", 0.002)
    lines = _lines(telemetry)
    assert "mabeam_sequence_conflicts_total 2.0" in lines
    assert 'mabeam_inputs_rejected_total{protocol="unknown",reason="late"} 1.0' in lines
    assert 'mabeam_registry_agents{status="healthy"} 3.0' in lines
    assert "mabeam_append_seconds_sum 0.002" in lines


def test_ids_never_become_labels(telemetry: PrometheusTelemetry) -> None:
    telemetry.count("something_new", agent="a1", coordination="c1", kind="x")
    assert 'mabeam_something_new_total{kind="x"} 1.0' in _lines(telemetry)


def test_a_protocol_event_is_one_log_line_and_its_metrics(
    telemetry: PrometheusTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mabeam.telemetry"):
        telemetry.event(
            "mabeam.protocol.completed",
            {"duration_us": 1_500_000, "participants": 3},
            {"protocol": "simple_consensus", "result": "success", "coordination": "c1"},
        )
        telemetry.event(
            "mabeam.auction.completed", {"bids": 4}, {"mechanism": "vickrey", "result": "success"}
        )
    assert [record.message for record in caplog.records] == [
        "mabeam.protocol.completed",
        "mabeam.auction.completed",
    ]
    assert vars(caplog.records[0])["coordination"] == "c1"
    lines = _lines(telemetry)
    name = 'protocol="simple_consensus"'
    assert f'mabeam_protocol_completions_total{{{name},result="success"}} 1.0' in lines
    assert f"mabeam_protocol_duration_seconds_sum{{{name}}} 1.5" in lines
    assert 'mabeam_auctions_completed_total{mechanism="vickrey"} 1.0' in lines
    assert 'mabeam_auction_participation_sum{mechanism="vickrey"} 4.0' in lines


def test_what_a_connection_counts_is_exported(telemetry: PrometheusTelemetry) -> None:
    counters = Counters()
    telemetry.watch(lambda: counters)
    counters.reconnects = 2
    assert "mabeam_log_reconnects_total 2.0" in _lines(telemetry)
