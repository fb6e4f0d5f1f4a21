"""What must hold of every Byzantine coordination, recounted from the raw log and by other means.

None of this asks a replica whether it is right: votes are counted again from signed events, the
events are folded again in another order, and what the replicas executed is compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import suppress

from ....core.coordination import Coordination
from ....core.errors import PeerProtocolError
from ....core.machine import Context, LogEvent
from ....core.replay import Verdict
from ....core.sim.checkers import Observation
from ....protocols.byzantine import culprits_of
from ....protocols.byzantine.events import CHECKPOINT, COMMIT, HANDOVER, REQUEST
from ....protocols.byzantine.fold import ByzantineFold
from ....protocols.byzantine.replica import ByzantineReplica
from .witness import Witness

CANCEL = "coordination.cancel_requested"
DECIDED = "coordination.decided"
MAX_REREADS = 50
_OWN_WORD = ("internal_error",)
"""Failures that nobody but the coordinator vouches for."""


def judge(seen: Observation, protocol: str) -> Iterator[str]:
    """Everything that does not hold in the coordinations of a world."""
    witness: Witness | None = seen.world.witnesses.get(protocol)
    if witness is not None:
        yield from witness.found
    for name, fold in seen.folds.items():
        if fold.config is None or fold.config.protocol != protocol:
            continue
        observed = fold.machine
        assert isinstance(observed, ByzantineFold)
        events = _events(seen.of(name), fold)
        checks = (
            _certificates,
            _operations,
            _handover,
            _order,
            _announcement,
            _nobody_accused,
        )
        for check in checks:
            for message in check(seen, fold, observed, events):
                yield f"{name}: {check.__name__.strip('_')}: {message}"
        if witness is not None:
            for author, replica in witness.lives(name):
                for message in (
                    *_compare(author, replica, observed),
                    *_stops_alike(author, replica, observed),
                ):
                    yield f"{name}: {message}"


def _events(verdicts: Iterable[Verdict], fold: Coordination) -> list[LogEvent]:
    """All events of the coordination that are what they claim to be, effective or not."""
    found: dict[bytes, LogEvent] = {}
    for verdict in verdicts:
        event = verdict.event
        if event is None:
            continue
        epoch = event.event.header.epoch
        if epoch == fold.epoch or (event.type == CANCEL and not epoch):
            found.setdefault(event.id, event)
    return list(found.values())


def _certificates(
    seen: Observation, fold: Coordination, observed: ByzantineFold, events: list[LogEvent]
) -> Iterator[str]:
    """Every decided slot has q commits of distinct replicas for one view and digest; one digest a
    slot."""
    group = observed.group
    signers: dict[tuple[int, int, bytes], set[str]] = {}
    for event in events:
        if event.type == COMMIT and event.author in group.replicas:
            vote = event.content
            key = vote.sequence, vote.view, vote.batch_digest
            signers.setdefault(key, set()).add(event.author)
    certified: dict[int, set[bytes]] = {}
    for (sequence, _, digest), authors in signers.items():
        if 2 * len(authors) > group.n + group.f:
            certified.setdefault(sequence, set()).add(digest)
    for sequence, digests in sorted(certified.items()):
        if len(digests) > 1:
            yield f"slot {sequence} is committed with {len(digests)} digests"
    for slot in observed.executor.log:
        if certified.get(slot.sequence) != {slot.digest}:
            yield f"slot {slot.sequence} is executed without a certificate"
    terminal = fold.terminal
    if terminal is not None and terminal.type == "coordination.decided":
        named = terminal.content.outcome["commit_ids"]
        votes = [event for event in events if event.id in named]
        what = {(e.type, e.content.view, e.content.sequence, e.content.batch_digest) for e in votes}
        authors = {event.author for event in votes} & set(group.replicas)
        if len(what) != 1 or 2 * len(authors) <= group.n + group.f:
            yield f"the outcome rests on {len(authors)} signers of {len(what)} statements"


def _operations(
    seen: Observation, fold: Coordination, observed: ByzantineFold, events: list[LogEvent]
) -> Iterator[str]:
    """What executes was signed by a client, once per (client, number)."""
    assert fold.config is not None
    asked = {event.id: event for event in events if event.type in (REQUEST, CANCEL, HANDOVER)}
    done: set[tuple[str, str, int]] = set()
    for slot in observed.executor.log:
        for each in slot.requests:
            event = asked.get(each)
            if event is None and each != fold.config.request_id:
                yield f"slot {slot.sequence} executes {each.hex()[:12]}, which nobody signed"
            number = _number(event) if event else 0
            key = (event.author, event.type, number) if event else ("", "", 0)
            if key in done:
                yield f"slot {slot.sequence} executes a second operation of {key}"
            done.add(key)


def _number(event: LogEvent) -> int:
    """Requests are numbered by their client, handovers by its chain; of cancels one counts."""
    if event.type == HANDOVER:
        return event.event.header.author_seq
    return int(getattr(event.content, "client_seq", 0))


def _handover(
    seen: Observation, fold: Coordination, observed: ByzantineFold, events: list[LogEvent]
) -> Iterator[str]:
    """Nothing executes after a requester's handover unless a cancel came first; the outcome names
    the slot, its state, and checkpoints of q replicas that say so."""
    by_id = {event.id: event for event in events}
    order = [by_id.get(each) for slot in observed.executor.log for each in slot.requests]
    kinds = [event.type if event else "" for event in order]
    terminal, end = fold.terminal, None
    if HANDOVER in kinds:
        at = kinds.index(HANDOVER)
        event = order[at]
        assert event is not None
        if fold.request is None or event.author != fold.request.author:
            yield f"a handover of {event.author} has executed"
        if CANCEL not in kinds[:at]:
            end = event
            if at != len(kinds) - 1 or event.id not in observed.executor.log[-1].requests:
                yield f"{len(kinds) - 1 - at} requests execute after the handover"
    outcome = terminal.content.outcome if terminal and terminal.type == DECIDED else {}
    if outcome.get("result") != "handed_over":
        return
    slot = observed.executor.log[-1]
    if end is None or end.content.successor != outcome["successor"]:
        yield "it was handed over though nobody asked for that"
    votes = [by_id[each] for each in outcome["checkpoint_ids"] if each in by_id]
    said = {(e.type, e.content.sequence, e.content.state_root) for e in votes}
    authors = {event.author for event in votes} & set(observed.group.replicas)
    if said != {(CHECKPOINT, slot.sequence, slot.root)} or (
        2 * len(authors) <= observed.group.n + observed.group.f
    ):
        yield f"the handover rests on {len(authors)} checkpoints that say {len(said)} things"


def _stops_alike(author: str, replica: ByzantineReplica, observed: ByzantineFold) -> Iterator[str]:
    """A replica that has executed a handover stops where the observer of the whole log does, unless
    that has not come so far because the log lost something."""
    mine, theirs = replica.executor, observed.executor
    if mine.handover is None or (theirs.handover is None and theirs.executed < mine.executed):
        return
    if (mine.handover, mine.executed, mine.root) != (
        theirs.handover,
        theirs.executed,
        theirs.root,
    ):
        yield f"handover: {author} stops at slot {mine.executed}, the observer at {theirs.executed}"


def _order(
    seen: Observation, fold: Coordination, observed: ByzantineFold, events: list[LogEvent]
) -> Iterator[str]:
    """The same events in another order decide the same slots."""
    shuffled = list(events)
    random.Random(f"{seen.world.seed}/order").shuffle(shuffled)
    other = fold_again(fold, shuffled)
    yield from _compare("another order of the same events", other, observed)
    mine, theirs = observed.executor.executed, other.executor.executed
    if theirs < mine:
        yield f"another order of the same events decides {theirs} of {mine} slots"


def _announcement(
    seen: Observation, fold: Coordination, observed: ByzantineFold, events: list[LogEvent]
) -> Iterator[str]:
    """Whoever is shown the replicas' words in another order agrees with the coordinator's."""
    ended = fold.terminal
    if ended is None or fold.is_provisional or getattr(ended.content, "code", "") in _OWN_WORD:
        return
    other = observe_shuffled(seen, fold, random.Random(f"{seen.world.seed}/announcement"))
    if other.terminal is not ended:
        due = other.terminal.type if other.terminal else "none"
        yield f"{ended.type} is in force, but {due} where events come in another order"


def observe_shuffled(seen: Observation, fold: Coordination, rng: random.Random) -> Coordination:
    """An observer of the same records, those of coordinators in order and all others anywhere."""
    opened, control, said = False, [], []
    first: list[LogEvent] = []
    for verdict in seen.of(fold.id):
        if verdict.event is None:
            continue
        if not opened:
            first.append(verdict.event)
            opened = verdict.event is fold.opened
        elif verdict.record.subject.split(".", 5)[4] == "ctl":
            control.append(verdict.event)
        else:
            said.append(verdict.event)
    slots = [True] * len(control) + [False] * len(said)
    rng.shuffle(slots)
    rng.shuffle(said)
    takes = {True: iter(control), False: iter(said)}
    other = Coordination(fold.id, seen.world.protocols, seen.world.observer().keyring.public_key)
    for event in (*first, *(next(takes[slot]) for slot in slots)):
        _take(other, event)
    by_id = {event.id: event for event in said}
    for _ in range(MAX_REREADS):
        wanted = other.machine.wanted() if other.machine is not None else frozenset()
        found = [by_id[each] for each in sorted(wanted) if each in by_id]
        if not found:
            break
        for event in found:
            _take_again(other, event)
    return other


def _take_again(other: Coordination, event: LogEvent) -> None:
    with suppress(PeerProtocolError):
        other.fold_again(event)


def fold_again(fold: Coordination, events: Iterable[LogEvent]) -> ByzantineReplica:
    """A watching machine after these events, read again as long as it wants some of them."""
    assert fold.opened is not None
    opened = fold.opened.content
    machine = fold.machine
    assert isinstance(machine, ByzantineFold)
    context = Context(
        fold.id,
        fold.epoch,
        fold.opened.id,
        opened,
        machine.config,
        "",
        machine.context.secret,
        requester=machine.context.requester,
    )
    replica = ByzantineReplica(context)
    by_id = {event.id: event for event in events}
    queue = list(by_id.values())
    for _ in range(MAX_REREADS):
        for event in queue:
            _take(replica, event)
        queue = [by_id[each] for each in sorted(replica.wanted()) if each in by_id]
        if not queue:
            break
    return replica


def _take(machine: ByzantineFold | Coordination, event: LogEvent) -> None:
    try:
        machine.apply(event)
    except PeerProtocolError:
        return  # of no effect, as for everybody else


def _nobody_accused(
    seen: Observation, fold: Coordination, observed: ByzantineFold, events: list[LogEvent]
) -> Iterator[str]:
    """Forensics over everything signed accuses no honest replica."""
    for accused, proof in culprits_of(events, observed.group).items():
        if accused not in seen.world.dishonest:
            yield f"{accused} is accused under {proof.rule}"


def _compare(author: str, replica: ByzantineReplica, observed: ByzantineFold) -> Iterator[str]:
    """A replica and the observer of the whole log executed the same slots, as far as both did (and
    remember it)."""
    known = {slot.sequence: slot for slot in observed.executor.log}
    for mine in replica.executor.log:
        if known.get(mine.sequence, mine) != mine:
            yield f"agreement: {author} and the observer differ in slot {mine.sequence}"
            return
