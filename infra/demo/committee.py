"""The committee as processes: who there is, how it starts, who is killed when."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from ..local import LocalDeployment
from ..membership import Applicant
from .clinic import Forest, Logistic, Neighbours, Pathologist, Stump, SupportVectors
from .data import Biopsy
from .narrator import Narrator
from .voting import Hearing, Incident, Verdict

AGENTS: dict[str, type[Pathologist]] = {
    "logistic": Logistic,
    "forest": Forest,
    "vectors": SupportVectors,
    "neighbours": Neighbours,
    "stump": Stump,
}
COORDINATORS = ("coordinator-1", "coordinator-2")
PROJECTOR = "projector-1"
CLIENT = "clinic"
VICTIM = "forest"
LEASE_MS = 3_000
"""How long a request of a dead coordinator waits for another one."""


class Committee:
    """Five agents, two coordinators and a projector, each a process with a key of its own.

    Attributes:
        deployment: the processes.
        kills: what was killed, in order.
    """

    def __init__(self, deployment: LocalDeployment, narrator: Narrator) -> None:
        self.deployment = deployment
        self.kills: list[dict[str, object]] = []
        self._narrator = narrator

    def start(self) -> None:
        """Create the deployment and return when every process is ready."""
        deployment, narrator = self.deployment, self._narrator
        deployment.create(lease_ms=LEASE_MS)
        deployment.start_server()
        deployment.provision()
        narrator.say(f"nats-server is running; home is {deployment.home.path}")
        applicants = [Applicant(id, controller=f"{id}-lab") for id in AGENTS]
        applicants += [Applicant(id, ("coordinator",)) for id in COORDINATORS]
        applicants += [Applicant(PROJECTOR, ("projector",)), Applicant(CLIENT, ("client",))]
        deployment.admit_many(applicants)
        narrator.say(f"{len(applicants)} members admitted, each with a key of its own")
        for id in COORDINATORS:
            deployment.spawn_coordinator(id, wait=False)
        deployment.spawn_projector(PROJECTOR, wait=False)
        for id in AGENTS:
            self._spawn_agent(id)
        for id in deployment.daemons:
            deployment.wait_ready(id)
        narrator.say("ready: 5 agents, 2 coordinators, 1 projector, each a process of its own")

    def _spawn_agent(self, id: str) -> None:
        target = f"{AGENTS[id].__module__}:{AGENTS[id].__name__}"
        self.deployment.spawn_agent(id, target, wait=False)

    async def hear(self, biopsies: Sequence[Biopsy]) -> list[Verdict]:
        """Put the biopsies to the vote and cause the crashes meanwhile."""
        client = await self.deployment.client(CLIENT)
        hearing = Hearing(client, list(AGENTS), self._narrator.advance)
        half = len(biopsies) // 2
        incidents = (
            Incident(max(1, half // 2), lambda: self._kill(VICTIM, "agent", hearing)),
            Incident(half, lambda: self._kill_coordinator(hearing)),
            Incident(half, self._restart),
        )
        try:
            await hearing.run(biopsies, incidents)
        finally:
            await client.transport.close()
        return hearing.verdicts

    async def _kill_coordinator(self, hearing: Hearing) -> None:
        await self._kill(await hearing.busiest_coordinator(), "coordinator", hearing)

    async def _kill(self, id: str, kind: str, hearing: Hearing) -> None:
        process = self.deployment.daemons[id].pid
        await asyncio.to_thread(self.deployment.kill, id, signal.SIGKILL)
        decided = len(hearing.verdicts)
        self.kills.append({"after": decided, "id": id, "kind": kind, "process": process})
        self._narrator.alarm(f"kill -9 {process}: {kind} {id} is gone ({decided} decided)")

    async def _restart(self) -> None:
        await asyncio.to_thread(self._spawn_agent, VICTIM)
        self._narrator.say(f"agent {VICTIM} started again; its journal says what it signed")

    def adjourn(self) -> None:
        """End agents and coordinators in good order, so that the log comes to rest."""
        running = [
            id
            for id, process in self.deployment.daemons.items()
            if id != PROJECTOR and process.exit_code() is None
        ]
        for id in running:
            self.deployment.kill(id, signal.SIGTERM)
        for id in running:
            self.deployment.wait_exit(id)
