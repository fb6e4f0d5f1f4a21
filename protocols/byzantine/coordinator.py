"""The coordinator's and every observer's role: count, and announce what the replicas decided.

A coordinator has no vote. It ends a ``single`` coordination in one of three ways, all recomputable:

========================= ==========================================================================
terminal                  when
========================= ==========================================================================
decided                   an operation executed; the certificates are its refs (BYZ-21)
failed{fork_detected}     two digests committed for one slot (BYZ-9)
failed{timeout, final}    f + 1 replicas signed the overall deadline and (all did, or the failure is
                          final, or a further second passed) and nothing is committed (BYZ-22)
========================= ==========================================================================

That further second lets the remaining deadlines arrive, so that a failure that can be final is; it
ends by the coordinator's own ``deadline.passed{settle}``. A failure that was not final gives way to
a certificate that surfaces later: this machine then offers the decision (BYZ-22b).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...core.envelope import MAX_REFS
from ...core.kernel_events import CoordinationFailed, DeadlinePassed, EvidenceSubmitted
from ...core.machine import TERMINAL_KEY, After, Append, Context, Intent, LogEvent, decide
from .events import DEADLINE_PASSED, SETTLE, VIEW_CHANGE
from .execution import Decision
from .fold import ByzantineFold
from .forensics import culprits_of
from .outcome import certificates, is_final, outcome

SETTLE_MS = 1_000
EVIDENCE = "evidence.submitted"
FAILED = "coordination.failed"


class ByzantineCoordinator(ByzantineFold):
    """The coordinator's machine; an observer runs it to know what a coordinator had to do."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._settled = False
        self._submitted: set[tuple[str, tuple[bytes, ...]]] = set()
        self._intents: tuple[Intent, ...] | None = None
        self._decided: Append | None = None
        self._fork: Append | None = None
        self._timeout: Append | None = None

    def apply(self, event: LogEvent) -> None:
        """Fold one event."""
        self._intents = None
        if event.type == DEADLINE_PASSED and event.content.name == SETTLE:
            self._settled = self._settled or event.author not in self._members
        elif event.type == EVIDENCE:
            self._submitted.add((event.content.accused, event.content.proof_ids))
        try:
            super().apply(event)
        finally:
            self._judge_timeout()
            self._fix_ending()

    def submit(self, event: LogEvent, client: str, client_seq: int, operation: Any) -> None:
        """See :meth:`.slots.SlotFold.submit`."""
        self._intents = None
        super().submit(event, client, client_seq, operation)
        self._fix_ending()

    def intents(self) -> Iterable[Intent]:
        """Evidence first: nothing can follow the terminal event."""
        if self._intents is None:
            self._intents = (*self._evidence(), *self._ending())
        return self._intents

    def _evidence(self) -> Iterator[Append]:
        """Proof E1 of every equivocation; two view changes for one view are E4."""
        for key, pair in self.equivocations.items():
            first, second = sorted(pair, key=lambda event: event.id)
            accused, kind, ids = first.author, first.type, (first.id, second.id)
            if (accused, ids) not in self._submitted and kind != VIEW_CHANGE:
                wires = (first.event.wire, second.event.wire)
                body = EvidenceSubmitted("E1", accused, ids, wires)
                yield Append(("evidence", accused, kind, *key[2:]), EVIDENCE, body, ids)

    def _ending(self) -> Iterator[Intent]:
        if self._fork is not None:
            yield self._fork
        elif self._decided is not None:
            yield self._decided
        elif self._timeout is not None:
            yield self._timeout
        elif self._may_time_out():
            key = ("deadline", SETTLE)
            since = [*self.deadlines.values()][self.group.f].id
            then = Append(key, DEADLINE_PASSED, DeadlinePassed(SETTLE), (since,))
            yield After(key, since, SETTLE_MS, then)

    def _fix_ending(self) -> None:
        """Fix the ending at the event that brought it, whenever somebody asks for it: requests and
        votes that come later are no part of it."""
        if self.executor.fork is not None and self._fork is None:
            self._fork = self._forked(*self.executor.fork)
        elif self.is_decided and self._decided is None:
            self._decided = self._decision()

    def _may_time_out(self) -> bool:
        """f + 1 deadlines: an honest replica has seen the time pass."""
        return not self.is_decided and len(self.deadlines) > self.group.f

    def _judge_timeout(self) -> None:
        """Fix the failure at the event that brought it; later deadlines do not change it."""
        if self._timeout is not None or not self._may_time_out():
            return
        final = self.failure_is_final()
        if final or self._settled or len(self.deadlines) == self.group.n:
            self._timeout = self._timed_out(final)

    def _decision(self) -> Append:
        slot = self.first()
        assert slot is not None
        assert self.decided_at is not None
        result = outcome(
            self.group, self.context.opened, self.executor, slot, self.requests.known()
        )
        chain = [self.executor.decisions[s] for s in range(1, slot.sequence + 1)]
        return decide(result, self.decided_at, certificates(chain))

    def failure_is_final(self) -> bool:
        """BYZ-22b over what this log shows."""
        bound = [
            author
            for author, event in self.deadlines.items()
            if self.chains[author].complete > event.event.header.author_seq
        ]
        return is_final(self.group, bound, (signers.keys() for _, signers in self.commits.items()))

    def _timed_out(self, final: bool) -> Append:
        silent = [each for each in self.group.replicas if each not in self.chains]
        body = CoordinationFailed(
            "timeout",
            f"{len(self.deadlines)} replicas saw the time pass without a decision",
            "See which replicas were silent; start again with a longer time or other replicas.",
            {
                "deadline_passed": sorted(self.deadlines),
                "silent": silent,
                "refused": dict(sorted(self.refusals.items())),
                "insufficient_live_replicas": self.group.n - len(silent) < self.group.q,
            },
            final,
        )
        refs = tuple(sorted(event.id for event in self.deadlines.values()))
        return Append(TERMINAL_KEY, FAILED, body, refs)

    def _forked(self, first: Decision, second: Decision) -> Append:
        found = culprits_of(self.store.events(), self.group)
        body = CoordinationFailed(
            "fork_detected",
            f"slot {first.sequence} was committed twice: more than {self.group.f} replicas lie",
            "Revoke the culprits; 'details' names the rule each one broke.",
            {"sequence": first.sequence, "culprits": {a: p.rule for a, p in found.items()}},
        )
        refs = tuple(sorted({*first.commit_ids, *second.commit_ids}))[:MAX_REFS]
        return Append(TERMINAL_KEY, FAILED, body, refs)
