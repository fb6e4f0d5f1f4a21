"""What the real hosts write passes the audit: every act is one their machines intended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from audit_tampering import accused
from deployment import Deployment

from mabeam.core.agent import Agent, on
from mabeam.core.audit.bundle import export_coordination
from mabeam.core.audit.bundle_audit import verify_bundle
from mabeam.core.audit.verify import audit_coordination, audit_log
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple import Ballot, VoteRequest


class Voter(Agent):
    """Agrees, or disagrees with odd cases."""

    def __init__(self, *, contrary: bool = False) -> None:
        self._contrary = contrary

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Vote on a number."""
        odd = request.proposal["case"] % 2
        return Ballot.disagree(0.9) if odd and self._contrary else Ballot.agree(0.8)


class Mute(Agent):
    """Never answers."""

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Wait for ever."""
        await asyncio.Event().wait()
        return Ballot.abstain()


async def test_a_busy_deployment_audits_clean(tmp_path: Path) -> None:
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("coord-1")
        await deployment.coordinator("coord-2")
        for number in range(4):
            await deployment.agent(f"a-{number}", Voter(contrary=number > 1))
        await deployment.agent("mute", Mute())
        client = await deployment.client()
        agents = [f"a-{number}" for number in range(4)]
        names = [
            await client.request(
                "simple_consensus",
                {"proposal": {"case": case}, "max_ballots": 1 + case % 3},
                agents,
            )
            for case in range(12)
        ]
        silent = await client.request(
            "simple_consensus",
            {"proposal": {"case": 0}, "vote_timeout_ms": 150, "threshold_ppm": 900_000},
            [*agents, "mute"],
            coordination="silent",
        )
        unknown = await client.request("simple_consensus", {"proposal": {"case": 0}}, ["nobody"])
        await asyncio.wait_for(
            asyncio.gather(*map(client.result, (*names, silent, unknown)), return_exceptions=True),
            30,
        )
        log, root = client.transport.log, deployment.root.public_key
        report = await audit_log(log, root, PROTOCOLS)
        assert report.clean, report.findings
        assert accused(report) == set()
        assert report.endings == {"decided": 13, "failed": 1}
        single = await audit_coordination(log, names[1], root, PROTOCOLS)
        assert single.clean
        assert single.ending is not None
        bundle = await export_coordination(log, names[1], root)
        exported = verify_bundle(bundle, root, PROTOCOLS)
        assert exported.clean
        assert exported.ending == single.ending
