"""Logs written by real authors with real keys, in memory, the same bytes every time."""

from __future__ import annotations

from typing import Any

import msgspec

from mabeam.core.author import Author
from mabeam.core.coordination import Coordination
from mabeam.core.envelope import Event, sign_event
from mabeam.core.evidence import evidence_of
from mabeam.core.hashing import ZERO32, sha256
from mabeam.core.identity import Certificate, KeyPair, Role, issue_certificate
from mabeam.core.kernel_events import (
    AgentAdmitted,
    AgentKeyRotated,
    AgentRegistered,
    AgentRevoked,
    Body,
    CancelRequested,
    CoordinationClaimed,
    CoordinationRequested,
    HealthChanged,
    Invitee,
)
from mabeam.core.log import Record
from mabeam.core.machine import After, Append, Protocols
from mabeam.core.names import REGISTRY, EventClass, event_subject
from mabeam.core.opening import OpeningError, open_request
from mabeam.core.replay import Replay, Verdict
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.simple.events import BallotOpened, VoteCast

CREATED_NS = 1_700_000_000_000_000_000
STEP_NS = 1_250_000
NODE = "node-1"
AGENTS = tuple(f"agent-{letter}" for letter in "abcde")


class Logbook:
    """A log and everything needed to go on writing it.

    Attributes:
        records: the log so far.
        root: the operator's root key.
        replay: the fold of the log so far.
        created_ns: creation time of the log.
        digests: the proposal's digest, by coordination.
    """

    def __init__(self, protocols: Protocols = PROTOCOLS) -> None:
        self.records: list[Record] = []
        self.root = KeyPair(sha256(b"root"))
        self.protocols = protocols
        self.replay = Replay(self.root.public_key, protocols)
        self.created_ns = CREATED_NS
        self.now_ns = CREATED_NS
        self.digests: dict[str, bytes] = {}
        self._authors: dict[str, Author] = {"root": self.new_author("root", self.root)}

    # Writing ----------------------------------------------------------------------------------

    def new_author(self, id: str, key: KeyPair | None = None) -> Author:
        """An author with chains of its own; a second one for an id is its evil twin."""
        return Author(id, NODE, key or KeyPair(sha256(id.encode())), lambda: self.now_ns)

    def author(self, id: str) -> Author:
        """The author that writes for ``id``."""
        return self._authors.setdefault(id, self.new_author(id))

    def use_author(self, author: Author) -> None:
        """From here on ``author`` writes for its id."""
        self._authors[author.id] = author

    def store(self, subject: str, wire: bytes, expect: str | None = None) -> Verdict:
        """Store bytes; fails unless they count, or are rejected for the reason expected."""
        self.now_ns += STEP_NS
        record = Record(len(self.records) + 1, self.now_ns, subject, wire)
        self.records.append(record)
        verdict = self.replay.feed([record])[0]
        reason = verdict.rejection.reason if verdict.rejection else None
        assert reason == expect, verdict.rejection
        return verdict

    def store_event(
        self, event: Event, event_class: EventClass | None = None, expect: str | None = None
    ) -> Verdict:
        """Store a signed event under its subject."""
        return self.store(self.subject(event, event_class), event.wire, expect)

    def subject(self, event: Event, event_class: EventClass | None = None) -> str:
        """The subject of an event; the class is the first that its type allows."""
        header = event.header
        if event_class is None:
            kind = self.replay.admission._catalog.get(header.type)
            event_class = sorted(kind.classes)[0] if kind else "pub"
        return event_subject(header.coordination, event_class, header.type, NODE, header.author)

    def append(
        self,
        author: str | Author,
        coordination: str,
        type_name: str,
        body: Body,
        refs: tuple[bytes, ...] = (),
        *,
        expect: str | None = None,
        epoch: bytes | None = None,
        event_class: EventClass | None = None,
    ) -> Event:
        """Sign and store the author's next event."""
        writer = self.author(author) if isinstance(author, str) else author
        if epoch is None:
            fold = self.replay.coordination(coordination)
            epoch = fold.epoch if fold else b""
        event = writer.sign(coordination, epoch, type_name, body, refs)
        self.store_event(event, event_class, expect)
        return event

    # Registry ---------------------------------------------------------------------------------

    def certificate(self, id: str, *roles: Role, **changes: Any) -> bytes:
        """A certificate signed by the root."""
        key: KeyPair = changes.pop("key", self.author(id).key)
        fields: dict[str, Any] = {
            "id": id,
            "roles": roles,
            "event_key": key.public_key,
            "nkey": "U" + id.upper(),
            "controller": "clinic",
            "sponsor": "root",
            "not_before_ns": 0,
            "not_after_ns": 2**62,
            "serial": 1,
        }
        return issue_certificate(Certificate(**(fields | changes)), self.root)

    def admit(self, id: str, *roles: Role, **changes: Any) -> None:
        """Admit ``id``; agents also register."""
        body = AgentAdmitted(self.certificate(id, *roles, **changes))
        self.append("root", REGISTRY, "agent.admitted", body)
        if "agent" in roles:
            body_ = AgentRegistered(NODE, ("vote",))
            self.append(id, REGISTRY, "agent.registered", body_)

    # Coordinations ----------------------------------------------------------------------------

    def fold(self, coordination: str) -> Coordination:
        """The fold of a coordination."""
        found = self.replay.coordination(coordination)
        assert found is not None
        return found

    def request(self, coordination: str, *agents: str, **config: Any) -> Event:
        """The client asks for a ballot."""
        config.setdefault("proposal", {"case": coordination})
        body = CoordinationRequested(
            "simple_consensus", config, tuple(Invitee(each) for each in agents or AGENTS)
        )
        return self.append("client", coordination, "coordination.requested", body)

    def claim(self, coordination: str, coordinator: str = "coordinator-1") -> Event:
        """A coordinator takes the coordination over."""
        fold = self.fold(coordination)
        body = CoordinationClaimed(fold.term + 1, fold.claim.id if fold.claim else ZERO32)
        return self.append(coordinator, coordination, "coordination.claimed", body)

    def open(self, coordination: str) -> None:
        """The coordinator opens, or says why it cannot."""
        fold = self.fold(coordination)
        assert fold.request is not None
        try:
            body: Body = open_request(
                fold.request, self.replay.keyring, fold.coordinator, self.protocols
            )
            type_name = "coordination.opened"
        except OpeningError as error:
            body, type_name = error.body(), "coordination.failed"
        self.append(fold.coordinator, coordination, type_name, body)

    def start(self, coordination: str, *agents: str, **config: Any) -> None:
        """Request, claim, open, and open the first ballot."""
        self.request(coordination, *agents, **config)
        self.claim(coordination)
        self.open(coordination)
        self.go_on(coordination)

    def go_on(self, coordination: str) -> None:
        """Append everything the coordinator would append now, deadlines not included."""
        fold = self.fold(coordination)
        while ready := [each for each in fold.intents() if isinstance(each, Append)]:
            intent = ready[0]
            if isinstance(intent.body, BallotOpened):
                self.digests[coordination] = intent.body.proposal_digest
            self.append(
                fold.coordinator,
                coordination,
                intent.type,
                intent.body,
                intent.refs,
                event_class="ctl",
            )

    def deadline(self, coordination: str) -> None:
        """The open ballot's time is up; the coordinator says so and goes on."""
        fold = self.fold(coordination)
        due = next(each for each in fold.intents() if isinstance(each, After))
        passed = due.then
        self.append(
            fold.coordinator,
            coordination,
            passed.type,
            passed.body,
            passed.refs,
            event_class="ctl",
        )
        self.go_on(coordination)

    def vote(
        self,
        coordination: str,
        agent: str,
        option: str = "agree",
        *,
        ballot: int = 1,
        expect: str | None = None,
        **fields: Any,
    ) -> Event:
        """An agent votes."""
        digest: bytes = fields.pop("proposal_digest", self.digests[coordination])
        body = VoteCast(ballot, digest, option, **fields)
        return self.append(agent, coordination, "simple.vote_cast", body, expect=expect)

    def decided(self, coordination: str, *agents: str, **config: Any) -> None:
        """A whole coordination in which everybody agrees."""
        self.start(coordination, *agents, rule="unanimous", **config)
        for agent in agents or AGENTS:
            self.vote(coordination, agent, confidence_ppm=900_000)
        self.go_on(coordination)


