"""Events that a faulty replica of a scenario signs, from the words of its script.

References are ``@sequence``, ``@proposal``, ``@opened`` or ``unknown``, joined by commas. A digest
is ``@sequence`` (that event's), ``null2`` (the null batch of slot 2), ``lie``, or ``of:`` and
references (of that batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mabeam.core.hashing import sha256
from mabeam.core.kernel_events import Body, DeadlinePassed
from mabeam.protocols.byzantine.digests import batch_digest, null_digest
from mabeam.protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    DEADLINE_PASSED,
    NEW_VIEW,
    OVERALL,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CheckpointTaken,
    CommitSent,
    NewViewSent,
    PreparedEntry,
    PrepareSent,
    PrePrepareSent,
    RequestSubmitted,
    SlotProposal,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.view_change import plan
from tests.protocols.byzantine.network import COORDINATION, OPENED, REQUESTED

if TYPE_CHECKING:
    from tests.scenarios.byzantine_stage import Stage

Fields = Mapping[str, str]
_NAMED = {"@proposal": REQUESTED, "@opened": OPENED}


class Forge:
    """Makes the events of one author."""

    def __init__(self, stage: Stage, author: str) -> None:
        self.stage = stage
        self.author = author

    def event(self, kind: str, fields: Fields) -> tuple[str, Body, tuple[bytes, ...]]:
        """Type, body and ``refs`` (field ``answers``)."""
        makers: dict[str, tuple[str, Callable[[Fields], Body]]] = {
            "request": (REQUEST, self._request),
            "pre_prepare": (PRE_PREPARE, self._pre_prepare),
            "prepare": (PREPARE, lambda given: PrepareSent(*self._vote(given))),
            "commit": (COMMIT, lambda given: CommitSent(*self._vote(given))),
            "checkpoint": (CHECKPOINT, self._checkpoint),
            "view_change": (VIEW_CHANGE, self._view_change),
            "new_view": (NEW_VIEW, self._new_view),
            "deadline": (DEADLINE_PASSED, lambda given: DeadlinePassed(OVERALL)),
        }
        type_name, make = makers[kind]
        return type_name, make(fields), self.references(fields.get("answers", ""))

    def reference(self, word: str) -> bytes:
        """Id of an event."""
        if word in _NAMED:
            return _NAMED[word]
        if word.startswith("@"):
            return self.stage.log[int(word[1:]) - 1].id
        return sha256(word.encode())

    def references(self, words: str) -> tuple[bytes, ...]:
        """Ids of events."""
        return tuple(self.reference(word) for word in words.split(",") if word)

    def digest(self, word: str) -> bytes:
        """A batch digest."""
        if word.startswith("of:"):
            return batch_digest(COORDINATION, self.references(word[3:]))
        if word.startswith("@"):
            found: bytes = self.stage.log[int(word[1:]) - 1].content.batch_digest
            return found
        if word.startswith("null"):
            return null_digest(COORDINATION, int(word[4:]))
        return sha256(word.encode())

    def _request(self, given: Fields) -> Body:
        return RequestSubmitted(int(given.get("number", "1")), given["operation"])

    def _vote(self, given: Fields) -> tuple[int, int, bytes]:
        digest = given.get("digest", "of:@proposal")
        return int(given.get("view", "0")), int(given.get("slot", "1")), self.digest(digest)

    def _pre_prepare(self, given: Fields) -> Body:
        batch = given.get("batch", "@proposal")
        view, slot, digest = self._vote({"digest": f"of:{batch}", **given})
        return PrePrepareSent(view, slot, digest, self.references(batch))

    def _checkpoint(self, given: Fields) -> Body:
        return CheckpointTaken(int(given["slot"]), self.digest(given.get("root", "lie")))

    def _view_change(self, given: Fields) -> Body:
        """``prepared`` is ``own``, empty, or ``slot/view/digest/proposal/prepares`` by ``;``."""
        words = given.get("prepared", "own")
        if words == "own":
            held = self.stage.node(self.author).machine.prepared
            entries = tuple(held[slot] for slot in sorted(held))
        else:
            entries = tuple(self._entry(word) for word in words.split(";") if word)
        stable = int(given.get("stable", "0"))
        return ViewChangeSent(
            int(given["to"]), stable, self.references(given.get("checkpoint", "")), entries
        )

    def _entry(self, words: str) -> PreparedEntry:
        slot, view, digest, proposal, prepares = words.split("/")
        return PreparedEntry(
            int(slot),
            int(view),
            self.digest(digest),
            self.reference(proposal),
            self.references(prepares),
        )

    def _new_view(self, given: Fields) -> Body:
        """``slots`` is ``true``, empty, or ``slot/digest`` by ``;``."""
        changes = self.references(given["changes"])
        words = given.get("slots", "true")
        if words == "true":
            found = [self.stage.find(each) for each in changes]
            slots = plan(self.stage.group, (each.content for each in found if each)).slots
        else:
            parts = [word.split("/") for word in words.split(";") if word]
            slots = tuple(SlotProposal(int(slot), self.digest(digest)) for slot, digest in parts)
        return NewViewSent(int(given["to"]), changes, slots)
