"""Replicas that act together, and replicas that watch the log to strike where it hurts most."""

from __future__ import annotations

from typing import Any

import msgspec

from ....core.machine import Append, LogEvent
from ....protocols.byzantine.digests import batch_digest
from ....protocols.byzantine.events import (
    COMMIT,
    PRE_PREPARE,
    PREPARE,
    VIEW_CHANGE,
    CommitSent,
    PrepareSent,
    PrePrepareSent,
    ViewChangeSent,
)
from .puppet import DishonestReplica, Strings

replace = msgspec.structs.replace


class Coalition(DishonestReplica):
    """All members vote for every digest of a slot, the one that has fewer votes first.

    A member that leads proposes two batches. What one member knows, all do: they read one log. Each
    vote that would complete a quorum for one side is held back until the other side is as close.
    """

    name = "coalition"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._voted: set[tuple[str, int, int, bytes]] = set()

    def say(self, strings: Strings, append: Append) -> None:
        """Two proposals instead of one; view changes that hide what was prepared."""
        body = append.body
        if isinstance(body, PrePrepareSent) and self.may_misbehave():
            self._propose_twice(strings, append, body)
        elif isinstance(body, ViewChangeSent) and self.may_misbehave():
            hidden = replace(body, prepared=()) if self.rng.random() < 0.5 else body
            kind = "nothing prepared" if hidden is not body else "the truth"
            self.lie(strings, [(VIEW_CHANGE, hidden, append.refs)], kind)
            strings.pretend(append, replaced=True)
        elif append.type in (PREPARE, COMMIT):
            strings.pretend(append, replaced=True)
            self._split(strings, body.view, body.sequence)  # type: ignore[attr-defined]
        else:
            strings.speak(append)

    def _propose_twice(self, strings: Strings, append: Append, body: PrePrepareSent) -> None:
        known = [each for each in strings.machine.requests.known() if each not in body.request_ids]
        strings.speak(append)
        if known:
            ids = (self.rng.choice(known),)
            digest = batch_digest(strings.coordination.id, ids)
            other = replace(body, batch_digest=digest, request_ids=ids)
            strings.fold(strings.sign((PRE_PREPARE, other, append.refs), lie="a second proposal"))

    def noticed(self, strings: Strings, event: LogEvent) -> None:
        """See who voted for what."""
        if event.type in (PRE_PREPARE, PREPARE, COMMIT):
            self._split(strings, event.content.view, event.content.sequence)

    def _split(self, strings: Strings, view: int, sequence: int) -> None:
        machine = strings.machine
        if abs(view - machine.views.view) > 2:
            return
        for kind, book, make in (
            (PREPARE, machine.prepares, PrepareSent),
            (COMMIT, machine.commits, CommitSent),
        ):
            votes: list[tuple[int, bytes]] = []
            for digest in sorted(machine.executor.batches):
                votes.append((len(book.signers((view, sequence, digest))), digest))
            for _, digest in sorted(votes):
                key = (kind, view, sequence, digest)
                if key not in self._voted and self.may_misbehave():
                    self._voted.add(key)
                    strings.sign(
                        (kind, make(view, sequence, digest), ()), lie="a vote for any digest"
                    )


class Adaptive(DishonestReplica):
    """Reads the log and strikes at the next primary, and at slots that are about to commit.

    It delays the links of others for a while, as a network adversary may before the network
    stabilises, and leaves the view at the worst moment with a certificate held back.
    """

    name = "adaptive"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._left: set[int] = set()

    def noticed(self, strings: Strings, event: LogEvent) -> None:
        """Look for the moment."""
        body: Any = event.content
        if event.type == VIEW_CHANGE:
            self._hold_up(strings.machine.group.primary(body.new_view), strings)
        elif event.type == COMMIT:
            key = (body.view, body.sequence, body.batch_digest)
            if len(strings.machine.commits.signers(key)) == strings.machine.group.q - 1:
                self._spoil(strings, event.author, body.view)

    def say(self, strings: Strings, append: Append) -> None:
        """Everything; half of its commits come late."""
        if append.type == COMMIT and self.rng.random() < 0.5:
            strings.speak(append, self.rng.uniform(0.5, 3.0))
        else:
            strings.speak(append)

    def _spoil(self, strings: Strings, committer: str, view: int) -> None:
        """A slot lacks one commit: keep it from the others, and call for another view."""
        self._hold_up(committer, strings)
        new_view = view + 1
        if new_view not in self._left and self.may_misbehave():
            self._left.add(new_view)
            for intent in strings.machine._leave(new_view):
                body: Any = intent.body
                held_back = replace(body, prepared=body.prepared[1:])
                strings.sign((VIEW_CHANGE, held_back, ()), lie="a certificate is held back")

    def _hold_up(self, victim: str, strings: Strings) -> None:
        timeout_s = strings.machine.config.view_timeout_ms / 1000
        self.hold_up(victim, (0.5 * timeout_s, 2.5 * timeout_s), ("stall", "cut", "delay"))
