"""A service that is handed over: where it stops, who may ask, what vouches for it (BYZ-24)."""

from __future__ import annotations

import pytest

from mabeam.core.errors import InvalidFieldError, PeerProtocolError
from mabeam.core.hashing import sha256
from mabeam.core.kernel_events import CancelRequested
from mabeam.core.machine import TERMINAL_KEY, After, Append, Key, LogEvent
from mabeam.core.succession import Predecessor
from mabeam.protocols.byzantine import ByzantineConfig
from mabeam.protocols.byzantine.config import group_in
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.digests import batch_digest, next_root
from mabeam.protocols.byzantine.events import (
    CANCEL,
    CHECKPOINT,
    COMMIT,
    HANDOVER,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    CheckpointTaken,
    CommitSent,
    HandoverRequested,
    PrepareSent,
    PrePrepareSent,
    RequestSubmitted,
)
from mabeam.protocols.byzantine.recomputation import batches_of, checkpoints_of, wrong_checkpoint
from tests.protocols.byzantine.network import (
    COORDINATION,
    REQUESTER,
    Network,
    Schedule,
    context_for,
    names,
)
from tests.protocols.byzantine.test_rules import Bench

SERVICE = ByzantineConfig(
    mode="service", checkpoint_interval=64, batch_delay_ms=0, view_timeout_ms=1_000
)
NEXT = HandoverRequested("c-2")
ROOT = sha256(b"where another one ended")


class Service(Bench):
    """A replica of a service, whose slots the others commit."""

    def __init__(self, author: str = "r3", config: ByzantineConfig = SERVICE) -> None:
        super().__init__(4, author, config)

    def known(self, event: LogEvent) -> LogEvent:
        """An event that the replica has taken."""
        assert self.apply(event) is None
        return event

    def request(self, client: str, number: int = 1) -> LogEvent:
        """A client's request."""
        body = RequestSubmitted(number, f"{client}-{number}")
        return self.known(self.event(client, REQUEST, body))

    def handover(self, successor: str = "c-2") -> LogEvent:
        """The requester's handover."""
        return self.known(self.event(REQUESTER, HANDOVER, HandoverRequested(successor)))

    def commit(self, sequence: int, *batch: LogEvent) -> list[LogEvent]:
        """Slot ``sequence`` is proposed in view 0 and committed by a quorum."""
        ids = tuple(each.id for each in batch)
        digest = batch_digest(COORDINATION, ids)
        self.known(self.event("r0", PRE_PREPARE, PrePrepareSent(0, sequence, digest, ids)))
        vote = CommitSent(0, sequence, digest)
        return [self.known(self.event(each, COMMIT, vote)) for each in ("r0", "r1", "r2")]

    def vouch(self, author: str, sequence: int, root: bytes) -> None:
        """A replica reports a state."""
        self.known(self.event(author, CHECKPOINT, CheckpointTaken(sequence, root)))

    def timers(self) -> set[Key]:
        """What the replica waits for, but for the overall deadline."""
        found = (each for each in self.machine.intents() if isinstance(each, After))
        return {each.key for each in found} - {("deadline", "overall")}


def test_nothing_executes_behind_a_handover() -> None:
    """Neither in its batch nor in a later slot, whoever committed that."""
    service = Service()
    before, behind, later = (service.request(each) for each in ("a", "b", "c"))
    stop = service.handover()
    service.commit(2, later)
    service.commit(1, before, stop, behind)
    executor = service.machine.executor
    assert [slot.requests for slot in executor.log] == [(before.id, stop.id)]
    digest = batch_digest(COORDINATION, (before.id, stop.id, behind.id))
    root = next_root(bytes(32), 1, digest, (before.id, stop.id))
    assert (executor.executed, executor.root, executor.handover) == (1, root, NEXT)
    service.commit(3, service.request("a", 2))
    assert executor.executed == 1
    assert service.machine.wanted() == frozenset()


def test_the_first_of_two_handovers_counts() -> None:
    service = Service()
    first, second = service.handover("c-2"), service.handover("c-3")
    service.commit(1, second)
    service.commit(2, first)
    assert service.machine.executor.handover == HandoverRequested("c-3")
    assert service.machine.executor.executed == 1


def test_only_the_requester_may_ask_and_only_for_a_service() -> None:
    service = Service()
    for stranger in ("r0", "client"):
        assert service.fold(stranger, HANDOVER, NEXT) == "not_authorised"
    assert service.fold(REQUESTER, HANDOVER, HandoverRequested(COORDINATION)) == "invalid_config"
    assert service.fold(REQUESTER, HANDOVER, HandoverRequested("_registry")) == "invalid_config"
    single = Bench(config=ByzantineConfig(proposal="A"))
    assert single.fold(REQUESTER, HANDOVER, NEXT) == "wrong_phase"
    assert not service.machine.requests.known()


