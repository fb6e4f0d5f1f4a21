"""A signed log of one Byzantine coordination: replicas do what their machines intend, or are told.

Nothing runs by itself: a test lets the replicas act, lets a timer pass, or writes what a liar says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from audit_log import TICK_NS, AuditLog

from mabeam.core.coordination import Coordination
from mabeam.core.errors import PeerProtocolError
from mabeam.core.kernel_events import CoordinationRequested, Invitee
from mabeam.core.log import Record
from mabeam.core.machine import After, Append, Ask, LogEvent
from mabeam.core.replay import Verdict
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.byzantine import SPEC
from mabeam.protocols.byzantine import Verdict as Opinion
from mabeam.protocols.byzantine.fold import ByzantineFold
from mabeam.protocols.ordered import replicas_in

KNOWN = {**PROTOCOLS, SPEC.name: SPEC}


def no_secret(label: str) -> bytes:
    """Replicas have no secrets."""
    raise AssertionError(label)


class ReplicaLog(AuditLog):
    """A deployment with ``count`` replicas r0, r1 … whose coordination ``c1`` is open.

    Args:
        count: n.
        protocol: what they decide or order.
        config: its parameters.

    Attributes:
        names: the replicas.
        verdicts: what became of each record.
    """

    def __init__(self, count: int = 4, protocol: str = SPEC.name, **config: Any) -> None:
        self.verdicts: list[Verdict] = []
        super().__init__(protocols=KNOWN)
        self.names = tuple(f"r{number}" for number in range(count))
        self.admit("coord-1", "coordinator")
        self.admit("client", "client")
        for name in self.names:
            self.admit(name, "agent")
        config = {"proposal": "A", **config}
        members = tuple(map(Invitee, self.names))
        body = CoordinationRequested(protocol, config, members, ordering="bft")
        self._read = len(self.records)
        self.append("client", "coordination.requested", body, "req")
        self.claim()
        self._folds = {
            name: Coordination(
                "c1",
                KNOWN,
                self.replay.keyring.public_key,
                role="participant",
                author=name,
                secret=no_secret,
                invited=True,
            )
            for name in self.names
        }
        self.open()

    def store(self, wire: bytes, subject: str) -> Record:
        """Store bytes under a subject and note what the log makes of them."""
        self.now_ns += TICK_NS
        record = Record(len(self.records) + 1, self.now_ns, subject, wire)
        self.records.append(record)
        self.verdicts += self.replay.feed([record])
        return record

    @property
    def machine(self) -> ByzantineFold:
        """The coordinator's fold of the replicas."""
        machine = replicas_in(self.fold().machine)
        assert machine is not None
        return machine

    def events(self) -> list[LogEvent]:
        """The admitted events of the coordination."""
        found = (verdict.event for verdict in self.verdicts)
        return [event for event in found if event is not None and event.coordination == "c1"]

    def _catch_up(self) -> None:
        for verdict in self.verdicts[self._read :]:
            for fold in self._folds.values():
                if verdict.event is not None and verdict.event.coordination == "c1":
                    self._show(fold, verdict.event)
        self._read = len(self.verdicts)

    def _show(self, fold: Coordination, event: LogEvent) -> None:
        with contextlib.suppress(PeerProtocolError):
            fold.apply(event)

    def act(self, names: Sequence[str] | None = None, *, without: Iterable[str] = ()) -> None:
        """Let replicas sign what they intend until nobody intends anything."""
        active = [each for each in names or self.names if each not in without]
        while any(self._act_once(name) for name in active):
            pass

    def _act_once(self, name: str) -> bool:
        self._catch_up()
        for intent in self._folds[name].intents():
            append = intent.reply(Opinion.accept()) if isinstance(intent, Ask) else intent
            if isinstance(append, Append):
                self.say(name, append)
                return True
        return False

    def say(self, name: str, append: Append) -> Record:
        """A replica signs something, whether it should or not."""
        return self.append(name, append.type, append.body, "pub", refs=append.refs)

    def intended(self, name: str) -> list[Append]:
        """What a replica would sign now, and what when its timers pass."""
        self._catch_up()
        found = []
        for intent in self._folds[name].intents():
            each = intent.reply(Opinion.accept()) if isinstance(intent, Ask) else intent
            found.append(each.then if isinstance(each, After) else each)
        return [each for each in found if isinstance(each, Append)]

    def time_out(self, *names: str) -> None:
        """The request timers of these replicas pass: they leave the view."""
        for name in names:
            change = next(e for e in self.intended(name) if e.key[0] == "view_change")
            self.say(name, change)

    def conclude(self) -> None:
        """The coordinator does everything its machine intends."""
        while any(isinstance(intent, Append) for intent in self.fold().intents()):
            self.advance()
