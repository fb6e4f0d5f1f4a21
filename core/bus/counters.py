"""What happened on one connection, for telemetry."""

from __future__ import annotations


class Counters:
    """Monotone event counts since the connection was created.

    Attributes:
        appends: events stored, duplicates included.
        append_seconds: sum of the times from submission to acknowledgement.
        batches: atomic batches stored.
        duplicates: appends of events that were stored before.
        conflicts: appends refused by optimistic concurrency.
        retries: messages sent again (no answer in time, no stream leader, reconnected).
        reconnects: connections rebuilt.
        unanswered_pings: connections given up because a ping got no answer.
        permission_errors: publishes and subscriptions the server did not permit.
        slow_consumers: messages the client library dropped because a buffer was full.
        feed_gaps: holes found in the live feed (and filled from the log).
        feed_overflows: times a follower fell back to the log because it could not keep up.
    """

    def __init__(self) -> None:
        self.appends = 0
        self.append_seconds = 0.0
        self.batches = 0
        self.duplicates = 0
        self.conflicts = 0
        self.retries = 0
        self.reconnects = 0
        self.unanswered_pings = 0
        self.permission_errors = 0
        self.slow_consumers = 0
        self.feed_gaps = 0
        self.feed_overflows = 0
