"""A signed log in memory, written event by event, with an honest coordinator on call.

Whatever a test wants stored is stored: forged, early, twice or by the wrong author.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mabeam.core.author import Author
from mabeam.core.coordination import Coordination
from mabeam.core.envelope import Event
from mabeam.core.hashing import ZERO32
from mabeam.core.identity import Certificate, KeyPair, Role, issue_certificate
from mabeam.core.kernel_events import (
    AgentAdmitted,
    AgentRegistered,
    AgentRevoked,
    Body,
    CoordinationClaimed,
    CoordinationOpened,
    CoordinationRequested,
    Invitee,
)
from mabeam.core.log import Record
from mabeam.core.machine import After, Append, Intent, Protocols
from mabeam.core.names import REGISTRY, ROOT_AUTHOR, EventClass, event_subject
from mabeam.core.opening import OpeningError, open_request
from mabeam.core.replay import Replay
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import VOTE_CAST, VoteCast
from mabeam.protocols.simple.proposal import proposal_digest

NODE = "n1"
START_NS = 1_700_000_000_000_000_000
TICK_NS = 1_000_000
PROPOSAL = {"case": 7}


def key_of(name: str) -> KeyPair:
    """The same key for the same name in every run."""
    return KeyPair(name.encode().ljust(32, b"."))


class AuditLog:
    """A log with a root key; the clock advances one millisecond per event."""

    def __init__(self, *, root: KeyPair | None = None, protocols: Protocols = PROTOCOLS) -> None:
        self.protocols = protocols
        self.root = root or key_of(ROOT_AUTHOR)
        self.now_ns = START_NS
        self.records: list[Record] = []
        self.certificates: dict[str, bytes] = {}
        self.replay = Replay(self.root.public_key, protocols)
        self._authors = {ROOT_AUTHOR: Author(ROOT_AUTHOR, NODE, self.root, lambda: self.now_ns)}
        self._serial = 0

    def author(self, id: str) -> Author:
        """The signer of an id."""
        return self._authors[id]

    def fold(self, coordination: str = "c1") -> Coordination:
        """What the log says about a coordination."""
        fold = self.replay.coordination(coordination)
        assert fold is not None
        return fold

    # Storing ----------------------------------------------------------------------------------

    def store(self, wire: bytes, subject: str) -> Record:
        """Store bytes under a subject."""
        self.now_ns += TICK_NS
        record = Record(len(self.records) + 1, self.now_ns, subject, wire)
        self.records.append(record)
        self.replay.feed([record])
        return record

    def put(self, event: Event, event_class: EventClass = "pub") -> Record:
        """Store a signed event where it belongs."""
        header = event.header
        subject = event_subject(header.coordination, event_class, header.type, NODE, header.author)
        return self.store(event.wire, subject)

    def append(
        self,
        author: str,
        kind: str,
        body: Body,
        event_class: EventClass = "ctl",
        *,
        coordination: str = "c1",
        refs: tuple[bytes, ...] = (),
        epoch: bytes | None = None,
    ) -> Record:
        """Sign and store an event."""
        if epoch is None:
            fold = self.replay.coordination(coordination)
            epoch = fold.epoch if fold is not None else b""
        event = self._authors[author].sign(coordination, epoch, kind, body, refs)
        return self.put(event, event_class)

    def fork(self, author: str, kind: str, body: Body, *, coordination: str = "c1") -> Record:
        """Store a second event under the number of the author's last one (E7)."""
        signer = self._authors[author]
        last = next(
            record
            for record in reversed(self.records)
            if record.subject.endswith(f".{author}") and f".{coordination}." in record.subject
        )
        header = msgspec.msgpack.decode(msgspec.msgpack.decode(last.wire)[0])
        twin = Author(author, NODE, signer.key, lambda: self.now_ns)
        twin.resume(coordination, header[6], header[7], header[9])
        return self.put(twin.sign(coordination, self.fold(coordination).epoch, kind, body))

    # Registry ---------------------------------------------------------------------------------

    def certify(
        self, id: str, roles: Iterable[Role], key: KeyPair | None = None, controller: str = ""
    ) -> bytes:
        """A certificate by this root."""
        self._serial += 1
        pair = key or key_of(id)
        certificate = Certificate(
            id, tuple(roles), pair.public_key, "", controller or id, "root", 0, 2**62, self._serial
        )
        return issue_certificate(certificate, self.root)

    def admit(self, id: str, *roles: Role) -> None:
        """Admit an id; agents register."""
        self.certificates[id] = self.certify(id, roles)
        self._authors[id] = Author(id, NODE, key_of(id), lambda: self.now_ns)
        self.append(
            ROOT_AUTHOR,
            "agent.admitted",
            AgentAdmitted(self.certificates[id]),
            coordination=REGISTRY,
        )
        if "agent" in roles:
            body = AgentRegistered(NODE, ("vote",))
            self.append(id, "agent.registered", body, "pub", coordination=REGISTRY)

    def revoke(self, id: str) -> None:
        """End all keys of an id."""
        self.append(ROOT_AUTHOR, "agent.revoked", AgentRevoked(id), coordination=REGISTRY)

    # Playing ----------------------------------------------------------------------------------

    def request(self, agents: Sequence[str], coordination: str = "c1", **config: Any) -> Record:
        """Ask for a simple consensus."""
        body = CoordinationRequested(
            "simple_consensus",
            {"proposal": PROPOSAL, **config},
            tuple(Invitee(agent) for agent in agents),
        )
        return self.append(
            "client", "coordination.requested", body, "req", coordination=coordination
        )

    def claim(self, coordinator: str = "coord-1", coordination: str = "c1") -> Record:
        """Claim it."""
        claim = self.fold(coordination).claim
        body = CoordinationClaimed(self.fold(coordination).term + 1, claim.id if claim else ZERO32)
        return self.append(coordinator, "coordination.claimed", body, coordination=coordination)

    def opening(self, coordinator: str = "coord-1", coordination: str = "c1") -> CoordinationOpened:
        """What it has to be opened with now."""
        request = self.fold(coordination).request
        assert request is not None
        return open_request(request, self.replay.keyring, coordinator, self.protocols)

    def open(
        self,
        coordinator: str = "coord-1",
        coordination: str = "c1",
        body: CoordinationOpened | None = None,
    ) -> Record:
        """Open it, or answer that this cannot be done."""
        request = self.fold(coordination).request
        assert request is not None
        kind, content = "coordination.opened", body
        try:
            content = content or self.opening(coordinator, coordination)
        except OpeningError as error:
            return self.append(
                coordinator, "coordination.failed", error.body(), coordination=coordination
            )
        return self.append(
            coordinator, kind, content, coordination=coordination, refs=(request.id,)
        )

    def next(self, *, due: bool = False, coordination: str = "c1") -> Append:
        """The coordinator's next append; with ``due`` the next that waits for a time."""
        for intent in self.fold(coordination).intents():
            append = _append(intent, due)
            if append is not None:
                return append
        raise AssertionError("the machine intends nothing")

    def advance(
        self, coordinator: str = "coord-1", coordination: str = "c1", *, due: bool = False
    ) -> Record:
        """The coordinator does what its machine intends."""
        intent = self.next(due=due, coordination=coordination)
        return self.append(
            coordinator, intent.type, intent.body, refs=intent.refs, coordination=coordination
        )

    def pass_time(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ns += milliseconds * 1_000_000

    def vote(
        self, agent: str, option: str = "agree", coordination: str = "c1", ballot: int = 1
    ) -> Record:
        """An agent votes."""
        body = vote(option, ballot)
        return self.append(agent, VOTE_CAST, body, "pub", coordination=coordination)


def vote(option: str, ballot: int = 1) -> VoteCast:
    """The body of a vote."""
    return VoteCast(ballot, proposal_digest(PROPOSAL), option)


def _append(intent: Intent, due: bool) -> Append | None:
    if due:
        return intent.then if isinstance(intent, After) else None
    return intent if isinstance(intent, Append) else None


def deployment(agents: int = 3) -> AuditLog:
    """Two coordinators, a client and agents ``a-1``, ``a-2`` …, all admitted."""
    log = AuditLog()
    log.admit("coord-1", "coordinator")
    log.admit("coord-2", "coordinator")
    log.admit("client", "client")
    for number in range(1, agents + 1):
        log.admit(f"a-{number}", "agent")
    return log


def opened(agents: int = 3, **config: Any) -> AuditLog:
    """A deployment whose coordination ``c1`` has its ballot open."""
    log = deployment(agents)
    log.request([f"a-{number}" for number in range(1, agents + 1)], **config)
    log.claim()
    log.open()
    log.advance()
    return log


def decided(agents: int = 3, **config: Any) -> AuditLog:
    """One whose coordination ``c1`` ended in agreement by all votes."""
    log = opened(agents, threshold_ppm=1_000_000, **config)
    for number in range(1, agents + 1):
        log.vote(f"a-{number}")
    log.advance()
    return log
