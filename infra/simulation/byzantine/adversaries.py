"""Dishonest replicas: each misbehaves in one stated way, and speaks the truth otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec

from ....core.hashing import sha256
from ....core.machine import Append
from ....protocols.byzantine.digests import batch_digest
from ....protocols.byzantine.events import (
    COMMIT,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    PrePrepareSent,
    RequestSubmitted,
)
from .puppet import DishonestReplica, Statement, Strings

replace = msgspec.structs.replace


class SilentReplica(DishonestReplica):
    """Takes part for a while, or never, then says nothing more."""

    name = "silent"

    def joined(self, strings: Strings) -> None:
        """Decide how long to go along."""
        self.patience = self.rng.choice((0, 0, 1, 2, 5))

    def say(self, strings: Strings, append: Append) -> None:
        """Say it as long as patience lasts."""
        self.patience -= 1
        if self.patience >= 0:
            strings.speak(append)
        else:
            strings.pretend(append)


class SilentPrimary(DishonestReplica):
    """Votes like any other, but proposes nothing when it leads, or does so to no end."""

    name = "silent_primary"

    def say(self, strings: Strings, append: Append) -> None:
        """Everything but proposals; sometimes the NEW-VIEW, so that the next timer is needed."""
        if append.type == PRE_PREPARE or (append.type == NEW_VIEW and self.rng.random() < 0.5):
            strings.pretend(append)
        else:
            strings.speak(append)


class SlowPrimary(DishonestReplica):
    """Proposes so late that the others' timers are about to run out, or have."""

    name = "slow_primary"

    def say(self, strings: Strings, append: Append) -> None:
        """Everything in its time, proposals much later."""
        timeout_s = strings.machine.config.view_timeout_ms / 1000
        late = append.type in (PRE_PREPARE, NEW_VIEW)
        strings.speak(append, self.rng.uniform(0.6, 1.6) * timeout_s if late else 0.0)


class EquivocatingPrimary(DishonestReplica):
    """Proposes two batches for every slot, and votes for both."""

    name = "equivocating_primary"

    def say(self, strings: Strings, append: Append) -> None:
        """A contradiction next to each proposal and vote."""
        statements = list(self._contradictions(strings, append))
        if append.type == PRE_PREPARE and self.rng.random() < 0.5:
            self.lie(strings, statements, "a contradiction")
            strings.speak(append)
        else:
            strings.speak(append)
            self.lie(strings, statements, "a contradiction")

    def _contradictions(self, strings: Strings, append: Append) -> Iterator[Statement]:
        body, machine = append.body, strings.machine
        if isinstance(body, PrePrepareSent):
            known = [each for each in machine.requests.known() if each not in body.request_ids]
            for other in (self.rng.choice([*known, sha256(b"nothing")]),):
                digest = batch_digest(strings.coordination.id, (other,))
                yield PRE_PREPARE, replace(body, batch_digest=digest, request_ids=(other,)), ()
        elif append.type in (PREPARE, COMMIT):
            vote: Any = body
            for digest in sorted(machine.executor.batches):
                if digest != vote.batch_digest:
                    yield append.type, replace(vote, batch_digest=digest), append.refs


class MessageMutation(DishonestReplica):
    """Changes one field of what it says by a little, repeats an old value (Winter et al. 2023), or
    says it under another configuration."""

    name = "message_mutation"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._said: list[Append] = []

    def say(self, strings: Strings, append: Append) -> None:
        """The truth, a mutation, or both in any order."""
        mutated = self._mutated(append)
        self._said.append(append)
        chance = self.rng.random()
        if self.rng.random() < 0.15 and self.may_misbehave():
            epoch = sha256(b"another configuration")
            statement = append.type, append.body, append.refs
            strings.sign(statement, epoch=epoch, lie="under another configuration")
            strings.pretend(append, replaced=True)
        elif mutated is None or chance < 0.35:
            strings.speak(append)
        elif chance < 0.55:
            self.lie(strings, [mutated], "mutated")
            strings.pretend(append, replaced=True)
        elif chance < 0.75:
            self.lie(strings, [mutated], "mutated")
            strings.speak(append)
        else:
            strings.speak(append)
            self.lie(strings, [mutated], "mutated")

    def _mutated(self, append: Append) -> Statement | None:
        body: Any = append.body
        fields = [
            name
            for name in ("view", "sequence", "new_view", "stable_sequence", "batch_digest")
            if hasattr(body, name)
        ]
        if not fields:
            return None
        field = self.rng.choice(fields)
        if field == "batch_digest":
            old = [a.body for a in self._said if hasattr(a.body, "batch_digest")]
            other: Any = self.rng.choice(old) if old else body
            value: Any = other.batch_digest  # type: ignore[attr-defined,unused-ignore]
        else:
            least = 1 if field in ("sequence", "new_view") else 0
            value = max(least, getattr(body, field) + self.rng.choice((-1, 1)))
        return append.type, replace(body, **{field: value}), append.refs


class EquivocatingClient(DishonestReplica):
    """An honest replica with a client's dishonest mind: two operations under one number."""

    name = "equivocating_client"

    def joined(self, strings: Strings) -> None:
        """Ask for contradictory things from time to time."""
        self.world.network.spawn(self._ask(strings))

    async def _ask(self, strings: Strings) -> None:
        for number in range(1, 5):
            await asyncio.sleep(self.rng.choice((0.0, 0.1, 1.0, 3.0)))
            if strings.over.is_set():
                return
            for operation in self.rng.sample(("left", "right", "both"), 2):
                body = RequestSubmitted(self.rng.choice((number, number, 1)), operation)
                delay_s = self.rng.choice((0.0, 0.3))
                asked = strings.sign((REQUEST, body, ()), delay_s, lie="one of two requests")
                strings.fold(asked)
            strings.react()