def test_a_strangers_handover_in_a_batch_never_executes() -> None:
    """It is no request, so a slot that names it waits for ever; an honest quorum never votes so."""
    service = Service()
    bad = service.event("client", HANDOVER, NEXT)
    assert service.apply(bad) == "not_authorised"
    service.commit(1, bad)
    assert service.machine.executor.executed == 0
    assert service.machine.executor.handover is None


def test_the_checkpoint_is_due_at_once_and_nothing_else_is() -> None:
    service = Service()
    stop, waiting = service.handover(), service.request("a")
    proposal = service.event(
        "r0",
        PRE_PREPARE,
        PrePrepareSent(0, 2, batch_digest(COORDINATION, (waiting.id,)), (waiting.id,)),
    )
    service.known(proposal)
    assert ("prepare", 0, 2) in service.wishes()
    assert service.timers() != set()
    service.commit(1, stop)
    assert service.wishes() == {("checkpoint", 1), ("prepare", 0, 1)}
    assert service.timers() == set()
    assert service.machine.phase() == "handing_over"
    assert service.machine.waiting_for() == names(4)


def test_an_idle_service_waits_for_nobody() -> None:
    service = Service()
    assert service.machine.waiting_for() == ()
    service.commit(1, service.request("a"))
    assert service.machine.waiting_for() == ()
    service.request("b")
    assert service.machine.waiting_for() == ("r0",)
    assert Bench(config=ByzantineConfig(proposal="A")).machine.waiting_for() == ("r0",)


def test_a_primary_proposes_nothing_behind_it() -> None:
    service = Service(author="r0")
    stop = service.handover()
    service.commit(1, stop)
    service.request("a")
    assert service.wishes() == {("checkpoint", 1)}
    other = Service(author="r0")
    other.request("a")
    assert ("pre_prepare", 0, 1) in other.wishes()


@pytest.mark.parametrize("early", [0, 3])
def test_it_ends_with_a_quorum_of_checkpoints_of_the_state_executed(early: int) -> None:
    """Whether they come before the slot itself executes or after it."""
    model = Service()
    model.commit(1, model.handover())
    root = model.machine.executor.root
    service = Service()
    stop = service.handover()
    for author in ("r0", "r1", "r2")[:early]:
        service.vouch(author, 1, root)
    assert not service.machine.is_decided
    service.commit(1, stop)
    service.vouch("r3", 1, sha256(b"another state"))
    for author in ("r0", "r1", "r2")[early:]:
        assert not service.machine.is_done()
        service.vouch(author, 1, root)
    assert service.machine.is_done()
    assert service.machine.phase() == "decided"
    assert service.wishes() == set()


def test_the_outcome_names_slot_state_and_who_vouches_for_them() -> None:
    observer = ByzantineCoordinator(context_for(4, SERVICE))
    service = Service()

    def shown() -> None:
        for event in service.events.values():
            try:
                observer.apply(event)
            except PeerProtocolError:  # shown before
                continue

    stop = service.handover()
    commits = service.commit(1, service.request("a"), stop)
    shown()
    assert not any(each.key == TERMINAL_KEY for each in observer.intents())
    root = service.machine.executor.root
    vouched = []
    for author in ("r2", "r0", "r3"):
        event = service.event(author, CHECKPOINT, CheckpointTaken(1, root))
        vouched.append(service.known(event).id)
    service.known(service.event("r1", CHECKPOINT, CheckpointTaken(1, root)))
    shown()
    (end,) = [each for each in observer.intents() if each.key == TERMINAL_KEY]
    assert isinstance(end, Append)
    told = end.body.outcome  # type: ignore[attr-defined]
    by_replica = (vouched[1], vouched[0], vouched[2])
    certificate = tuple(each.id for each in commits)
    assert told["result"] == "handed_over"
    assert (told["successor"], told["sequence"], told["state_root"]) == ("c-2", 1, root)
    assert (told["request_id"], told["commit_ids"]) == (stop.id, certificate)
    assert told["checkpoint_ids"] == by_replica
    assert end.refs == (*certificate, *by_replica)


@pytest.mark.parametrize("first", [CANCEL, HANDOVER])
def test_a_service_has_one_end(first: str) -> None:
    """Of a cancel and a handover whichever is ordered first."""
    service = Service()
    cancel = service.known(service.event(REQUESTER, CANCEL, CancelRequested("enough")))
    stop = service.handover()
    last = service.request("a")
    order = (cancel, stop) if first == CANCEL else (stop, cancel)
    service.commit(1, *order, last)
    machine = service.machine
    cancelled = first == CANCEL
    assert machine.is_decided is cancelled
    assert machine.is_stopped is not cancelled
    assert machine.executor.log[0].requests == (
        (cancel.id, stop.id, last.id) if cancelled else (stop.id,)
    )


