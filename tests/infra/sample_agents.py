"""Agents that the tests of this folder run as processes."""

from __future__ import annotations

import asyncio
import time

from mabeam.core.agent import Agent, on
from mabeam.protocols.simple import Ballot, VoteRequest


class Approving(Agent):
    """Agrees at once."""

    capabilities = ("review",)
    model_type = "constant"

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        return Ballot.agree(confidence=0.9)


class Thinking(Agent):
    """Agrees after a moment."""

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        await asyncio.sleep(0.7)
        return Ballot.agree()


class Stuck(Agent):
    """Blocks its thread for longer than any test lasts."""

    @on(VoteRequest)
    def vote(self, request: VoteRequest) -> Ballot:
        print("stuck", flush=True)
        time.sleep(3600)
        return Ballot.agree()


def make_approving() -> Agent:
    """A factory."""
    return Approving()


def make_number() -> int:
    """A factory of something else."""
    return 7


def make_nothing() -> Agent:
    """A factory that fails."""
    raise RuntimeError("no model file")


def with_argument(path: str) -> Agent:
    """A factory that cannot be called without arguments."""
    return Approving()


SOMETHING = 3
