"""More than f twins can fork a slot; their own signatures then name f + 1 of them, never others."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from mabeam.core.evidence import proof_bytes
from mabeam.core.kernel_events import Body
from mabeam.core.machine import LogEvent
from mabeam.core.standalone import check_alone
from mabeam.protocols.byzantine import SPEC, ByzantineConfig, analyse, is_proof, submission
from mabeam.protocols.byzantine.digests import batch_digest
from mabeam.protocols.byzantine.events import (
    COMMIT,
    NEW_VIEW,
    PRE_PREPARE,
    PREPARE,
    REQUEST,
    VIEW_CHANGE,
    CommitSent,
    NewViewSent,
    PreparedEntry,
    PrepareSent,
    PrePrepareSent,
    RequestSubmitted,
    SlotProposal,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.forensics import proofs_in
from tests.protocols.byzantine.network import (
    COORDINATION,
    Network,
    Node,
    Schedule,
    group_for,
    log_event,
    names,
)
from tests.protocols.byzantine.signed import Signatures

KNOWN = {SPEC.name: SPEC}
FAST = Schedule(delay_ms=30, late_percent=0)


class Side(Node):
    """One instance of a twin; both sides run correct code and see only their own half."""

    honest = False
    correct = False

    def __init__(self, network: Network, author: str, side: int) -> None:
        super().__init__(network, author)
        self.side = side


def both_sides(network: Network, author: str) -> Iterable[Node]:
    """The two instances."""
    return Side(network, author, 0), Side(network, author, 1)


def forked(count: int, seed: int, signatures: Signatures | None = None) -> ForkedNetwork:
    """Two halves that never hear of each other; every twin works in both."""
    draw = random.Random(seed)
    faulty = (count - 1) // 3
    quorum = (count + faulty) // 2 + 1
    replicas = list(names(count))
    draw.shuffle(replicas)
    number = max(faulty + 1, 2 * quorum - count)
    twins, honest = replicas[:number], replicas[number:]
    half = {each: index % 2 for index, each in enumerate(honest)}
    sides: dict[bytes, int] = {}
    config = ByzantineConfig(mode="single", proposers="participants", view_timeout_ms=500)

    def cut(node: Node, event: LogEvent) -> bool:
        if event.id not in sides:
            sides[event.id] = network.signing
        side = node.side if isinstance(node, Side) else half[node.author]
        return side != sides[event.id]

    network = ForkedNetwork(
        count,
        seed,
        config,
        dict.fromkeys(twins, both_sides),
        schedule=FAST,
        cut=cut,
        signed_by=signatures,
    )
    network.half = half
    network.forks_expected = True
    network.twins = frozenset(twins)
    for side in (0, 1):
        client = next(each for each in honest if half[each] == side)
        network.submit(client, f"for side {side}", 1)
    return network


class ForkedNetwork(Network):
    """Remembers on which side an event is signed."""

    signing = 0
    half: dict[str, int]
    twins: frozenset[str]

    def append(self, sender: Node, *args: object, **options: object) -> LogEvent:
        """Append for one side."""
        self.signing = sender.side if isinstance(sender, Side) else self.half[sender.author]
        return super().append(sender, *args, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_forks_name_their_culprits(count: int) -> None:
    forks = 0
    for seed in range(60):
        network = forked(count, seed)
        network.run(network.decided, 60_000)
        found = analyse(network.log, network.group)
        assert set(found.culprits) <= network.twins, (count, seed)
        assert all(is_proof(proof, network.group) for proof in found.culprits.values())
        assert found.verdict != "incomplete", (count, seed)
        if found.verdict == "culprits":
            forks += 1
            assert len(found.culprits) > network.group.f
            assert {accused for _, accused in network.evidence} == set(found.culprits)
            network.check_evidence()
            network.random.shuffle(network.log)
            assert analyse(network.log, network.group) == found
    assert forks >= 50


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_the_culprits_of_a_fork_are_proven_by_the_opening_and_the_root_key_alone(
    count: int,
) -> None:
    rules = set()
    for seed in range(12):
        signatures = Signatures()
        network = forked(count, seed, signatures)
        network.run(network.decided, 60_000)
        found = analyse(network.log, network.group)
        assert signatures.opening is not None
        opening, root = signatures.opening.wire, signatures.root.public_key
        submitted = [submission(proof) for proof in proofs_in(network.log, network.group)]
        for evidence in (*submitted, *network.evidence.values()):
            assert check_alone(evidence, opening, root, KNOWN)
            assert proof_bytes(evidence) < 64 * 1024
            assert evidence.accused in network.twins
            rules.add(evidence.rule)
        proven = {evidence.accused for evidence in submitted}
        assert found.verdict == "no_fork" or len(proven) > network.group.f
    assert {"E1", "E2"} <= rules


def test_without_the_evidence_the_result_is_incomplete() -> None:
    network = next(
        each
        for each in (forked(4, seed) for seed in range(60))
        if each.run(each.decided, 60_000)
        and {"E2"} & {proof.rule for proof in analyse(each.log, each.group).culprits.values()}
    )
    commits = [event for event in network.log if event.type == COMMIT]
    found = analyse(commits, network.group)
    assert found.verdict == "incomplete"
    assert found.sequence == 1


def test_honest_runs_name_nobody() -> None:
    for seed in range(30):
        network = Network(4, seed)
        assert network.run(network.decided)
        assert analyse(network.log, network.group).culprits == {}


def test_a_quorum_of_liars_forks_without_contradicting_itself() -> None:
    """The stated bound: three of four show prepares of view 1, which no NEW-VIEW had started."""
    log: list[LogEvent] = []

    def say(author: str, kind: str, body: Body, *refs: bytes) -> bytes:
        number = sum(event.author == author for event in log)
        log.append(log_event(len(log) + 1, author, kind, body, refs, number))
        return log[-1].id

    one, other = (say("r0", REQUEST, RequestSubmitted(n, n)) for n in (1, 2))
    first, second = (batch_digest(COORDINATION, (each,)) for each in (one, other))
    proposal = say("r0", PRE_PREPARE, PrePrepareSent(0, 1, first, (one,)))
    for author in ("r1", "r3"):
        say(author, PREPARE, PrepareSent(0, 1, first), proposal)
    for author in ("r0", "r1", "r3"):
        say(author, COMMIT, CommitSent(0, 1, first), proposal)
    invented = say("r1", PRE_PREPARE, PrePrepareSent(1, 1, second, (other,)))
    prepares = tuple(say(a, PREPARE, PrepareSent(1, 1, second), invented) for a in ("r0", "r2"))
    change = ViewChangeSent(2, 0, (), (PreparedEntry(1, 1, second, invented, prepares),))
    changes = tuple(say(author, VIEW_CHANGE, change) for author in names(3))
    new_view = say("r2", NEW_VIEW, NewViewSent(2, changes, (SlotProposal(1, second),)))
    for author in ("r0", "r1"):
        say(author, PREPARE, PrepareSent(2, 1, second), new_view)
    for author in names(3):
        say(author, COMMIT, CommitSent(2, 1, second), new_view)
    found = analyse(log, group_for(4, ByzantineConfig(mode="service")))
    assert (found.verdict, found.sequence, found.culprits) == ("incomplete", 1, {})
