"""The agent of the benchmark: agrees at once, so that only the coordination is measured."""

from __future__ import annotations

from ...core.agent import Agent, on
from ...protocols.simple.events import Ballot, VoteRequest


class Voter(Agent):
    """Always agrees."""

    max_concurrent = 256

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Agree with full confidence."""
        return Ballot.agree(confidence=1.0)


def make_voter() -> Voter:
    """What ``mabeam agent run`` calls."""
    return Voter()
