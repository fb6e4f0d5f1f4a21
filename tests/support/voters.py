"""Agents that vote as a test tells them to."""

from __future__ import annotations

import asyncio

from mabeam.core.agent import Agent, on
from mabeam.protocols.simple import Ballot, VoteRequest


class Voter(Agent):
    """Always gives the same answer; counts how often it is asked."""

    capabilities = ("vote",)

    def __init__(self, option: str = "agree", confidence: float | None = None) -> None:
        self.option = option
        self.confidence = confidence
        self.asked = 0

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """The answer."""
        self.asked += 1
        return Ballot.choose(self.option, self.confidence)


class HeldVoter(Voter):
    """Answers once it is let go."""

    def __init__(self, option: str = "agree") -> None:
        super().__init__(option)
        self.go = asyncio.Event()

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """The answer, later."""
        self.asked += 1
        await self.go.wait()
        return Ballot.choose(self.option)