def test_a_successor_starts_from_the_state_it_goes_on_from() -> None:
    before = Predecessor("c-0", bytes(32), 7, ROOT)
    config = ByzantineConfig(mode="service", batch_delay_ms=0, predecessor=before)
    assert group_in(context_for(4, config)).genesis == ROOT
    service = Service(config=config)
    request = service.request("a")
    service.commit(1, request)
    digest = batch_digest(COORDINATION, (request.id,))
    assert service.machine.executor.root == next_root(ROOT, 1, digest, (request.id,))
    with pytest.raises(InvalidFieldError, match="single"):
        ByzantineConfig(proposal="A", predecessor=before)


# Evidence ----------------------------------------------------------------------------------------


def _judged(service: Service, author: str, sequence: int, root: bytes, *cited: LogEvent) -> bool:
    """Whether a checkpoint is proven wrong (E6)."""
    refs = tuple(each.id for each in cited)
    service.event(author, CHECKPOINT, CheckpointTaken(sequence, root), refs)
    events = service.events.values()
    own = checkpoints_of(events, author)
    batches = batches_of(events, service.group)
    return wrong_checkpoint(own, service.events.get, batches, service.group) is not None


def test_the_checkpoint_of_a_handover_is_no_offence() -> None:
    service = Service()
    one = service.commit(1, service.request("a"))
    two = service.commit(2, service.handover())
    due = [each for each in service.machine.intents() if isinstance(each, Append)]
    assert [each.refs for each in due if each.type == CHECKPOINT] == [(one[0].id, two[0].id)]
    root = service.machine.executor.root
    assert not _judged(service, "r0", 2, root, one[0], two[0])
    assert _judged(service, "r1", 2, ROOT, one[0], two[0])
    assert _judged(service, "r2", 2, root, two[0])


def test_a_checkpoint_between_two_regular_ones_is() -> None:
    service = Service()
    one = service.commit(1, service.request("a"))
    assert _judged(service, "r0", 1, service.machine.executor.root, one[0])


def test_so_is_one_of_slots_behind_the_handover() -> None:
    config = ByzantineConfig(mode="service", checkpoint_interval=2, batch_delay_ms=0)
    service = Service(config=config)
    late = service.request("a")
    one, two = service.commit(1, service.handover()), service.commit(2, late)
    digest = batch_digest(COORDINATION, (late.id,))
    root = service.machine.executor.root
    assert _judged(service, "r0", 2, next_root(root, 2, digest, (late.id,)), one[0], two[0])
    assert _judged(service, "r1", 2, root, one[0], two[0])


# In a network ------------------------------------------------------------------------------------


def stopped(network: Network) -> bool:
    """Whether the service has ended and every honest replica knows."""
    return network.decided() and bool(network.terminals)


@pytest.mark.parametrize("seed", range(6))
def test_replicas_stop_alike_whatever_they_see_when(seed: int) -> None:
    settings = ByzantineConfig(
        mode="service", checkpoint_interval=2, batch_max_requests=2, view_timeout_ms=300,
        batch_delay_ms=0, rotation_slots=2 * (seed % 2),
    )  # fmt: skip
    network = Network(4, seed, settings, schedule=Schedule(late_percent=30))
    for number in range(6):
        network.submit(f"r{number % 4}", number, number, at=60 * number)
    asks = next(node for node in network.nodes if node.author == REQUESTER)

    def ask() -> None:
        asks.sign(HANDOVER, NEXT)
        asks.react()

    network.at(100 + 20 * seed, ask)
    assert network.run(lambda: stopped(network))
    network.finish()
    ends = {(n.machine.executor.executed, n.machine.executor.root) for n in network.honest}
    (outcome,) = (each.body.outcome for each in network.terminals)  # type: ignore[attr-defined]
    assert ends == {(outcome["sequence"], outcome["state_root"])}
    done = [each for node in network.honest for each in node.executed]
    assert done.count(outcome["request_id"]) == len(network.honest)


def test_a_prepare_behind_it_is_not_signed_after_a_view_change_either() -> None:
    """What a new view carries over behind the handover is nobody's business any more."""
    service = Service()
    stop, behind = service.handover(), service.request("a")
    digest = batch_digest(COORDINATION, (behind.id,))
    service.known(service.event("r0", PRE_PREPARE, PrePrepareSent(0, 2, digest, (behind.id,))))
    service.known(service.event("r3", PREPARE, PrepareSent(0, 2, digest)))
    service.known(service.event("r1", PREPARE, PrepareSent(0, 2, digest)))
    assert ("commit", 0, 2) in service.wishes()
    service.commit(1, stop)
    assert ("commit", 0, 2) not in service.wishes()