def small_deployment(protocols: Protocols = PROTOCOLS) -> Logbook:
    """Two coordinators, a client and five agents, admitted and registered."""
    book = Logbook(protocols)
    for coordinator in ("coordinator-1", "coordinator-2"):
        book.admit(coordinator, "coordinator")
    book.admit("client", "client")
    for index, agent in enumerate(AGENTS):
        book.admit(agent, "agent", controller=f"clinic-{index}")
    return book


def busy_log(coordinations: int) -> Logbook:
    """Many decided coordinations, one after the other."""
    book = small_deployment()
    for number in range(coordinations):
        book.decided(f"c-{number:06d}")
    return book


def eventful_log() -> Logbook:
    """Everything that can happen, once: every refusal, takeovers, equivocation, every ending."""
    book = small_deployment()
    book.decided("agreed")
    _equivocate(book)
    _take_over(book)
    _end_otherwise(book)
    _reject(book)
    _refuse(book)
    _change_keys(book)
    _leave_gaps(book)
    book.decided("after-all", "agent-a", "agent-b", "agent-e")
    return book


def _equivocate(book: Logbook) -> None:
    """In an open ballot, after its end, and by a fork of the chain."""
    book.start("two-faced", early_exit=False)
    book.vote("two-faced", "agent-a", "agree")
    book.vote("two-faced", "agent-b", "agree")
    book.vote("two-faced", "agent-a", "disagree", expect="equivocation")
    book.vote("two-faced", "agent-c", "agree", expect=None)
    book.vote("two-faced", "agent-c", "agree", expect="duplicate")
    book.go_on("two-faced")  # the coordinator submits the proof
    for agent in ("agent-d", "agent-e"):
        book.vote("two-faced", agent, "disagree")
    book.deadline("two-faced")
    book.start("too-late")
    for agent in AGENTS[:4]:
        book.vote("too-late", agent)
    book.vote("too-late", "agent-a", "disagree", expect="equivocation")
    book.vote("too-late", "agent-e", expect="late")
    book.go_on("too-late")
    twin = book.new_author("agent-b")
    book.start("forked", early_exit=False)
    first = book.vote("forked", "agent-b")
    second = VoteCast(1, book.digests["forked"], "disagree")
    other = book.append(twin, "forked", "simple.vote_cast", second, expect="equivocation")
    proof = evidence_of("E7", "agent-b", (first, other))
    book.append("agent-c", "forked", "evidence.submitted", proof, event_class="pub")
    never_stored = book.new_author("agent-d")
    hidden = never_stored.sign("forked", first.header.epoch, "simple.vote_cast", second)
    proof = evidence_of("E7", "agent-d", (book.vote("forked", "agent-d"), hidden))
    book.append("agent-e", "forked", "evidence.submitted", proof, event_class="pub")


