"""A participant's role: ask the agent's own code once per ballot and report what it says.

A participant acts on an invitation, which shows it the coordinator's events and not the votes of
others. So this machine counts nothing: it follows which ballot is open, asks, and stops asking when
its own vote is in the log or the ballot has ended. An agent whose code fails abstains and says why:
an abstention has the effect of silence (SIM-2), but nobody has to wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ...core.errors import PeerProtocolError, UsageError
from ...core.machine import Append, Ask, AskFailed, Context, Intent, LogEvent, Machine
from .events import (
    ABSTAIN,
    BALLOT_CLOSED,
    BALLOT_OPENED,
    VOTE_CAST,
    Ballot,
    BallotOpened,
    VoteCast,
    VoteRequest,
)
from .fold import DEADLINE, frozen_config, opening_of

MAX_FAILURE_CHARS = 64


class VoteReply(msgspec.Struct, frozen=True):
    """Turns an answer to ``request`` into the vote that reports it; pure."""

    request: VoteRequest
    opened_id: bytes

    def __call__(self, answer: Ballot | AskFailed) -> Append:
        """The vote.

        Raises:
            UsageError: the answer is none that the request permits.
        """
        request = self.request
        if isinstance(answer, AskFailed):
            failure = answer.code[:MAX_FAILURE_CHARS]
            vote = VoteCast(request.ballot, request.proposal_digest, ABSTAIN, failure=failure)
        else:
            _check_answer(answer, request.options)
            vote = VoteCast(
                request.ballot,
                request.proposal_digest,
                answer.option,
                answer.confidence_ppm,
                answer.rationale_digest,
            )
        return Append(("vote", request.ballot), VOTE_CAST, vote, (self.opened_id,), sign_once=True)


def _check_answer(answer: Any, options: tuple[str, ...]) -> None:
    if not isinstance(answer, Ballot):
        raise UsageError(
            f"the answer to a VoteRequest is a {type(answer).__name__}, not a Ballot",
            hint="Return Ballot.agree(), .disagree(), .abstain() or .choose(option).",
        )
    if answer.option not in options and answer.option != ABSTAIN:
        raise UsageError(
            f"{answer.option!r} is not an option of this ballot",
            hint=f"Choose one of {', '.join(options)} or abstain.",
        )
    try:
        msgspec.convert(msgspec.structs.asdict(answer), Ballot)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the ballot is not well formed: {error}",
            hint="Make it with Ballot.choose; a rationale digest is 32 bytes of SHA-256.",
        ) from None


class SimpleParticipant(Machine):
    """A participant's machine; with no author, or one that is no participant, it only watches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._config = frozen_config(context)
        self._opening = opening_of(context, self._config, 1)
        self._ballots = 0
        self._question: Ask | None = None
        self._votes = any(each.agent_id == context.author for each in context.participants)

    def apply(self, event: LogEvent) -> None:
        """Fold one event; only those that open or end a ballot and the own vote matter."""
        handler = _HANDLERS.get(event.event.header.type)
        if handler is not None:
            handler(self, event)

    def intents(self) -> tuple[Intent, ...]:
        """At most the question."""
        return () if self._question is None else (self._question,)

    def phase(self) -> str:
        """``voting`` while asked, else ``waiting``."""
        return "waiting" if self._question is None else "voting"

    def _on_opened(self, event: LogEvent) -> None:
        opening: BallotOpened = event.content
        if opening.ballot <= self._ballots:
            raise PeerProtocolError("wrong_phase", f"ballot {opening.ballot} was opened before")
        if opening != msgspec.structs.replace(self._opening, ballot=opening.ballot):
            raise PeerProtocolError(
                "digest_mismatch", f"ballot {opening.ballot} is not opened as the config says"
            )
        self._ballots = opening.ballot
        self._question = self._ask(opening, event.id) if self._votes else None

    def _on_vote(self, event: LogEvent) -> None:
        if event.author == self._context.author and event.content.ballot == self._ballots:
            self._question = None

    def _on_closed(self, event: LogEvent) -> None:
        if event.content.ballot == self._ballots:
            self._question = None

    def _on_deadline(self, event: LogEvent) -> None:
        if event.content.name == DEADLINE and event.content.round == self._ballots:
            self._question = None

    def _ask(self, opening: BallotOpened, opened_id: bytes) -> Ask:
        context = self._context
        request = VoteRequest(
            self._config.proposal,
            opening.proposal_digest,
            opening.options,
            opening.ballot,
            context.opened.topic,
            context.coordination,
        )
        reply = VoteReply(request, opened_id)
        return Ask(("vote", opening.ballot), request, Ballot, reply, opening.closes_after_ms)


_HANDLERS: dict[str, Callable[[SimpleParticipant, LogEvent], None]] = {
    VOTE_CAST: SimpleParticipant._on_vote,
    BALLOT_OPENED: SimpleParticipant._on_opened,
    BALLOT_CLOSED: SimpleParticipant._on_closed,
    "deadline.passed": SimpleParticipant._on_deadline,
}
