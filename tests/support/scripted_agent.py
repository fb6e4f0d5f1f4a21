"""An agent that does what the proposal's script says for its id: run by daemons in tests.

``{"script": {"agent-1": [{"option": "agree", "confidence": 0.9, "rank": 0}, …]}}``: one entry per
ballot; ``rank`` orders the votes (rank 1 waits until rank 0 had ample time). An agent without an
entry is
silent: it does not answer until the ballot is over.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from mabeam.core.agent import Agent, on
from mabeam.protocols.simple.events import Ballot, VoteRequest

RANK_S = 0.25


class ScriptedAgent(Agent):
    """Follows the script."""

    max_concurrent = 64

    def __init__(self, id: str) -> None:
        self.id = id

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Vote as scripted."""
        proposal: dict[str, Any] = request.proposal
        lines = proposal["script"].get(self.id, [])
        if request.ballot > len(lines):
            await asyncio.sleep(3600)
        line = lines[request.ballot - 1]
        await asyncio.sleep(line.get("rank", 0) * RANK_S)
        if line.get("fail"):
            raise RuntimeError("scripted failure")
        return Ballot.choose(line["option"], confidence=line.get("confidence"))


def make_agent() -> ScriptedAgent:
    """What the daemon calls; the id is the one it was started with."""
    return ScriptedAgent(sys.argv[sys.argv.index("--id") + 1])