def _take_over(book: Logbook) -> None:
    """A second coordinator claims; the first one's events are void from there."""
    book.start("taken-over", early_exit=False)
    book.vote("taken-over", "agent-a")
    opened = book.author("coordinator-1")
    book.claim("taken-over", "coordinator-2")
    stale = CoordinationClaimed(2, ZERO32)
    book.append(opened, "taken-over", "coordination.claimed", stale, expect="stale_fence")
    for agent in AGENTS[1:]:
        book.vote("taken-over", agent, "agree" if agent < "agent-e" else "disagree")
    book.deadline("taken-over")


def _end_otherwise(book: Logbook) -> None:
    """Failed before opening, cancelled, no consensus in two ballots, still running."""
    book.request("nobody", "stranger")
    book.claim("nobody")
    book.open("nobody")
    book.start("called-off")
    body = CancelRequested("no longer \0 needed \u2603")
    book.append("client", "called-off", "coordination.cancel_requested", body)
    book.go_on("called-off")
    book.start("undecided", "agent-a", "agent-b", max_ballots=2, rule="majority")
    for ballot in (1, 2):
        book.vote("undecided", "agent-a", "agree", ballot=ballot)
        book.vote("undecided", "agent-b", "disagree", ballot=ballot)
        book.go_on("undecided")
    book.start("running")
    book.vote("running", "agent-d", "abstain", failure="timeout")
    book.request("waiting")


