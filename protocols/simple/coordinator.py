"""The coordinator's role: open ballots, end them in time, report equivocators, announce results.

======== =========================================================================================
phase    intent
======== =========================================================================================
opening  append ``simple.ballot_opened``
voting   after the ballot's time: append ``deadline.passed``
closing  append ``simple.ballot_closed``
decided  append ``coordination.decided``
======== =========================================================================================

Besides, one ``evidence.submitted`` per equivocator and ballot (COM-17, E1). Evidence comes first,
because nothing can be appended after the terminal event.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.errors import PeerProtocolError
from ...core.kernel_events import DeadlinePassed, EvidenceSubmitted
from ...core.machine import After, Append, Context, Intent, LogEvent
from .ballot import BallotBox
from .fold import DEADLINE, SimpleFold

EVIDENCE = "evidence.submitted"


class SimpleCoordinator(SimpleFold):
    """The coordinator's machine; an observer runs it to know what a coordinator had to do."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._accused: set[tuple[int, str]] = set()
        self._unreported: dict[tuple[int, str], Append] = {}

    def apply(self, event: LogEvent) -> None:
        """Fold one event and keep the list of unreported equivocators."""
        try:
            super().apply(event)
        except PeerProtocolError as error:
            if error.reason == "equivocation":
                self._accuse(event)
            raise
        if event.event.header.type == EVIDENCE:
            self._strike(event.content)

    def _accuse(self, event: LogEvent) -> None:
        number, author = key = (event.content.ballot, event.author)
        if key not in self._accused:
            self._accused.add(key)
            self._unreported[key] = _equivocation_evidence(self.boxes[number - 1], author)

    def _strike(self, evidence: EvidenceSubmitted) -> None:
        """Whoever submits the proof, it need not be submitted again."""
        for key, append in self._unreported.items():
            if append.body == evidence:
                del self._unreported[key]
                return

    def intents(self) -> Iterator[Intent]:
        """See the table above."""
        yield from self._unreported.values()
        phase = self._phase
        if phase == "opening":
            yield self.opening()
        elif phase == "voting":
            yield _deadline(self.boxes[-1], self._next_opening.closes_after_ms)
        elif phase == "closing":
            yield self.closing()
        else:
            terminal = self.terminal()
            assert terminal is not None
            yield terminal


def _deadline(box: BallotBox, delay_ms: int) -> After:
    """The deadline of an open ballot (COM-7)."""
    key = ("deadline", box.number)
    passed = Append(key, "deadline.passed", DeadlinePassed(DEADLINE, box.number), (box.opened_id,))
    return After(key, box.opened_id, delay_ms, passed)


def _equivocation_evidence(box: BallotBox, accused: str) -> Append:
    """Proof E1: two votes of one author in one ballot, both as transported, sorted by id."""
    first, second = box.equivocations[accused]
    ids = (first.id, second.id)
    body = EvidenceSubmitted("E1", accused, ids, (first.event.wire, second.event.wire))
    return Append(("evidence", box.number, accused), EVIDENCE, body, ids)
