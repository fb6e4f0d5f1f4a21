"""What the simulator must know of a simple consensus: how to make one up, and how to count it again
by other means than the protocol does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from ...core.agent import Agent, on
from ...core.coordination import Coordination
from ...core.kernel_events import Invitee
from ...core.replay import Verdict
from ...core.sim.checkers import Observation
from ...core.sim.run import Ask, Simulation
from ...protocols import PROTOCOLS
from ...protocols.simple import Ballot, VoteRequest


class RandomVoter(Agent):
    """Has any opinion, after any time, and sometimes none."""

    capabilities = ("vote",)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    @on(VoteRequest)
    async def vote(self, request: VoteRequest) -> Ballot:
        """Another answer every time it is asked."""
        rng = self._rng
        await asyncio.sleep(rng.choice((0.0, 0.01, 0.2, 1.0, 5.0)))
        if rng.random() < 0.05:
            raise RuntimeError("out of order")
        if rng.random() < 0.1:
            return Ballot.abstain()
        option = rng.choice((request.options[0], *request.options))
        return Ballot.choose(option, rng.choice((None, 0.1, 0.5, 0.9)))


class SimulatedSimple(Simulation):
    """Makes up simple consensus, and counts it again from the definitions of its rules."""

    protocol = "simple_consensus"
    protocols = PROTOCOLS

    def draw(self, rng: random.Random, agents: Sequence[str]) -> Ask:
        """A ballot under a random rule."""
        rule = rng.choice(("threshold", "majority", "unanimous", "plurality", "weighted"))
        config: dict[str, Any] = {
            "proposal": rng.randrange(100),
            "rule": rule,
            "threshold_ppm": rng.choice((500_000, 600_000, 666_667, 700_000, 1_000_000)),
            "min_turnout_ppm": rng.choice((None, 0, 300_000, 600_000)),
            "min_share_ppm": rng.choice((0, 400_000)),
            "early_exit": rng.random() < 0.8,
            "max_ballots": rng.choice((1, 1, 2, 3)),
            "vote_timeout_ms": rng.choice((300, 1_000, 3_000)),
        }
        if rule in ("majority", "plurality"):
            config["options"] = ["a", "b", "c"][: rng.randint(2, 3)]
        members = rng.sample(list(agents), rng.randint(1, len(agents)))
        if rng.random() < 0.03:
            members.append("stranger")
        weights = (1, 1_000_000, 1_000_000, 2_000_000, 3_000_000)
        invited = tuple(Invitee(member, rng.choice(weights)) for member in members)
        return Ask(config, invited, config["max_ballots"] * config["vote_timeout_ms"] / 1000)

    def agent(self, rng: random.Random) -> Agent:
        """A voter without principles."""
        return RandomVoter(rng)

    def judge(self, seen: Observation) -> Iterator[str]:
        """Every decision, counted again."""
        for name, fold in seen.folds.items():
            if fold.is_ordered or fold.config is None or fold.config.protocol != self.protocol:
                continue  # replicas counted in an order of their own
            if fold.terminal is not None and fold.terminal.type == "coordination.decided":
                told = fold.terminal.content.outcome["decision"]
                due = Recount(fold, seen.of(name)).decision()
                if told != due:
                    yield f"{name} decided {told!r}, counted again it is {due!r}"


class Recount:
    """A naive count of the ballot that decided, up to the event that is said to have decided it."""

    def __init__(self, fold: Coordination, verdicts: Iterable[Verdict]) -> None:
        assert fold.config is not None
        assert fold.terminal is not None
        decided = fold.terminal.content
        self._config: Mapping[str, Any] = fold.config.config
        self._weights = {each.agent_id: each.weight for each in fold.config.participants}
        self._total = sum(self._weights.values())
        self._votes: dict[str, Any] = {}
        self._void: set[str] = set()
        self._deadline = False
        numbers: dict[tuple[str, int], bytes] = {}
        for verdict in verdicts:
            event = verdict.event
            if event is None or event.sequence > decided.inputs_upto:
                continue
            place = (event.author, event.event.header.author_seq)
            if numbers.setdefault(place, event.id) != event.id:
                continue  # a fork of its author's chain
            reason = verdict.rejection.reason if verdict.rejection else ""
            if event.type == "deadline.passed" and not reason:
                self._deadline |= event.content.round == decided.outcome["ballot"]
            counts = event.type == "simple.vote_cast" and reason in ("", "equivocation")
            if counts and event.content.ballot == decided.outcome["ballot"]:
                self._take(event.author, event.content)

    def _take(self, author: str, vote: Any) -> None:
        if self._votes.setdefault(author, vote) != vote:
            self._void.add(author)

    def decision(self) -> str:
        """What the definitions give, or ``undecided``."""
        heard = sum(self._weights[author] for author in self._votes)
        ended = self._deadline or heard == self._total
        if not self._config["early_exit"] and not self._deadline:
            return "undecided"
        won = self._winner(0 if ended else self._total - heard, ended)
        return won or ("no_consensus" if ended else "undecided")

    def _share(self, option: str) -> Fraction:
        support = sum(
            self._weights[author]
            for author, vote in self._votes.items()
            if author not in self._void and vote.option == option
        )
        return Fraction(support, self._total)

    def _winner(self, uncast: int, ended: bool) -> str | None:
        config, options = self._config, self._config["options"]
        shares = {option: self._share(option) for option in options}
        if sum(shares.values()) < _ppm(config["min_turnout_ppm"]):
            return None
        rule = config["rule"]
        if rule == "weighted":
            return self._grade(ended)
        if rule in ("threshold", "unanimous"):
            if shares["agree"] >= _ppm(config["threshold_ppm"]):
                return "agree"
            needed = -(-self._total * config["threshold_ppm"] // 10**6)
            return "disagree" if shares["disagree"] * self._total > self._total - needed else None
        for option, share in shares.items():
            others = max(each for other, each in shares.items() if other != option)
            ahead = share > others + Fraction(uncast, self._total)
            enough = share >= _ppm(config["min_share_ppm"]) and share > 0
            if (share > Fraction(1, 2)) if rule == "majority" else (ahead and enough):
                return str(option)
        return None

    def _grade(self, ended: bool) -> str | None:
        value = {"agree": Fraction(1), "neutral": Fraction(1, 2), "disagree": Fraction(0)}
        spoken = [
            (self._weights[author] * _ppm(_stated(vote)), value[vote.option])
            for author, vote in self._votes.items()
            if author not in self._void and vote.option != "abstain"
        ]
        conviction = sum(weight for weight, _ in spoken)
        support = sum(weight * each for weight, each in spoken)
        if not conviction or not (ended or support >= self._stop * self._total):
            return None
        for grade, bound in zip(GRADES, self._config["grade_bounds_ppm"], strict=False):
            if support / conviction >= _ppm(bound):
                return grade
        return GRADES[-1]

    @property
    def _stop(self) -> Fraction:
        return _ppm(self._config["early_stop_ppm"])


GRADES = ("strong_approve", "approve", "neutral", "reject")


def _ppm(number: int | None) -> Fraction:
    return Fraction(number or 0, 10**6)


def _stated(vote: Any) -> int:
    return 500_000 if vote.confidence_ppm is None else vote.confidence_ppm
