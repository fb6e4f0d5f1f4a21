"""Looks into the replicas of a world while it runs: agreement is checked after every delivery.

Nothing is changed in a replica: the production host is given the production machine, and this one
is told what it executed.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ....core.log import Record
from ....core.machine import Context, LogEvent
from ....core.sim.world import World
from ....protocols.byzantine.events import NEW_VIEW, VIEW_CHANGE
from ....protocols.byzantine.replica import ByzantineReplica


class _Watched(ByzantineReplica):
    """The production machine; it reports every slot it executes."""

    witness: Witness
    reported = 0
    halted = False
    highest_view = -1
    has_lived = False

    def restore(self, state: bytes) -> None:
        """Begin with a snapshot."""
        super().restore(state)
        self.has_lived = True
        self.reported = self.executor.executed

    def apply(self, event: LogEvent) -> None:
        """Fold one event."""
        self.has_lived = self.has_lived or event.author in self.group.replicas
        try:
            super().apply(event)
        finally:
            if event.id in self.witness.lies:
                self._note_lie(event)
            if self.executor.executed > self.reported or self.executor.fork is not None:
                self.witness.look(self)
            if self.views.view > self.highest_view:
                self.highest_view = self.views.view
                self.witness.longest_ms = max(self.witness.longest_ms, self._timeout_ms())

    def _note_lie(self, event: LogEvent) -> None:
        """A view change, or a NEW-VIEW, that counts here although it is a lie."""
        views, told = self.views, event.event.header.type
        if told == VIEW_CHANGE:
            counts = event in views.view_changes(event.content.new_view)
        else:
            counts = told == NEW_VIEW and views.is_active and views.standing == event.id
        if counts:
            self.witness.note_believed(self.context.author, event)


class Witness:
    """What the honest replicas of a world have executed.

    Attributes:
        replicas: the machine of every process life, by author, of honest authors only.
        longest_ms: longest view time-out any of them has used.
        expected: honest replicas that must get somewhere, by coordination.
        handed_over: coordinations whose replicas must come to an end.
        found: what did not hold, when it happened.
    """

    def __init__(self, world: World) -> None:
        self.replicas: dict[tuple[str, str], list[_Watched]] = {}
        self.longest_ms = 0
        self.expected: dict[str, list[str]] = {}
        self.handed_over: set[str] = set()
        self.found: list[str] = []
        self._world = world
        self._believed: set[bytes] = set()
        self._slots: dict[tuple[str, int], tuple[bytes, tuple[bytes, ...], bytes]] = {}

    def participant(self, context: Context) -> ByzantineReplica:
        """A machine for a host."""
        machine: ByzantineReplica
        if context.author in self._world.dishonest:
            machine = ByzantineReplica(context)
            return machine
        machine = _Watched(context)
        machine.witness = self
        self.replicas.setdefault((context.coordination, context.author), []).append(machine)
        return machine

    @property
    def lies(self) -> dict[bytes, str]:
        """See :class:`~mabeam.core.sim.world.World`."""
        return self._world.lies

    def note_believed(self, author: str, event: LogEvent) -> None:
        """A lie moved an honest replica; the first one is noted."""
        if event.id not in self._believed:
            self._believed.add(event.id)
            told = event.event.header
            what = f"{told.type.partition('.')[2]} to view {event.content.new_view}"
            self._world.note(f"{author} counts {told.author}'s {what}: {self.lies[event.id]}")

    def look(self, machine: _Watched) -> None:
        """Compare what a replica has just executed with what others have."""
        author, name = machine.context.author, machine.context.epoch.hex()
        if machine.executor.fork is not None and not machine.halted:
            machine.halted = True
            self._find(f"agreement: {author} holds two commit certificates for one slot")
        for slot in machine.executor.log:
            if slot.sequence <= machine.reported:
                continue
            value = slot.digest, slot.requests, slot.root
            if self._slots.setdefault((name, slot.sequence), value) != value:
                self._find(f"agreement: {author} executes another slot {slot.sequence}")
        machine.reported = machine.executor.executed

    def lives(self, coordination: str) -> Iterator[tuple[str, ByzantineReplica]]:
        """The machine each honest replica had last, by author; one that never folded an event of a
        replica only served to look at an invitation that came again."""
        for (name, author), machines in self.replicas.items():
            if name == coordination:
                lived = (each for each in reversed(machines) if each.has_lived)
                yield author, next(lived, machines[-1])

    def late(self, coordination: str) -> list[str]:
        """Replicas that take part, know of something to do and have not done it."""
        expected = self.expected.get(coordination, ())
        lives = {each: life for each, life in self.lives(coordination) if each in expected}
        ends = coordination in self.handed_over
        return [author for author, life in lives.items() if not _is_done(life, ends)]

    def is_done(self, coordination: str) -> bool:
        """Whether all replicas that must have executed everything they know."""
        return any(self.lives(coordination)) and not self.late(coordination)

    def note_late(self, coordination: str) -> None:
        """The time for that is over."""
        replicas = {author for _, author in self.replicas} | self._world.dishonest.keys()
        lost = self._world.network.lost
        if any(".pub." not in each.subject or _author(each) not in replicas for each in lost):
            return  # what the log has lost of coordinators and clients is theirs to repeat
        for author in self.late(coordination):
            self._find(f"liveness: {author} has not executed everything in {coordination}")

    def _find(self, message: str) -> None:
        self.found.append(message)
        self._world.note_violation(message)

    def bound_s(self, margin_s: float) -> float:
        """How long after the last fault everything has executed."""
        return 2 * self.longest_ms / 1000 + margin_s


def _author(record: Record) -> str:
    return record.subject.rsplit(".", 1)[1]


def _is_done(machine: ByzantineReplica, ends: bool) -> bool:
    """Whether a replica has executed every request it knows, or is bound to silence; where the
    service is handed over, whether it has come to that end."""
    if machine.is_done():
        return True
    return not ends and machine.config.mode == "service" and machine.requests.oldest() is None


def watch(world: World, protocol: str) -> Witness:
    """Watch the replicas of a world from now on; agents started before are not seen."""
    witness = Witness(world)
    spec = msgspec.structs.replace(world.protocols[protocol], participant=witness.participant)
    world.protocols = {**world.protocols, protocol: spec}
    world.witnesses[protocol] = witness
    return witness
