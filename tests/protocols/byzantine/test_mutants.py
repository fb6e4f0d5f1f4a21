"""Named wrong versions of the rules (specification 5.11), every one noticed by a check (TST-5)."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from mabeam.core.errors import MabeamError
from mabeam.core.machine import LogEvent
from mabeam.protocols.byzantine import ByzantineConfig, config, endings, view_change
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from mabeam.protocols.byzantine.events import VIEW_CHANGE, NewViewSent, SlotProposal, ViewChangeSent
from mabeam.protocols.byzantine.execution import Executor
from mabeam.protocols.byzantine.fold import ByzantineFold
from mabeam.protocols.byzantine.replica import ByzantineReplica
from mabeam.protocols.byzantine.requests import RequestPool
from mabeam.protocols.byzantine.votes import VoteBook
from tests.protocols.byzantine import (
    test_endings,
    test_examples,
    test_handover,
    test_restarts,
    test_rules,
)
from tests.protocols.byzantine.network import Network, Node
from tests.protocols.simple.test_mutants import Mutant, applied

MUTANTS = (
    Mutant(
        "quorum 2f + 1",
        config.group_of,
        "replica_quorum(len(replicas), config.f)",
        "2 * config.f + 1",
    ),
    Mutant(
        "view change without certificates",
        view_change.check_view_change,
        "check_prepared(check, lookup, group, entry)",
        "pass",
    ),
    Mutant(
        "view change without checkpoint proof",
        view_change.check_view_change,
        "check_checkpoint(check, lookup, group, stable, body.checkpoint_ids)",
        "pass",
    ),
    Mutant(
        "lowest instead of highest view",
        view_change.plan,
        "_rank(entry) > _rank(known)",
        "_rank(entry) < _rank(known)",
    ),
    Mutant(
        "NEW-VIEW list cut at the first gap",
        view_change.plan,
        "range(lowest + 1, highest + 1)",
        "range(lowest + 1, lowest + 1 + sum(s in best for s in range(lowest + 1, highest + 1)))",
    ),
    Mutant(
        "votes not matched on digest",
        ByzantineFold._on_commit,
        "key = (view, sequence, digest)",
        "key = (view, sequence, bytes(32))",
    ),
    Mutant(
        "votes counted per message",
        VoteBook.add,
        "signers.setdefault(signer, event_id)",
        "signers.setdefault(event_id.hex(), event_id)",
    ),
    Mutant(
        "NEW-VIEW slots trusted",
        view_change.check_new_view,
        "computed.slots == body.slots",
        "True",
    ),
    Mutant(
        "certificates inside a NEW-VIEW not verified",
        view_change.check_new_view,
        "check.require(not inner.fault,",
        "check.require(True,",
    ),
    Mutant(
        "commit certificates of other views ignored",
        ByzantineFold._on_commit,
        "== self.group.q:",
        "== self.group.q and self._is_current(view):",
    ),
    Mutant(
        "no client-signature check",
        ByzantineFold._is_acceptable,
        "request = self.requests.get(request_id)",
        "request = self.requests.get(self.requests.known()[0])",
    ),
    Mutant(
        "view change wipes prepared state",
        ByzantineFold._enter,
        "self.accepted.clear()",
        "self.accepted.clear(); self.prepared.clear()",
    ),
    Mutant("sign-once off", ByzantineReplica._once, "sign_once=True", "sign_once=False"),
    Mutant(
        "a prepare by the primary counts",
        ByzantineFold._check_prepared,
        "if each != primary]",
        "]",
    ),
    Mutant(
        "a certificate of a lower view replaces one of a higher view",
        ByzantineFold._check_prepared,
        "known.view >= view",
        "known.view == view",
    ),
    Mutant(
        "commits beyond the window left out of a view change",
        ByzantineReplica._leave,
        "any(sequence > highest for sequence in self._commits)",
        "False",
    ),
    Mutant(
        "announced decision without a quorum",
        endings.certificates_in,
        "or len(signers) < group.q",
        "",
    ),
    Mutant(
        "announced decision counts a replica twice",
        endings.certificates_in,
        "signers != sorted(set(signers)) or",
        "",
    ),
    Mutant(
        "announced decision of commits of two views",
        endings.certificates_in,
        "or len(said) != 1",
        "",
    ),
    Mutant(
        "announced failure is final unproven",
        endings.is_timeout_right,
        "content.final and not failure_is_final(fold, deadlines)",
        "False",
    ),
    Mutant(
        "announced failure beats a decision",
        ByzantineCoordinator.supports,
        "not self.is_decided and",
        "",
    ),
    Mutant(
        "executes after the stop sign",
        Executor.step,
        "or self.handover is not None",
        "",
    ),
    Mutant(
        "executes the rest of the handover's batch",
        RequestPool.execute_batch,
        "break",
        "pass",
    ),
    Mutant(
        "handover by anyone",
        ByzantineFold._on_handover,
        "event.author != self.context.requester",
        "False",
    ),
    Mutant(
        "handed over before the state is stable",
        ByzantineFold._hand_over,
        "self.is_stopped and is_stable",
        "self.is_stopped",
    ),
)


def check_disjoint_halves() -> None:
    """n = 6 and nobody lies: two halves that cannot hear each other must not both decide."""
    settings = ByzantineConfig(proposers="participants", view_timeout_ms=200)

    def cut(node: Node, event: LogEvent) -> bool:
        return (int(node.author[1:]) < 3) != (int(event.author[1:]) < 3)

    network = Network(6, 0, settings, cut=cut)
    network.submit("r0", "left")
    network.submit("r4", "right")
    network.run(network.decided, 20_000)


def check_a_forged_certificate_inside_a_new_view() -> None:
    """A NEW-VIEW that follows from view changes of which one is forged."""
    bench = test_rules.Bench()
    true = bench.certificate(1, 0, test_rules.A)
    forged = msgspec.structs.replace(true, batch_digest=test_rules.B)
    ids = tuple(
        bench.event(
            each,
            VIEW_CHANGE,
            ViewChangeSent(1, 0, (), (forged,) if each == "r1" else ()),
        ).id
        for each in ("r1", "r2", "r3")
    )
    slots = (SlotProposal(1, test_rules.B),)
    body = NewViewSent(1, ids, slots)
    assert view_change.check_new_view(bench.events.get, bench.group, body)[0].fault


def check_announced_endings() -> None:
    """An ending is right in any order of the log, and only if what it names gives it."""
    decided = test_endings.seven_that_decided()
    for change in test_endings.FALSE_DECISIONS:
        test_endings.check_false_decision(decided, change)
    for change in test_endings.FALSE_TIMEOUTS:
        test_endings.check_false_timeout(change)
    test_endings.check_decision_beats_failure(decided)
    test_endings.test_commits_of_two_views_are_no_certificate()


CHECKS = (
    test_handover.test_nothing_executes_behind_a_handover,
    test_handover.test_only_the_requester_may_ask_and_only_for_a_service,
    test_handover.test_the_checkpoint_is_due_at_once_and_nothing_else_is,
    *(
        value
        for name, value in vars(test_rules).items()
        if name.startswith("test_") and name != "test_every_vote_is_signed_once"
    ),
    test_examples.test_example_5_one_committed_the_others_only_prepared,
    test_restarts.test_a_certificate_of_a_lower_view_replaces_none_of_a_higher_one,
    partial(test_restarts.test_no_view_change_while_a_commit_is_beyond_the_window, ("r0",)),
    check_disjoint_halves,
    check_a_forged_certificate_inside_a_new_view,
    check_announced_endings,
)


def killed_by() -> BaseException | None:
    """What the first check says that notices something."""
    for check in CHECKS:
        try:
            check()
        except (AssertionError, KeyError, ValueError, MabeamError) as error:
            return error
    return None


def test_the_right_version_survives() -> None:
    for check in CHECKS:
        check()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_mutant_is_killed(mutant: Mutant) -> None:
    with applied(mutant):
        assert killed_by() is not None, f"nothing notices: {mutant.name}"


def test_a_wrong_quorum_is_noticed_without_any_liar() -> None:
    with applied(MUTANTS[0]), pytest.raises(AssertionError, match="two digests"):
        check_disjoint_halves()
