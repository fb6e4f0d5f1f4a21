"""The life of a simple consensus: phases, and every event that moves between them.

Phases end by events of the log, never by a clock:

======== ============================ ======== ===================================================
phase    event                        becomes  note
======== ============================ ======== ===================================================
opening  simple.ballot_opened         voting   the first ballot, or the next one
voting   vote, equivocation, deadline decided  a verdict, and no further ballot is due
voting   vote, equivocation, deadline closing  no consensus, and a further ballot is due (SIM-9)
closing  simple.ballot_closed         opening
======== ============================ ======== ===================================================

Once decided the state is frozen: whatever arrives later is rejected and changes nothing but the
memory of equivocations. Which coordinator is in force, and what the life of any coordination has in
common (claims, cancelling, the terminal event), is the kernel's business and does not get here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...core.envelope import MAX_REFS
from ...core.errors import ConfigError, PeerProtocolError
from ...core.kernel_events import DeadlinePassed
from ...core.machine import Append, Context, LogEvent, Machine, decide
from .ballot import BallotBox
from .config import SimpleConfig
from .events import (
    BALLOT_CLOSED,
    BALLOT_OPENED,
    NO_CONSENSUS,
    VOTE_CAST,
    BallotClosed,
    BallotOpened,
)
from .freezing import complete
from .outcome import outcome
from .proposal import proposal_digest
from .tally import Rules

Phase = Literal["opening", "voting", "closing", "decided"]
Trigger = Literal["opened", "no_consensus", "verdict", "closed"]

TRANSITIONS: dict[tuple[Phase, Trigger], Phase] = {
    ("opening", "opened"): "voting",
    ("voting", "verdict"): "decided",
    ("voting", "no_consensus"): "closing",
    ("closing", "closed"): "opening",
}

DEADLINE = "ballot"
"""Name of the deadlines of this protocol; the round is the ballot."""


def frozen_config(context: Context) -> SimpleConfig:
    """The parameters in force.

    Raises:
        PeerProtocolError: ``invalid_config``: no honest coordinator opens with these.
    """
    config: SimpleConfig = context.config
    try:
        return complete(config, len(context.participants))
    except ConfigError as error:
        raise PeerProtocolError("invalid_config", error.message) from None


def opening_of(context: Context, config: SimpleConfig, ballot: int) -> BallotOpened:
    """The only body with which that ballot may be opened (``vote_timeout_ms`` of 3.2)."""
    share_ms = max(1, context.opened.overall_timeout_ms // config.max_ballots)
    return BallotOpened(
        ballot,
        proposal_digest(config.proposal),
        config.options,
        config.vote_timeout_ms or share_ms,
    )


class SimpleFold(Machine):
    """What the whole log says about a simple consensus."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.config = frozen_config(context)
        self.weights = {each.agent_id: each.weight for each in context.participants}
        self.rules = Rules.of(self.config, sum(self.weights.values()))
        self.boxes: list[BallotBox] = []
        self._phase: Phase = "opening"
        self._next_opening = opening_of(context, self.config, 1)
        self._opened_after = context.opened_id
        self._terminal: Append | None = None

    def apply(self, event: LogEvent) -> None:
        """Fold one event; events of other concerns have no effect here."""
        handler = _HANDLERS.get(event.event.header.type)
        if handler is not None:
            handler(self, event)

    def phase(self) -> str:
        """One of the phases of the table above."""
        return self._phase

    def waiting_for(self) -> tuple[str, ...]:
        """Participants not heard in the open ballot, sorted."""
        return self.boxes[-1].unheard() if self._phase == "voting" else ()

    def opening(self) -> Append:
        """The event that opens the next ballot."""
        body = self._next_opening
        return Append(("ballot_opened", body.ballot), BALLOT_OPENED, body, (self._opened_after,))

    def closing(self) -> Append:
        """The event that closes a ballot after which another one follows."""
        box = self.boxes[-1]
        body = BallotClosed(box.number, NO_CONSENSUS, box.tally.weights())
        cut = box.cut()
        refs = cut if len(cut) <= MAX_REFS else ()
        return Append(("ballot_closed", box.number), BALLOT_CLOSED, body, refs)

    def terminal(self) -> Append | None:
        """The terminal event this log leads to, once that is irrevocable; computed once."""
        if self._terminal is None and self._phase == "decided":
            box = self.boxes[-1]
            assert box.verdict is not None
            result = outcome(self.config, self.rules, self.context.opened, box, box.verdict)
            self._terminal = decide(result, box.decided_at, box.cut())
        return self._terminal

    def _box(self, number: int) -> BallotBox:
        if not 1 <= number <= len(self.boxes):
            raise PeerProtocolError("wrong_phase", f"ballot {number} has not been opened")
        return self.boxes[number - 1]

    def _move(self, trigger: Trigger) -> None:
        """Take a transition; whoever triggers one that does not exist is at fault."""
        following = TRANSITIONS.get((self._phase, trigger))
        if following is None:
            raise PeerProtocolError("wrong_phase", f"nothing can be {trigger} while {self._phase}")
        self._phase = following

    def _settle(self, box: BallotBox) -> None:
        """Leave the voting phase as soon as its ballot has a verdict."""
        if box.verdict is None or self._phase != "voting" or box is not self.boxes[-1]:
            return
        again = box.verdict.decision == NO_CONSENSUS and box.number < self.config.max_ballots
        self._move("no_consensus" if again else "verdict")

    def _on_vote(self, event: LogEvent) -> None:
        box = self._box(event.content.ballot)
        try:
            box.cast(event)
        finally:
            self._settle(box)  # an equivocation is rejected, and may still decide

    def _on_opened(self, event: LogEvent) -> None:
        expected = self._next_opening
        if self._phase == "opening" and event.content != expected:
            raise PeerProtocolError(
                "digest_mismatch", f"ballot {expected.ballot} is not opened as the config says"
            )
        self._move("opened")
        box = BallotBox(
            expected.ballot, event.id, self.rules, self.weights, expected.proposal_digest
        )
        self.boxes.append(box)

    def _on_closed(self, event: LogEvent) -> None:
        if self._phase == "closing" and event.content != self.closing().body:
            raise PeerProtocolError(
                "wrong_tally", "the tally is not that of the votes", evidence=(event.id,)
            )
        self._move("closed")
        self._opened_after = event.id
        self._next_opening = opening_of(self.context, self.config, len(self.boxes) + 1)

    def _on_deadline(self, event: LogEvent) -> None:
        body: DeadlinePassed = event.content
        if body.name != DEADLINE:
            return
        box = self._box(body.round)
        if not box.is_open:
            raise PeerProtocolError("late", f"ballot {body.round} had ended before")
        box.end(event)
        self._settle(box)


_HANDLERS: dict[str, Callable[[SimpleFold, LogEvent], None]] = {
    VOTE_CAST: SimpleFold._on_vote,
    BALLOT_OPENED: SimpleFold._on_opened,
    BALLOT_CLOSED: SimpleFold._on_closed,
    "deadline.passed": SimpleFold._on_deadline,
}
