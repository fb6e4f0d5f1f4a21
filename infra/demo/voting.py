"""Putting the biopsies to the vote, several at a time, while things happen."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ...core.client import Client, CoordinationFailedError
from ...core.coordination import Coordination
from ...core.errors import LogUnavailableError
from ...core.kernel_events import CoordinationDecided, CoordinationFailed, OutcomeReported
from ...core.log import Submission
from ...core.machine import LogEvent
from ..services import leading_error
from .data import Biopsy
from .proof import DemoError

MAX_IN_FLIGHT = 8
VOTE_TIMEOUT_MS = 3_000
FRESH_S = VOTE_TIMEOUT_MS / 3_000
PATIENCE_S = 60.0
"""Bound of one coordination, takeover included; reached only when something is broken."""


@dataclass(frozen=True)
class Incident:
    """Something that happens as soon as ``after`` biopsies have been decided."""

    after: int
    act: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Verdict:
    """What the committee decided on one biopsy.

    Attributes:
        biopsy: the case.
        coordination: id of the coordination.
        decision: ``agree`` (malignant), ``disagree``, or ``no_consensus``.
        votes: by agent, the option of every vote that counted.
        silent: who was not heard in time.
    """

    biopsy: Biopsy
    coordination: str
    decision: str
    votes: dict[str, str]
    silent: tuple[str, ...]

    @property
    def correct(self) -> bool:
        """Whether the decision is the truth."""
        return self.decision == self.biopsy.truth


class Hearing:
    """All the votes of one demonstration.

    Attributes:
        verdicts: in the order in which they were reached.
        held: by coordination in progress, the coordinator whose claim is in force, and since when.
    """

    def __init__(
        self,
        client: Client,
        agents: Sequence[str],
        on_decided: Callable[[int], None],
    ) -> None:
        self.verdicts: list[Verdict] = []
        self.held: dict[str, tuple[str, float]] = {}
        self._client = client
        self._agents = agents
        self._on_decided = on_decided
        self._moved = asyncio.Event()

    async def run(self, biopsies: Sequence[Biopsy], incidents: Sequence[Incident] = ()) -> None:
        """Return when every biopsy is decided and every incident has happened.

        Raises:
            CoordinationFailedError: a coordination failed or was cancelled.
            DemoError: one got no terminal event in time.
        """
        # At least four rounds, so that something is always in progress when something happens.
        places = asyncio.Semaphore(max(1, min(MAX_IN_FLIGHT, len(biopsies) // 4)))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._happen(incidents))
                for biopsy in biopsies:
                    group.create_task(self._put_to_vote(biopsy, places))
        except BaseExceptionGroup as failures:
            raise leading_error(failures) from failures

    async def busiest_coordinator(self) -> str:
        """Who took the most coordinations in the last second; waits until somebody takes one.

        Ballots stay open for longer, so whoever is named holds something undecided.
        """
        while not (fresh := self._freshly_held()):
            await self._next_move()
        return max(sorted(fresh), key=fresh.__getitem__)

    def _freshly_held(self) -> Counter[str]:
        now = time.monotonic()
        return Counter(who for who, since in self.held.values() if now - since < FRESH_S)

    async def _happen(self, incidents: Sequence[Incident]) -> None:
        for incident in incidents:
            while len(self.verdicts) < incident.after:
                await self._next_move()
            await incident.act()

    async def _put_to_vote(self, biopsy: Biopsy, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    self.verdicts.append(await self._follow(biopsy, await self._request(biopsy)))
            except TimeoutError:
                raise DemoError(f"{biopsy.name} got no decision within {PATIENCE_S:g} s") from None
        self._on_decided(len(self.verdicts))
        self._move()

    async def _request(self, biopsy: Biopsy) -> str:
        proposal = {
            "question": "Is this biopsy malignant?",
            "biopsy": biopsy.name,
            "features": list(biopsy.features),
        }
        config = {
            "proposal": proposal,
            "rule": "majority",
            # Hear everybody who speaks in time, even when the majority is clear: the report
            # compares the agents. Silence ends with the ballot.
            "early_exit": False,
            "vote_timeout_ms": VOTE_TIMEOUT_MS,
        }
        return await self._client.request("simple_consensus", config, self._agents, topic="biopsy")

    async def _follow(self, biopsy: Biopsy, name: str) -> Verdict:
        votes: dict[str, str] = {}
        async for step in self._client.watch(name):
            fold, event = step.coordination, step.event
            if event is not None and event.type == "simple.vote_cast" and not step.reason:
                votes[event.author] = event.content.option
            if fold.terminal is not None:
                self.held.pop(name, None)
                verdict = _verdict(biopsy, name, fold.terminal, votes)
                await self._report_truth(biopsy, fold, fold.terminal)
                return verdict
            holder, _ = self.held.get(name, ("", 0.0))
            if fold.coordinator != holder:
                self.held[name] = fold.coordinator, time.monotonic()
                self._move()
        raise LogUnavailableError(f"the log ended before {name} did")

    async def _report_truth(self, biopsy: Biopsy, fold: Coordination, terminal: LogEvent) -> None:
        """Once the committee has decided, the truth enters the log, signed like everything else."""
        author = self._client.author
        report = OutcomeReported(terminal.id, "biopsy", "truth", biopsy.truth, author.id)
        event = author.sign(fold.id, fold.epoch, "outcome.reported", report, (terminal.id,))
        await self._client.transport.log.append(Submission(event, "pub", author.node))

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _next_move(self) -> None:
        await self._moved.wait()


def _verdict(biopsy: Biopsy, name: str, terminal: LogEvent, votes: dict[str, str]) -> Verdict:
    content = terminal.content
    if isinstance(content, CoordinationDecided):
        outcome = content.outcome
        return Verdict(biopsy, name, outcome["decision"], votes, tuple(outcome["silent"]))
    code = content.code if isinstance(content, CoordinationFailed) else "cancelled"
    raise CoordinationFailedError(name, code, "a biopsy got no decision", "", {})
