"""A log of complete simple consensus coordinations, made without a server."""

from __future__ import annotations

import time

from ...core.author import Author
from ...core.coordination import Coordination
from ...core.hashing import ZERO32
from ...core.identity import Certificate, KeyPair, Role, issue_certificate
from ...core.kernel_events import (
    AgentAdmitted,
    AgentRegistered,
    Body,
    CoordinationClaimed,
    CoordinationRequested,
    Invitee,
)
from ...core.log import Record
from ...core.machine import Append, LogEvent
from ...core.names import REGISTRY, ROOT_AUTHOR, EventClass, event_subject
from ...core.opening import open_request
from ...core.replay import Replay
from ...protocols import PROTOCOLS
from ...protocols.simple.events import VoteCast

NODE = "bench"
VOTERS = tuple(f"voter-{number}" for number in range(1, 6))
COORDINATOR = "coordinator"
CLIENT = "client"


class SampleLog:
    """Signed records of a deployment with five voters.

    Attributes:
        records: in log order.
        root: the root key.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.root = KeyPair.generate()
        self._replay = Replay(self.root.public_key, PROTOCOLS)
        self._authors = {
            id: Author(id, NODE, KeyPair.generate(), time.time_ns)
            for id in (COORDINATOR, CLIENT, *VOTERS)
        }
        self._admit_all()

    def _admit_all(self) -> None:
        operator = Author(ROOT_AUTHOR, NODE, self.root, time.time_ns)
        for serial, (id, author) in enumerate(self._authors.items(), 1):
            role: Role = "agent" if id in VOTERS else "client" if id == CLIENT else "coordinator"
            certificate = Certificate(
                id, (role,), author.key.public_key, "", "ops", ROOT_AUTHOR, 0, 2**62, serial
            )
            wire = issue_certificate(certificate, self.root)
            self._put(operator, REGISTRY, b"", "agent.admitted", AgentAdmitted(wire), (), "ctl")
        for id in VOTERS:
            body = AgentRegistered(NODE)
            self._put(self._authors[id], REGISTRY, b"", "agent.registered", body, (), "pub")

    def _put(
        self,
        author: Author,
        coordination: str,
        epoch: bytes,
        type_name: str,
        body: Body,
        refs: tuple[bytes, ...],
        event_class: EventClass,
    ) -> LogEvent:
        event = author.sign(coordination, epoch, type_name, body, refs)
        subject = event_subject(coordination, event_class, type_name, NODE, author.id)
        sequence = len(self.records) + 1
        record = Record(sequence, time.time_ns(), subject, event.wire)
        self.records.append(record)
        content = self._replay.admission.decode_body(event)
        logged = LogEvent(sequence, record.stored_ns, event, content)
        if coordination == REGISTRY:
            self._replay.fold_registry(logged)
        return logged

    def add(self, coordination: str) -> None:
        """One coordination, from request to decision: ten events."""
        fold = Coordination(coordination, PROTOCOLS, self._replay.keyring.public_key)
        client, coordinator = self._authors[CLIENT], self._authors[COORDINATOR]
        request = CoordinationRequested(
            "simple_consensus",
            {"proposal": {"sample": coordination}, "early_exit": False},
            tuple(Invitee(id) for id in VOTERS),
        )
        requested = self._put(
            client, coordination, b"", "coordination.requested", request, (), "req"
        )
        fold.apply(requested)
        claim = CoordinationClaimed(1, ZERO32)
        fold.apply(
            self._put(coordinator, coordination, b"", "coordination.claimed", claim, (), "ctl")
        )
        opened = open_request(requested, self._replay.keyring, COORDINATOR, PROTOCOLS)
        refs = (requested.id,)
        fold.apply(
            self._put(coordinator, coordination, b"", "coordination.opened", opened, refs, "ctl")
        )
        ballot = self._step(fold, coordination)
        for id in VOTERS:
            vote = VoteCast(1, ballot.content.proposal_digest, "agree", 900_000)
            fold.apply(
                self._put(
                    self._authors[id],
                    coordination,
                    fold.epoch,
                    "simple.vote_cast",
                    vote,
                    (ballot.id,),
                    "pub",
                )
            )
        while fold.terminal is None:
            self._step(fold, coordination)

    def _step(self, fold: Coordination, coordination: str) -> LogEvent:
        """The coordinator's next append; a deadline counts as passed."""
        intent = next(iter(fold.intents()))
        append = intent if isinstance(intent, Append) else intent.then  # type: ignore[union-attr]
        event = self._put(
            self._authors[COORDINATOR],
            coordination,
            fold.epoch,
            append.type,
            append.body,
            append.refs,
            "ctl",
        )
        fold.apply(event)
        return event


def sample_log(events: int) -> SampleLog:
    """A log of at least ``events`` events."""
    log = SampleLog()
    number = 0
    while len(log.records) < events:
        log.add(f"sample-{number}")
        number += 1
    return log
