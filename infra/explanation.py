"""A coordination in words: who asked, who coordinated, who said what, and what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..core.audit.replay import Step
from ..core.errors import NotFoundError
from .evidence_words import NOUNS
from .replica_story import ReplicaStory, story_in_words

IN_FORCE = "in force"
_ENDINGS = ("coordination.decided", "coordination.failed", "coordination.cancelled")
_REFUSED_HINT = (
    "See which agents refused, and why; more time helps only where replicas were silent."
)
_LATE = frozenset({"late", "terminal", "wrong_phase"})


class Said(msgspec.Struct, frozen=True):
    """One event of a participant.

    Attributes:
        sequence, type: the event.
        words: what it says.
        effect: empty if it counted, else the reason why it has no effect.
    """

    sequence: int
    type: str
    words: str
    effect: str = ""


class Voice(msgspec.Struct, frozen=True):
    """One participant.

    Attributes:
        agent, controller: who.
        weight_ppm: its share of all weight.
        said: its events, in order.
        standing: ``heard``, ``silent``, ``void``, ``late`` or ``awaited``.
    """

    agent: str
    controller: str
    weight_ppm: int
    said: tuple[Said, ...]
    standing: str


class Claim(msgspec.Struct, frozen=True):
    """A coordinator and the term it claimed."""

    coordinator: str
    term: int
    at: str


class Explanation(msgspec.Struct, frozen=True):
    """What ``mabeam coord show`` says.

    Attributes:
        coordination, protocol, status: which one and how it stands.
        requester, requested_at: who asked and when.
        claims: coordinators, oldest first; only the last one is in force.
        voices: participants by id.
        strangers: events of others without effect, as (author, words, reason).
        ending: body of the terminal event.
        ending_type: its type, empty while the coordination is open.
        waiting_for: whose events would move it on.
        duration_ms: opening to ending by storage times.
        config: the frozen parameters.
        events: records stored.
        replicas: what the replicas did, where replicas decided.
    """

    coordination: str
    protocol: str
    status: str
    requester: str
    requested_at: str
    claims: tuple[Claim, ...]
    voices: tuple[Voice, ...]
    strangers: tuple[tuple[str, str, str], ...]
    ending: dict[str, Any] | None
    ending_type: str
    waiting_for: tuple[str, ...]
    duration_ms: int | None
    config: dict[str, Any]
    events: int
    replicas: ReplicaStory | None = None


def explain(
    coordination: str, steps: Sequence[Step], replicas: ReplicaStory | None = None
) -> Explanation:
    """Explain a coordination from its steps, and what its replicas did if it has any.

    Raises:
        NotFoundError: there are none.
    """
    if not steps:
        raise NotFoundError(
            f"there is no coordination {coordination!r}", hint="See 'mabeam coord ls'."
        )
    counted = [step for step in steps if step.verdict == IN_FORCE]
    request = _first(counted, "coordination.requested")
    opened = _first(counted, "coordination.opened")
    known = opened or request
    ending = next((step for step in counted if step.type in _ENDINGS), None)
    members = opened.content["participants"] if opened else []
    names = {member["agent_id"] for member in members}
    content = ending.content if ending else None
    return Explanation(
        coordination,
        known.content["protocol"] if known else "unknown",
        steps[-1].phase,
        request.author if request else "unknown",
        _at(request.stored_ns) if request else "",
        tuple(
            Claim(step.author, step.content["term"], _at(step.stored_ns))
            for step in counted
            if step.type == "coordination.claimed"
        ),
        tuple(_voices(members, steps, ending)),
        tuple(
            (step.author or "somebody", step.type or "an unreadable record", step.verdict)
            for step in steps
            if step.verdict != IN_FORCE and step.author not in names
        ),
        content,
        ending.type if ending else "",
        steps[-1].waiting_for,
        (ending.stored_ns - opened.stored_ns) // 1_000_000 if ending and opened else None,
        opened.content["config"] if opened else (request.content["config"] if request else {}),
        len(steps),
        replicas,
    )


def in_words(explanation: Explanation) -> Iterator[str]:
    """The lines for people."""
    it = explanation
    yield f"{it.coordination}: {it.protocol}, {_verdict(it)}"
    yield f"asked by {it.requester} at {it.requested_at}{_proposal(it.config)}"
    if before := it.config.get("predecessor"):
        yield (
            f"goes on from {before['coordination']} behind its slot {before['sequence']}, "
            f"state {_cut(before['state_root'])}"
        )
    for place, claim in enumerate(it.claims):
        verb = "coordinated by" if place == 0 else "taken over by"
        yield f"{verb} {claim.coordinator} (term {claim.term}) at {claim.at}"
    if not it.claims:
        yield "no coordinator has claimed it yet"
    for voice in it.voices:
        share = f"{voice.weight_ppm / 10_000:.2f} % of the weight"
        yield f"  {voice.agent} ({share}, {voice.controller}): {_voice_words(voice)}"
    for author, what, reason in it.strangers:
        yield f"  without effect: {what} of {author} ({reason})"
    if it.replicas is not None:
        yield from story_in_words(it.replicas)
    yield from _ending_words(it)
    if it.replicas is not None and it.ending_type != "coordination.decided":
        yield from _tolerance_words(msgspec.to_builtins(it.replicas.tolerance))


def _voices(members: Sequence[Any], steps: Sequence[Step], ending: Step | None) -> Iterator[Voice]:
    total = sum(member["weight"] for member in members) or 1
    outcome = (ending.content.get("outcome") or {}) if ending else {}
    for member in members:
        said = tuple(
            Said(
                step.sequence,
                step.type,
                _words(step),
                "" if step.verdict == IN_FORCE else step.verdict,
            )
            for step in steps
            if step.author == member["agent_id"]
        )
        yield Voice(
            member["agent_id"],
            member["controller"],
            member["weight"] * 1_000_000 // total,
            said,
            _standing(member["agent_id"], said, outcome, ending is None),
        )


def _standing(agent: str, said: Sequence[Said], outcome: dict[str, Any], running: bool) -> str:
    if agent in outcome.get("void", ()):
        return "void"
    if any(not each.effect for each in said):
        return "heard"
    if any(each.effect in _LATE for each in said):
        return "late"
    return "awaited" if running else "silent"


def _words(step: Step) -> str:
    content = step.content if isinstance(step.content, dict) else {}
    if content.get("failure"):
        return f"could not answer ({content['failure']})"
    if "option" not in content:
        return NOUNS.get(step.type) or step.type.replace(".", ": ").replace("_", " ")
    words = f"voted {content['option']}"
    if content.get("confidence_ppm") is not None:
        words += f" with confidence {content['confidence_ppm'] / 1_000_000:.2f}"
    if content.get("ballot", 1) > 1:
        words += f" in ballot {content['ballot']}"
    return words


def _voice_words(voice: Voice) -> str:
    if voice.standing == "void":
        said = ", ".join(each.words for each in voice.said)
        return f"void, it signed contradicting events ({said})"
    if not voice.said:
        return {"awaited": "not heard yet"}.get(voice.standing, "silent")
    counted = Counter(
        f"{each.words} (no effect: {each.effect})" if each.effect else each.words
        for each in voice.said
    )
    return "; ".join(f"{words} x {n}" if n > 1 else words for words, n in counted.items())


def _verdict(it: Explanation) -> str:
    if it.ending is None:
        return it.status
    if it.ending_type == "coordination.failed":
        return f"failed: {it.ending.get('code')}"
    if it.ending_type == "coordination.cancelled":
        return "cancelled"
    outcome = it.ending.get("outcome") or {}
    if "successor" in outcome:
        return (
            f"handed over to {outcome['successor']} at slot {outcome['sequence']}, "
            f"state {_cut(outcome['state_root'])}"
        )
    return f"decided: {outcome.get('decision', outcome.get('result', 'see the outcome'))}"


def _ending_words(it: Explanation) -> Iterator[str]:
    if it.ending is None:
        waiting = ", ".join(it.waiting_for) or "nobody in particular"
        yield f"open ({it.status}), waiting for {waiting}"
        return
    took = f" after {it.duration_ms} ms" if it.duration_ms is not None else ""
    yield f"{_verdict(it)}{took}"
    if it.ending_type != "coordination.decided":
        timed_out = it.ending.get("code") == "timeout"
        refused = timed_out and it.replicas is not None and it.replicas.refused
        for key in ("message", "hint", "reason"):
            if it.ending.get(key):
                yield f"{key}: {_REFUSED_HINT if key == 'hint' and refused else it.ending[key]}"
        return
    outcome = it.ending.get("outcome") or {}
    if "vote_ratio_ppm" in outcome:
        rule, basis = outcome.get("rule", ""), outcome.get("decided_by", "")
        share = outcome["vote_ratio_ppm"] / 10_000
        needed = outcome.get("threshold_ppm")
        bound = f", {needed / 10_000:.2f} % needed" if needed is not None else ""
        yield f"rule {rule}: {share:.2f} % of all weight{bound}; decided by {basis}"
    for key in ("dissenters", "silent", "void"):
        if outcome.get(key):
            yield f"{key}: {', '.join(outcome[key])}"
    yield from _tolerance_words(outcome.get("tolerance"))


def _tolerance_words(label: dict[str, Any] | None) -> Iterator[str]:
    if not label:
        return
    faults = f"{label['f']} Byzantine" if label["f"] else "crashes and silence only"
    yield (
        f"tolerance: order by {label['ordering']}, n = {label['n']}, tolerates {faults}, "
        f"q = {label['q']}; assumes {', '.join(label['assumes']) or 'nothing'}"
    )


def _proposal(config: dict[str, Any]) -> str:
    if config.get("proposal") is None:
        return ""
    text = json.dumps(config["proposal"], ensure_ascii=False)
    return f": {text if len(text) <= 200 else text[:197] + '...'}"


def _cut(digest: str) -> str:
    return digest[:12]


def _first(steps: Sequence[Step], type: str) -> Step | None:
    return next((step for step in steps if step.type == type), None)


def _at(stored_ns: int) -> str:
    return datetime.fromtimestamp(stored_ns / 1e9, UTC).isoformat(timespec="milliseconds")
