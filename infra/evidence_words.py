"""What a proof of misbehaviour says, in words a person understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.machine import LogEvent
from ..protocols.byzantine.events import (
    CHECKPOINT,
    COMMIT,
    HANDOVER,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REPLY,
    REQUEST,
    VIEW_CHANGE,
)
from ..protocols.simple.events import VOTE_CAST

NOUNS = {
    VOTE_CAST: "vote",
    REQUEST: "request",
    HANDOVER: "handover",
    PRE_PREPARE: "proposal",
    PREPARE: "prepare",
    COMMIT: "commit",
    CHECKPOINT: "checkpoint",
    VIEW_CHANGE: "view change",
    NEW_VIEW: "NEW-VIEW",
    REPLY: "reply",
}
"""What people call an event, by its type."""


def proof_in_words(rule: str, accused: str, events: Sequence[LogEvent]) -> str:
    """One sentence without a full stop.

    Args:
        rule: ``E1`` … ``E9``.
        accused: whose key signed it.
        events: the proof, the accused's offending event first; empty if it cannot be read.
    """
    if not events:
        return f"{accused} is said to have broken {rule}"
    first, last = events[0], events[-1]
    content = first.content
    if rule in ("E1", "E4"):
        return f"{accused} signed two different {noun(first)}s{_where(content)}"
    if rule == "E7":
        number = first.event.header.author_seq
        return f"{accused} signed two events under number {number} of its chain"
    if rule == "E2" and last.type == VIEW_CHANGE:
        return (
            f"{accused} committed slot {content.sequence} in view {content.view} and hid it in its "
            f"view change to view {last.content.new_view}"
        )
    if rule == "E3" and first.type == NEW_VIEW:
        return (
            f"{accused} started view {content.new_view} with a NEW-VIEW that does not follow from "
            "the view changes it names"
        )
    if rule == "E5":
        return f"{accused} signed a {noun(first)}{_where(content)} against that view's NEW-VIEW"
    if rule == "E6":
        return (
            f"{accused} reported a state after slot {content.sequence} that does not follow from "
            "the slots it executed"
        )
    if rule == "E8":
        return f"{accused} signed a {noun(last)}{_where(last.content)} after its own deadline"
    return f"{accused} broke {rule}"


def noun(event: LogEvent) -> str:
    """What people call the event."""
    return NOUNS.get(event.type, event.type.partition(".")[2].replace("_", " "))


def _where(content: Any) -> str:
    if hasattr(content, "view") and hasattr(content, "sequence"):
        return f" for slot {content.sequence} in view {content.view}"
    for field, words in _PLACES.items():
        if hasattr(content, field):
            return f" {words} {getattr(content, field)}"
    return ""


_PLACES = {
    "new_view": "to view",
    "client_seq": "under number",
    "sequence": "for slot",
    "ballot": "in ballot",
}
"""How to say where an event belongs, by the field that tells."""
