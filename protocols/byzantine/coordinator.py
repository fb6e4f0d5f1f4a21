"""The coordinator's and every observer's role: count, and announce what the replicas decided.

A coordinator has no vote. It ends a coordination in one of these ways, all recomputable:

========================= ==========================================================================
terminal                  when
========================= ==========================================================================
decided                   an operation executed; the certificates are its refs (BYZ-21)
decided{handed_over}      the requester's handover executed and its checkpoint is stable (BYZ-24)
cancelled                 the requester's cancel executed first (BYZ-25)
failed{fork_detected}     two digests committed for one slot (BYZ-9)
failed{timeout, final}    f + 1 replicas signed the overall deadline and (all did, or the failure is
                          final, or a further second passed) and nothing is committed (BYZ-22)
failed{timeout}           not even f + 1 replicas did, and the coordinator waited 30 s more: it is
                          not final, and nobody but the coordinator vouches for it
========================= ==========================================================================

That further second lets the remaining deadlines arrive, so that a failure that can be final is; it
ends by the coordinator's own ``deadline.passed{settle}``. A failure that was not final gives way to
a certificate that surfaces later: this machine then offers the decision (BYZ-22b).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from ...core.author import encode_body
from ...core.envelope import MAX_REFS
from ...core.errors import PeerProtocolError
from ...core.kernel_events import (
    CoordinationCancelled,
    CoordinationFailed,
    DeadlinePassed,
    EvidenceSubmitted,
)
from ...core.machine import TERMINAL_KEY, After, Append, Context, Intent, LogEvent, decide
from .accusations import Accusations
from .endings import (
    certificates_in,
    failure_is_final,
    is_decision_right,
    is_fork_right,
    is_handover_right,
    is_timeout_right,
    timed_out,
)
from .events import ABANDONED, DEADLINE_PASSED, SETTLE, VIEW_CHANGE
from .execution import Decision, Executed
from .fold import ByzantineFold
from .forensics import culprits_of, proofs_in
from .outcome import certificates, handover_outcome, outcome
from .proofs import Proof

SETTLE_MS = 1_000
ABANDON_MS = 30_000
EVIDENCE = "evidence.submitted"
DECIDED = "coordination.decided"
FAILED = "coordination.failed"
CANCELLED = "coordination.cancelled"


class ByzantineCoordinator(ByzantineFold):
    """The coordinator's machine; an observer runs it to know what a coordinator had to do."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._settled = False
        self._abandoned = False
        self.accusations = Accusations(self.group, self.store, self.executor)
        self._pairs = 0
        self._intents: tuple[Intent, ...] | None = None
        self._decided: Append | None = None
        self._timeout: Append | None = None
        self._fork: Append | None = None

    def apply(self, event: LogEvent) -> None:
        """Fold one event."""
        self._intents = None
        if event.type == DEADLINE_PASSED and event.author not in self._members:
            self._on_own_deadline(event)
        elif event.type == EVIDENCE and self._is_of_here(event.content):
            self.accusations.submitted(event.content.rule, event.content.accused)
        is_new = event.id not in self.store
        try:
            super().apply(event)
        finally:
            if is_new and event.id in self.store:
                self._compare(event)
            if self.is_decided:
                self._decision()  # fixed here: what others knew later is not in it
            self._judge_timeout()

    def _on_own_deadline(self, event: LogEvent) -> None:
        """A coordinator's deadlines end only waits; giving up early would end the coordination.

        Admission refuses clocks that run ahead of the log's by more than its skew, so this bound is
        one that a coordinator cannot lie away. Like all clocks it can only refuse (COM-9).
        """
        if event.content.name == SETTLE:
            self._settled = True
        elif event.content.name == ABANDONED:
            passed_ms = (event.event.header.at_ns - self.context.opened_at_ns) // 1_000_000
            if passed_ms < self.context.opened.overall_timeout_ms:
                raise PeerProtocolError("wrong_phase", f"given up after {passed_ms} ms")
            self._settled = self._abandoned = True

    def _is_of_here(self, evidence: EvidenceSubmitted) -> bool:
        """Whether it proves something about this coordination: E1 and E7 may be from another."""
        own = self.accusations.proofs.get((evidence.rule, evidence.accused))
        if own is not None and own.proof_ids == evidence.proof_ids:
            return True
        return any(each in self.store for each in evidence.proof_ids)

    def _compare(self, event: LogEvent) -> None:
        """Look for what the event proves; once, at a fork, in everything at hand."""
        self.accusations.take(event)
        for pair in islice(self.equivocations.values(), self._pairs, None):
            self._pairs += 1
            rule = "E4" if pair[0].type == VIEW_CHANGE else "E1"
            self.accusations.accuse(Proof(rule, pair[0].author, pair))
        if self.executor.fork is not None and self._fork is None:
            events = self.store.events()
            for proof in proofs_in(events, self.group):
                self.accusations.accuse(proof)
            self._fork = self._forked(*self.executor.fork)

    def _collect(self) -> None:
        super()._collect()
        self.accusations.drop_upto(self.checkpoints.stable - self.group.window)

    def submit(self, event: LogEvent, client: str, client_seq: int, operation: Any) -> None:
        """See :meth:`.slots.SlotFold.submit`."""
        self._intents = None
        super().submit(event, client, client_seq, operation)

    def intents(self) -> Iterable[Intent]:
        """Evidence first: nothing can follow the terminal event."""
        if self._intents is None:
            self._intents = (*self._evidence(), *self._ending())
        return self._intents

    def _evidence(self) -> Iterator[Append]:
        """One proof per rule and accused, unless the log holds one."""
        for (rule, accused), body in self.accusations.proofs.items():
            refs = body.proof_ids[:MAX_REFS]
            yield Append(("evidence", rule, accused), EVIDENCE, body, refs)

    def _ending(self) -> Iterator[Intent]:
        if self._fork is not None:
            yield self._fork
        elif self.is_decided:
            yield self._decision()
        elif self._timeout is not None:
            yield self._timeout
        elif self._may_time_out():
            key = ("deadline", SETTLE)
            since = [*self.deadlines.values()][self.group.f].id
            then = Append(key, DEADLINE_PASSED, DeadlinePassed(SETTLE), (since,))
            yield After(key, since, SETTLE_MS, then)
        else:
            opened = self.context.opened_id
            key = ("deadline", ABANDONED)
            patience_ms = self.context.opened.overall_timeout_ms + ABANDON_MS
            then = Append(key, DEADLINE_PASSED, DeadlinePassed(ABANDONED), (opened,))
            yield After(key, opened, patience_ms, then)

    def _may_time_out(self) -> bool:
        """f + 1 deadlines: an honest replica has seen the time pass."""
        return not self.is_decided and len(self.deadlines) > self.group.f

    def _judge_timeout(self) -> None:
        """Fix the failure at the event that brought it; later deadlines do not change it."""
        may_time_out = self._abandoned and not self.is_decided
        if self._timeout is not None or not (may_time_out or self._may_time_out()):
            return
        final = failure_is_final(self, self.deadlines)
        if final or self._settled or len(self.deadlines) == self.group.n:
            self._timeout = self._timed_out(final)

    def _decision(self) -> Append:
        if self._decided is None:
            slot = self.deciding
            assert slot is not None
            assert self.decided_at is not None
            cancel = self.cancel_in(slot)
            if cancel is not None:
                refs = self.executor.decisions[slot.sequence].commit_ids
                body = CoordinationCancelled(cancel.reason)
                self._decided = Append(TERMINAL_KEY, CANCELLED, body, refs)
                return self._decided
            if self.is_stopped:
                self._decided = self._handed_over(slot, self.decided_at)
                return self._decided
            chain = [self.executor.decisions[s] for s in range(1, slot.sequence + 1)]
            known = self.requests.known()
            result = outcome(self.group, self.context.opened, self.executor, slot, chain[-1], known)
            self._decided = decide(result, self.decided_at, certificates(chain))
        return self._decided

    def _handed_over(self, slot: Executed, decided_at: int) -> Append:
        """The certificate of the last slot and the checkpoints: they vouch for all slots below."""
        decision, proof = self.executor.decisions[slot.sequence], self.checkpoints.proof
        opened, asked = self.context.opened, self.executor.handover
        assert asked is not None
        result = handover_outcome(self.group, opened, asked, slot, decision, proof)
        return decide(result, decided_at, (*result.commit_ids, *proof))

    def _timed_out(self, final: bool) -> Append:
        silent = [each for each in self.group.replicas if each not in self.chains]
        body = timed_out(self.group, self.deadlines, silent, self.refusals, final=final)
        refs = tuple(sorted(event.id for event in self.deadlines.values()))
        return Append(TERMINAL_KEY, FAILED, body, refs)

    def supports(self, ending: LogEvent) -> bool:
        """See :mod:`.endings`; a decision that is known beats every failure."""
        if self._fork is not None:
            return ending.type == FAILED and is_fork_right(self, ending)
        if ending.type == FAILED:
            return not self.is_decided and is_timeout_right(self, ending, abandoned=self._abandoned)
        return self.is_decided and self._supports_decision(ending)

    def _supports_decision(self, ending: LogEvent) -> bool:
        slot, own = self.deciding, self._decision()
        assert slot is not None
        if ending.type != own.type:
            return False
        if ending.type == DECIDED:
            is_right = is_handover_right if self.is_stopped else is_decision_right
            return is_right(self, slot, ending)
        refs = ending.event.header.refs
        named = certificates_in(self.store.get, self.group, refs, slot.sequence)
        is_same = named is not None and [each.digest for each in named] == [slot.digest]
        return is_same and encode_body(own.body) == ending.event.body

    def _forked(self, first: Decision, second: Decision) -> Append:
        """Fixed at the event that completed the fork; what comes later is left to the audit."""
        found = culprits_of(self.store.events(), self.group)
        body = CoordinationFailed(
            "fork_detected",
            f"slot {first.sequence} was committed twice: more than {self.group.f} replicas lie",
            "Revoke the culprits; 'details' names the rule each one broke.",
            {"sequence": first.sequence, "culprits": {a: p.rule for a, p in found.items()}},
        )
        refs = tuple(sorted({*first.commit_ids, *second.commit_ids}))[:MAX_REFS]
        return Append(TERMINAL_KEY, FAILED, body, refs)
