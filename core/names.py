"""Identifiers and the subject layout: where in the log an event belongs, by its header."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import msgspec

from .errors import UsageError

EventClass = Literal["ctl", "pub", "req"]
"""Subject class: ``ctl`` coordinators and operators, ``pub`` everyone else, ``req`` requests."""

ID_PATTERN = r"^[a-z0-9_-]{1,32}\Z"
TYPE_PATTERN = r"^[a-z]{1,20}\.[a-z_]{1,40}\Z"

AgentId = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
CoordinationId = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
TypeName = Annotated[str, msgspec.Meta(pattern=TYPE_PATTERN)]

REGISTRY = "_registry"
"""The standing coordination that holds admissions, revocations, registrations and health."""

ROOT_AUTHOR = "root"
"""Author id reserved for the operator's root key."""

PREFIX = "mabeam.v1"
EVENT_SUBJECTS = f"{PREFIX}.evt.>"
FEED_SUBJECTS = f"{PREFIX}.feed.>"
WORK_SUBJECTS = f"{PREFIX}.work.>"
PRESENCE_SUBJECTS = f"{PREFIX}.presence.>"
REQUEST_SUBJECTS = f"{PREFIX}.evt.*.req.>"

_ID = re.compile(ID_PATTERN)


def check_id(value: str, what: str = "id") -> str:
    """Return ``value`` if it is a legal identifier, else raise :class:`UsageError`."""
    if not _ID.match(value):
        raise UsageError(
            f"{what} {value!r} is not of the form [a-z0-9_-]{{1,32}}",
            hint="Use lower-case letters, digits, '_' and '-', at most 32 characters.",
        )
    return value


def is_reserved(coordination: str) -> bool:
    """Whether the name is kept for standing coordinations, such as the registry."""
    return coordination.startswith("_")


def is_requestable(coordination: str) -> bool:
    """Whether a coordination of this name may be requested; any text is taken."""
    return _ID.match(coordination) is not None and not is_reserved(coordination)


def event_subject(
    coordination: str, event_class: EventClass, type_name: str, node: str, author: str
) -> str:
    """Subject on which the event is stored."""
    token = type_name.replace(".", "_")
    return f"{PREFIX}.evt.{coordination}.{event_class}.{token}.{node}.{author}"


class Place(NamedTuple):
    """What a subject says about the event stored under it; empty strings where it says nothing."""

    coordination: str
    event_class: str
    type_name: str
    author: str


@lru_cache(maxsize=16_384)
def place_of(subject: str) -> Place:
    """Inverse of :func:`event_subject` but for the node; any text is taken."""
    tokens = subject.split(".")
    if len(tokens) != 8:
        return Place("", "", "", "")
    coordination, event_class, token, node, author = tokens[3:]
    type_name = token.replace("_", ".", 1)  # families have no underscore
    if subject != f"{PREFIX}.evt.{coordination}.{event_class}.{token}.{node}.{author}":
        return Place(coordination, "", "", "")
    return Place(coordination, event_class, type_name, author)


def control_filter(coordination: str) -> str:
    """All ``ctl`` subjects of a coordination: the scope of optimistic concurrency."""
    return f"{PREFIX}.evt.{coordination}.ctl.>"


def coordination_filter(coordination: str) -> str:
    """All subjects of a coordination."""
    return f"{PREFIX}.evt.{coordination}.>"


def feed_filter(coordination: str) -> str:
    """The republished (live, lossy) copies of a coordination's events."""
    return f"{PREFIX}.feed.{coordination}.>"


def work_subject(node: str, agent: str, coordination: str) -> str:
    """Subject of an invitation."""
    return f"{PREFIX}.work.{node}.{agent}.{coordination}"


def presence_subject(node: str, agent: str) -> str:
    """Subject of an agent's heartbeat."""
    return f"{PREFIX}.presence.{node}.{agent}"