def _reject(book: Logbook) -> None:
    """Signed events that the fold gives no effect."""
    vote = book.vote("running", "agent-a", "maybe", expect="unknown_option")
    book.store_event(vote, expect="duplicate")
    book.vote("running", "agent-b", proposal_digest=ZERO32, expect="digest_mismatch")
    book.vote("running", "agent-b", ballot=2, expect="wrong_phase")
    body = VoteCast(1, book.digests["running"], "agree")
    name = "simple.vote_cast"
    book.append("agent-c", "running", name, body, epoch=b"", expect="wrong_epoch")
    book.append("client", "running", name, body, expect="not_participant")
    book.append("agent-c", "never-asked-for", name, body, expect="wrong_phase")


def _refuse(book: Logbook) -> None:
    """Records that admission refuses, for every reason it has."""
    good = book.author("agent-a").sign("running", b"", "simple.vote_cast", VoteCast(1, ZERO32, "x"))
    subject, header, key = book.subject(good), good.header, book.author("agent-a").key.secret_key
    book.store(subject, b"\xc1 not an event", "malformed")
    book.store(subject, bytes(256 * 1024 + 1), "over_limit")
    book.store(subject, good.wire[:-1] + b"!", "body_mismatch")
    forged = good.wire.replace(good.signature, bytes(64))
    book.store(subject, forged, "bad_signature")
    book.store(subject.replace("running", "agreed"), good.wire, "wrong_coordination")
    book.store(subject.replace("agent-a", "agent-b"), good.wire, "subject_mismatch")

    def altered(**changes: Any) -> Event:
        body: bytes = changes.pop("body", good.body)
        changes["body_sha256"] = sha256(body)
        return sign_event(msgspec.structs.replace(header, **changes), body, key)

    book.store_event(altered(version=2), expect="unsupported_version")
    book.store_event(altered(type="simple.vote_forged"), expect="unknown_type")
    book.store_event(altered(author="stranger"), expect="unknown_author")
    book.store_event(altered(key_id=bytes(8)), expect="unknown_key")
    book.store_event(altered(at_ns=book.now_ns + 10**12), expect="clock_skew")
    book.store_event(altered(body=b"\x80"), expect="malformed_body")
    health = HealthChanged("agent-a", "overloaded", 950_000, 2**30, 11)
    event = book.new_author("agent-a").sign(REGISTRY, b"", "agent.health_changed", health)
    book.store_event(event, expect="not_authorised")


def _change_keys(book: Logbook) -> None:
    """Health, rotation, expiry and revocation; old keys are refused."""
    health = HealthChanged("agent-a", "overloaded", 950_000, 2**30, 11)
    book.append("coordinator-1", REGISTRY, "agent.health_changed", health)
    old = book.new_author("agent-e")
    new = KeyPair(sha256(b"agent-e, second key"))
    rotated = AgentKeyRotated(book.certificate("agent-e", "agent", key=new, serial=2))
    book.append("root", REGISTRY, "agent.key_rotated", rotated)
    book.use_author(book.new_author("agent-e", new))
    stale = AgentKeyRotated(book.certificate("agent-e", "agent", serial=2))
    book.append("root", REGISTRY, "agent.key_rotated", stale, expect="stale_serial")
    registered = AgentRegistered("node-2", ("vote", "review\0"), model_type="forest")
    book.append(old, REGISTRY, "agent.registered", registered, expect="rotated_key")
    book.admit("brief", "agent")
    short = AgentAdmitted(book.certificate("brief", "agent", serial=2, not_after_ns=1))
    book.append("root", REGISTRY, "agent.admitted", short)
    book.append("brief", REGISTRY, "agent.registered", registered, expect="expired_key")
    book.append("agent-d", REGISTRY, "agent.registered", registered)
    book.append("root", REGISTRY, "agent.revoked", AgentRevoked("agent-d", "left"))
    book.append("agent-d", REGISTRY, "agent.registered", registered, expect="revoked_key")
    forged = AgentAdmitted(b"no certificate")
    book.append("root", REGISTRY, "agent.admitted", forged, expect="invalid_certificate")


def _leave_gaps(book: Logbook) -> None:
    """One gap that is filled later and one that stays."""
    lost = AgentRegistered(NODE, ("vote",))
    event = book.author("agent-b").sign(REGISTRY, b"", "agent.registered", lost)
    book.append("agent-b", REGISTRY, "agent.registered", lost)
    book.store_event(event)
    book.author("agent-c").sign(REGISTRY, b"", "agent.registered", lost)
    book.append("agent-c", REGISTRY, "agent.registered", lost)
