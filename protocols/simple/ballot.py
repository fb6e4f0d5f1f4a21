"""One ballot: who voted what, who voided their vote, and the prefix of events that decided.

A ballot is open from ``simple.ballot_opened`` until a verdict. While it is open the first valid
vote of an author counts (SIM-1); a second one with other content voids both (COM-17). From the
verdict on nothing in here changes but the memory of late votes, which is kept to recognise
equivocators: the counted votes are the cut, and the sequence of the event that brought the verdict
is where recomputation stops.

An invalid vote (wrong digest, unknown option) is rejected before anything else is looked at, so
whether it comes before or after a valid one makes no difference (COM-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from ...core.errors import PeerProtocolError
from ...core.machine import LogEvent
from .events import ABSTAIN, VoteCast
from .tally import Rules, Tally, Verdict, decide


class BallotBox:
    """The fold of one ballot.

    Attributes:
        number: 1, 2 …
        opened_id: id of the event that opened it.
        tally: the running sums.
        votes: counted or voided vote per author, fixed once there is a verdict.
        void: authors whose votes are void.
        verdict: how the ballot ended, if it did.
        decided_at: sequence of the event that brought the verdict.
        is_open: whether votes still count.
        equivocations: per author the first two votes with different content, in order of their ids.
    """

    def __init__(
        self,
        number: int,
        opened_id: bytes,
        rules: Rules,
        weights: Mapping[str, int],
        digest: bytes,
    ) -> None:
        self.number = number
        self.opened_id = opened_id
        self.tally = Tally(rules.options, rules.total)
        self.votes: dict[str, LogEvent] = {}
        self.void: set[str] = set()
        self.verdict: Verdict | None = None
        self.decided_at = 0
        self.is_open = True
        self.equivocations: dict[str, tuple[LogEvent, LogEvent]] = {}
        self._late: dict[str, LogEvent] = {}
        self._rules = rules
        self._weights = weights
        self._digest = digest

    def cast(self, event: LogEvent) -> None:
        """Fold a vote.

        Raises:
            PeerProtocolError: ``not_participant``, ``digest_mismatch``, ``unknown_option``,
                ``duplicate``, ``equivocation`` or ``late``.
        """
        vote: VoteCast = event.content
        author = event.author
        weight = self._weights.get(author)
        if weight is None:
            raise PeerProtocolError("not_participant", f"{author} is no participant")
        if vote.proposal_digest != self._digest:
            raise PeerProtocolError("digest_mismatch", f"{author} voted on another proposal")
        if vote.option not in self.tally.support and vote.option != ABSTAIN:
            raise PeerProtocolError("unknown_option", f"{author} voted for {vote.option!r}")
        first = self.votes.get(author) or self._late.get(author)
        if first is not None:
            self._vote_again(first, event, weight)
        if not self.is_open:
            self._late[author] = event
            raise PeerProtocolError("late", f"{author} voted after ballot {self.number} closed")
        self.votes[author] = event
        self.tally.add(vote.option, weight, vote.confidence_ppm)
        self._judge(event)

    def _vote_again(self, first: LogEvent, second: LogEvent, weight: int) -> NoReturn:
        """COM-17: the same content counts once; other content voids what can still be voided."""
        author = first.author
        if first.event.header.body_sha256 == second.event.header.body_sha256:
            raise PeerProtocolError("duplicate", f"{author} voted the same twice")
        pair = (first, second) if first.id < second.id else (second, first)
        self.equivocations.setdefault(author, pair)
        if self.is_open and author not in self.void:
            vote: VoteCast = first.content
            self.void.add(author)
            self.tally.annul(vote.option, weight, vote.confidence_ppm)
            self._judge(second)
        raise PeerProtocolError(
            "equivocation",
            f"{author} signed two different votes in ballot {self.number}",
            evidence=(pair[0].id, pair[1].id),
        )

    def end(self, event: LogEvent) -> None:
        """The deadline passed: the verdict is due."""
        self._judge(event, deadline_passed=True)

    def _judge(self, event: LogEvent, deadline_passed: bool = False) -> None:
        verdict = decide(self._rules, self.tally, deadline_passed)
        if verdict is not None:
            self.verdict = verdict
            self.decided_at = event.sequence
            self.is_open = False

    def cut(self) -> tuple[bytes, ...]:
        """Ids of the counted votes in decided order (COM-8)."""
        return tuple(vote.id for author, vote in self.votes.items() if author not in self.void)

    def counted(self) -> dict[str, VoteCast]:
        """The counted vote per author, by author."""
        return {a: self.votes[a].content for a in sorted(self.votes) if a not in self.void}

    def unheard(self) -> tuple[str, ...]:
        """Participants without a vote, sorted."""
        return tuple(sorted(self._weights.keys() - self.votes.keys()))
