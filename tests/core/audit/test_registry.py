"""The registry can be seen as it was at any position of the log."""

from __future__ import annotations

import pytest
from audit_log import AuditLog

from mabeam.core.audit.registry import RegistryHistory
from mabeam.core.errors import PeerProtocolError
from mabeam.core.keyring import Keyring
from mabeam.core.machine import LogEvent


def grown() -> tuple[AuditLog, list[LogEvent]]:
    """Eight agents come, every other one goes again."""
    log = AuditLog()
    for number in range(8):
        log.admit(f"a-{number}", "agent")
        if number % 2:
            log.revoke(f"a-{number}")
    events = [log.replay.admission.admit(record) for record in log.records]
    return log, [event for event in events if isinstance(event, LogEvent)]


def test_every_past_position_is_what_a_fresh_fold_up_to_there_gives() -> None:
    log, events = grown()
    history = RegistryHistory(log.root.public_key)
    for event in events:
        history.fold(event)
    for position in (20, 3, 11, 4, 12, 1, 0, 19, 7):
        fresh = Keyring(log.root.public_key)
        for event in events[:position]:
            fresh.apply(event)
        then = history.at(position)
        assert then is not None
        assert (then.sequence, then.digest) == (fresh.sequence, fresh.digest)
        assert [then.current(id) for id in then.ids()] == [fresh.current(id) for id in fresh.ids()]
    assert history.keyring.digest == log.replay.keyring.digest


def test_what_is_too_long_ago_is_not_guessed() -> None:
    log, events = grown()
    history = RegistryHistory(log.root.public_key, max_past_events=8)
    for event in events:
        history.fold(event)
    assert history.at(2) is None
    latest = history.at(17)
    assert latest is not None
    assert latest.sequence == 17
    assert history.events == 20


def test_recent_positions_come_with_the_present_first() -> None:
    log, events = grown()
    history = RegistryHistory(log.root.public_key)
    assert [keyring.sequence for keyring in history.recent(3)] == [0]
    for event in events:
        history.fold(event)
    assert [keyring.sequence for keyring in history.recent(3)] == [20, 17, 18, 19]
    assert [keyring.sequence for keyring in history.recent(100)] == [20, *range(20)]


def test_a_refused_event_leaves_no_trace() -> None:
    log, events = grown()
    history = RegistryHistory(log.root.public_key)
    for event in events:
        history.fold(event)
    digest = history.keyring.digest
    with pytest.raises(PeerProtocolError) as caught:
        history.fold(events[-1])
    assert caught.value.reason == "duplicate"
    assert (history.keyring.digest, history.events, len(history.past)) == (digest, 20, 20)
