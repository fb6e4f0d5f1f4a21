"""Endings that another observer announced: right by what they name, not by how this one saw it.

Which commits complete a certificate first, which requests and deadlines were known by then and
which replicas were silent depends on the order in which the log shows events, and an untrusted log
may show every reader another order. What must hold does not: a decision rests on a commit
certificate of its slot and of all slots below (BYZ-21), a time-out on f + 1 deadlines (BYZ-22a),
its finality on chains that are complete up to them (BYZ-22b), a fork on two certificates (BYZ-9), a
handover on the certificate of the last slot and q checkpoints behind it (BYZ-24).

Each function answers ``True`` if the ending is right and ``False`` if that cannot be told from the
events at hand; later ones may tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from ...core.author import encode_body
from ...core.kernel_events import CoordinationFailed
from ...core.machine import LogEvent, decide
from .certificates import Lookup
from .config import Group
from .events import CHECKPOINT, COMMIT, DEADLINE_PASSED, OVERALL
from .execution import Decision, Executed
from .fold import ByzantineFold
from .forensics import culprits_of
from .outcome import certificates, handover_outcome, is_final, outcome

TIMEOUT_HINT = "See which replicas were silent; start again with a longer time or other replicas."


def certificates_in(
    lookup: Lookup, group: Group, refs: Sequence[bytes], first: int = 1
) -> list[Decision] | None:
    """The commit certificates these ids are, of slots ``first``, ``first + 1`` and so on.

    Returns:
        ``None`` if they are something else, or not at hand.
    """
    decisions: list[Decision] = []
    events = [event for event in map(lookup, refs) if event is not None and event.type == COMMIT]
    if len(events) != len(refs):
        return None
    for sequence, group_of_slot in groupby(events, lambda event: int(event.content.sequence)):
        commits = list(group_of_slot)
        said = {(event.content.view, event.content.batch_digest) for event in commits}
        signers = [event.author for event in commits]
        if sequence != first + len(decisions) or len(said) != 1:
            return None
        if signers != sorted(set(signers)) or len(signers) < group.q:
            return None
        if not set(signers) <= set(group.replicas):
            return None
        view, digest = said.pop()
        decisions.append(Decision(sequence, view, digest, tuple(event.id for event in commits)))
    return decisions


def is_decision_right(fold: ByzantineFold, slot: Executed, ending: LogEvent) -> bool:
    """Whether ``coordination.decided`` announces what ``slot`` decides, with certificates of its
    own."""
    chain = certificates_in(fold.store.get, fold.group, ending.event.header.refs)
    if not chain or chain[-1].sequence != slot.sequence:
        return False
    executor = fold.executor
    if any(executor.decisions[each.sequence].digest != each.digest for each in chain):
        return False
    others = ending.content.outcome.get("not_chosen")
    if not isinstance(others, list) or not all(
        isinstance(each, bytes) and each in fold.requests for each in others
    ):
        return False
    result = outcome(fold.group, fold.context.opened, executor, slot, chain[-1], others)
    return decide(result, ending.content.inputs_upto, certificates(chain)).matches(ending)


def is_handover_right(fold: ByzantineFold, slot: Executed, ending: LogEvent) -> bool:
    """Whether it names a certificate of the last slot, and q checkpoints of the state after it."""
    refs, asked = ending.event.header.refs, fold.executor.handover
    places = [at for at, each in enumerate(refs) if _is_checkpoint(fold.store.get(each), slot)]
    first = len(refs) - len(places)
    if asked is None or places != list(range(first, len(refs))):
        return False
    named = certificates_in(fold.store.get, fold.group, refs[:first], slot.sequence)
    signers = [event.author for event in map(fold.store.get, refs[first:]) if event is not None]
    if not named or len(named) > 1 or named[0].digest != slot.digest:
        return False
    if signers != sorted(set(signers)) or len(signers) < fold.group.q:
        return False
    if not set(signers) <= set(fold.group.replicas):
        return False
    opened, stated = fold.context.opened, ending.content.inputs_upto
    result = handover_outcome(fold.group, opened, asked, slot, named[0], refs[first:])
    return decide(result, stated, refs).matches(ending)


def _is_checkpoint(event: LogEvent | None, slot: Executed) -> bool:
    if event is None or event.type != CHECKPOINT:
        return False
    return bool((event.content.sequence, event.content.state_root) == (slot.sequence, slot.root))


def timed_out(
    group: Group,
    deadlines: Mapping[str, LogEvent],
    silent: Collection[str],
    refused: Mapping[str, str],
    *,
    final: bool,
) -> CoordinationFailed:
    """The failure after these replicas' overall deadlines."""
    return CoordinationFailed(
        "timeout",
        f"{len(deadlines)} replicas saw the time pass without a decision",
        TIMEOUT_HINT,
        {
            "deadline_passed": sorted(deadlines),
            "silent": [each for each in group.replicas if each in silent],
            "refused": dict(sorted(refused.items())),
            "insufficient_live_replicas": group.n - len(silent) < group.q,
        },
        final,
    )


