"""Event bodies of a ballot (specification 3.3) and the two types an agent's code works with.

On the log there are three events: the coordinator opens a ballot, participants vote, and between
two
ballots the coordinator closes the first with its tally. The last ballot is closed by the terminal
event. An agent's code sees none of them: it gets a :class:`VoteRequest` and answers with a
:class:`Ballot`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from ...core.envelope import Bytes32, Natural
from ...core.errors import UsageError
from ...core.hashing import PPM
from ...core.kernel_events import Body, DurationMs, EventType, Ppm, ShortText, event_type
from .config import MAX_OPTIONS

ABSTAIN = "abstain"
NO_CONSENSUS = "no_consensus"

BALLOT_OPENED = "simple.ballot_opened"
VOTE_CAST = "simple.vote_cast"
BALLOT_CLOSED = "simple.ballot_closed"

BallotNumber = Annotated[int, msgspec.Meta(ge=1, le=10)]
OptionName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class BallotOpened(Body, frozen=True):
    """The coordinator opens a ballot.

    Attributes:
        ballot: 1, 2 …; more than 1 for a revote.
        proposal_digest: SHA-256 of the canonical proposal.
        options: what may be answered, besides ``abstain``.
        closes_after_ms: time from here to the deadline.
    """

    ballot: BallotNumber
    proposal_digest: Bytes32
    options: Annotated[tuple[OptionName, ...], msgspec.Meta(min_length=2, max_length=MAX_OPTIONS)]
    closes_after_ms: DurationMs


class VoteCast(Body, frozen=True):
    """A participant's one vote in a ballot (SIM-1).

    Attributes:
        ballot: the ballot it is for.
        proposal_digest: the proposal it answers.
        option: one of the ballot's options, or ``abstain``.
        confidence_ppm: stated confidence; counts only under the rule ``weighted`` (SIM-10).
        rationale_digest: SHA-256 of a rationale kept elsewhere.
        failure: why the agent's own code gave no answer; only with ``abstain``.
    """

    ballot: BallotNumber
    proposal_digest: Bytes32
    option: OptionName
    confidence_ppm: Ppm | None = None
    rationale_digest: Bytes32 | None = None
    failure: ShortText | None = None

    def __post_init__(self) -> None:
        if self.failure is not None and self.option != ABSTAIN:
            raise ValueError(f"a vote for {self.option!r} cannot report a failure")


class Weights(Body, frozen=True):
    """A tally, in micro-units of weight.

    Attributes:
        options: weight per option, in the order of the options.
        abstain: weight of abstentions.
        void: weight of equivocators.
        silent: weight of those not heard.
        total: W, the sum of all of these (SIM-2).
    """

    options: dict[OptionName, Natural]
    abstain: Natural
    void: Natural
    silent: Natural
    total: Natural


class BallotClosed(Body, frozen=True):
    """A ballot ended without consensus and another one follows (SIM-9)."""

    ballot: BallotNumber
    decision: OptionName
    tally: Weights


SIMPLE_EVENT_TYPES: tuple[EventType, ...] = (
    event_type(BALLOT_OPENED, BallotOpened, "ctl"),
    event_type(VOTE_CAST, VoteCast, "pub", uniqueness=("ballot",)),
    event_type(BALLOT_CLOSED, BallotClosed, "ctl"),
)


class Ballot(msgspec.Struct, frozen=True):
    """An agent's answer; make it with one of the constructors.

    Attributes:
        option: one of the request's options, or ``abstain``.
        confidence_ppm: stated confidence in parts per million, if any.
        rationale_digest: SHA-256 of a rationale kept elsewhere, if any.
    """

    option: str
    confidence_ppm: Ppm | None = None
    rationale_digest: Bytes32 | None = None

    @classmethod
    def agree(cls, confidence: float | None = None) -> Ballot:
        """A vote for the proposal; ``confidence`` from 0 to 1."""
        return cls.choose("agree", confidence)

    @classmethod
    def disagree(cls, confidence: float | None = None) -> Ballot:
        """A vote against the proposal; ``confidence`` from 0 to 1."""
        return cls.choose("disagree", confidence)

    @classmethod
    def abstain(cls) -> Ballot:
        """No opinion: supports nothing, but need not be waited for."""
        return cls(ABSTAIN)

    @classmethod
    def choose(cls, option: str, confidence: float | None = None) -> Ballot:
        """A vote for ``option``; ``confidence`` from 0 to 1.

        Raises:
            UsageError: ``confidence`` is no number from 0 to 1.
        """
        return cls(option, None if confidence is None else _confidence_ppm(confidence))


class VoteRequest(msgspec.Struct, frozen=True):
    """What an agent is asked.

    Attributes:
        proposal: what is voted on.
        proposal_digest: its SHA-256.
        options: permitted answers, besides abstaining.
        ballot: 1, or more for a revote.
        topic: topic of the coordination.
        coordination: its id.
    """

    __mabeam_answer__: ClassVar[type] = Ballot

    proposal: Any
    proposal_digest: bytes
    options: tuple[str, ...]
    ballot: int
    topic: str
    coordination: str


def _confidence_ppm(confidence: float) -> int:
    try:
        within = bool(0 <= confidence <= 1)  # false for NaN
    except TypeError:
        within = False
    if not within:
        raise UsageError(
            f"confidence is {confidence!r}; it must be a number from 0 to 1",
            hint="Scale a percentage by 1/100; leave confidence out if there is none.",
        )
    return round(confidence * PPM)