def is_timeout_right(fold: ByzantineFold, ending: LogEvent, *, abandoned: bool) -> bool:
    """Whether f + 1 replicas saw the time pass, and it is final if it says so.

    Args:
        abandoned: whether the coordinator has given up waiting for them.
    """
    refs, group = ending.event.header.refs, fold.group
    deadlines: dict[str, LogEvent] = {}
    for event in map(fold.store.get, refs):
        if event is None or event.type != DEADLINE_PASSED or event.content.name != OVERALL:
            return False
        if event.author not in group.replicas:
            return False
        deadlines[event.author] = event
    if len(deadlines) != len(refs) or list(refs) != sorted(refs):
        return False
    if not abandoned and len(deadlines) <= group.f:
        return False
    content: CoordinationFailed = ending.content
    silent, refused = content.details.get("silent"), content.details.get("refused")
    if not isinstance(silent, list) or not isinstance(refused, dict):
        return False
    if not all(each in group.replicas and each not in deadlines for each in silent):
        return False
    if not all(isinstance(reason, str) for reason in refused.values()):
        return False
    if not refused.items() <= fold.refused:
        return False
    if content.final and not failure_is_final(fold, deadlines):
        return False
    expected = timed_out(group, deadlines, silent, refused, final=content.final)
    return encode_body(expected) == ending.event.body


def failure_is_final(fold: ByzantineFold, deadlines: Mapping[str, LogEvent]) -> bool:
    """BYZ-22b over these deadlines and the commits at hand."""
    bound = [
        author
        for author, event in deadlines.items()
        if fold.chains[author].complete > event.event.header.author_seq
    ]
    return is_final(fold.group, bound, (signers.keys() for _, signers in fold.commits.items()))


def is_fork_right(fold: ByzantineFold, ending: LogEvent) -> bool:
    """Whether it names two certificates for one slot, and culprits who are guilty."""
    events = [fold.store.get(each) for each in ending.event.header.refs]
    signers: dict[tuple[int, int, bytes], set[str]] = {}
    for event in events:
        if event is None or event.type != COMMIT:
            return False
        vote = event.content
        key = (vote.sequence, vote.view, vote.batch_digest)
        signers.setdefault(key, set()).add(event.author)
    slots = {(slot, digest) for slot, _, digest in signers}
    group, details = fold.group, ending.content.details
    if len(slots) != 2 or any(slot != details.get("sequence") for slot, _ in slots):
        return False
    if any(len(each & set(group.replicas)) < group.q for each in signers.values()):
        return False
    named: Any = details.get("culprits")
    if not isinstance(named, dict) or set(details) != {"sequence", "culprits"}:
        return False
    return named.keys() <= culprits_of(fold.store.events(), group).keys()
