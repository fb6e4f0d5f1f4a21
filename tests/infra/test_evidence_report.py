"""What people are told about misbehaviour, forks and replicas, from real logs without daemons."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from audit_log import AuditLog
from audit_log import opened as simple_log
from replica_log import KNOWN, ReplicaLog

from mabeam.core.audit.bundle import encode_bundle
from mabeam.core.audit.replay import steps
from mabeam.core.envelope import decode_event
from mabeam.core.evidence import evidence_of
from mabeam.core.kernel_events import DeadlinePassed
from mabeam.infra import explanation
from mabeam.infra.cli import main as program
from mabeam.infra.evidence_report import EvidenceReport, folded, in_words, report_on
from mabeam.infra.replica_story import ReplicaStory, story_in_words, tell
from mabeam.protocols.byzantine.digests import batch_digest
from mabeam.protocols.byzantine.events import (
    COMMIT,
    DEADLINE_PASSED,
    OVERALL,
    PRE_PREPARE,
    REFUSED,
    REQUEST,
    VIEW_CHANGE,
    CommitSent,
    PrePrepareSent,
    ProposalRefused,
    RequestSubmitted,
    ViewChangeSent,
)
from mabeam.protocols.byzantine.fold import ByzantineFold

LIE = b"\7" * 32


def report(log: AuditLog) -> EvidenceReport:
    return report_on(log.records, log.root.public_key, KNOWN)


def story(log: AuditLog) -> ReplicaStory:
    fold, events = folded("c1", log.records, log.root.public_key, KNOWN)
    assert isinstance(fold.machine, ByzantineFold)
    return tell(fold.machine, events)


def forked(*second: str, view: int = 0) -> ReplicaLog:
    """Slot 1 decided, and another digest committed by others as well."""
    log = ReplicaLog()
    log.act()
    for name in second:
        log.append(name, COMMIT, CommitSent(view, 1, LIE), "pub")
    return log


# Evidence -----------------------------------------------------------------------------------------


def test_every_proof_is_listed_in_words_with_its_size() -> None:
    log = forked("r2")
    log.conclude()
    found = report(log)
    (exhibit,) = found.exhibits
    assert (exhibit.valid, exhibit.alone, exhibit.offence) == (True, True, f"c1:{COMMIT}:0:1")
    assert exhibit.words == "r2 signed two different commits for slot 1 in view 0"
    assert found.clean
    (line,) = in_words(found)
    assert exhibit.words in line
    assert f"{exhibit.proof_bytes} bytes, valid with the opening" in line


def test_an_accusation_without_proof_is_listed_as_such() -> None:
    log = forked()
    commits = [event.event for event in log.events() if event.type == COMMIT][:2]
    log.append("r3", "evidence.submitted", evidence_of("E1", "r2", commits), "pub")
    found = report(log)
    (exhibit,) = found.exhibits
    assert not exhibit.valid
    assert exhibit.problem
    assert not found.clean
    assert "NOT PROVEN, r3 accuses r2 of E1" in "".join(in_words(found))


def test_votes_and_forks_of_chains_have_words_too() -> None:
    log = simple_log()
    votes = [log.vote("a-1", option) for option in ("agree", "disagree")]
    pair = [decode_event(record.wire) for record in votes]
    log.append("a-2", "evidence.submitted", evidence_of("E1", "a-1", pair), "pub")
    first = decode_event(log.vote("a-3").wire)
    twin = log.author("a-3")
    twin.resume("c1", 0, bytes(32), 0)
    second = decode_event(log.vote("a-3", "disagree").wire)
    log.append("a-2", "evidence.submitted", evidence_of("E7", "a-3", [first, second]), "pub")
    assert [each.words for each in report(log).exhibits] == [
        "a-1 signed two different votes in ballot 1",
        "a-3 signed two events under number 0 of its chain",
    ]


def test_a_fork_names_its_culprits() -> None:
    log = forked("r0", "r1", "r2")
    log.conclude()
    found = report(log)
    (fork,) = found.forks
    assert (fork.slot, fork.verdict, fork.f) == (1, "culprits", 1)
    assert {each.replica: each.rule for each in fork.culprits} == dict.fromkeys(
        ("r0", "r1", "r2"), "E1"
    )
    assert not found.clean
    assert sum("FORK" in line for line in in_words(found)) == 1
    assert log.fold().phase == "failed"


def test_a_fork_without_its_view_changes_is_incomplete() -> None:
    log = forked("r0", "r1", "r2", view=1)
    unknown = ViewChangeSent(1, 2, (LIE,) * 3, ())  # names checkpoints nobody has
    log.append("r3", VIEW_CHANGE, unknown, "pub")
    (fork,) = report(log).forks
    assert fork.verdict == "incomplete"
    assert fork.missing == (LIE.hex(),)
    assert "incomplete: 0 of at least 2" in "".join(in_words(report(log)))


def test_nothing_to_report() -> None:
    log = forked()
    log.conclude()
    assert report(log) == EvidenceReport((), (), True)
    assert list(in_words(report(log))) == ["no evidence was submitted, and nothing forked"]


def test_the_command_reads_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c1.bundle"
    for log, code in ((forked("r2"), 0), (forked("r0", "r1", "r2"), 3)):
        log.conclude()
        path.write_bytes(encode_bundle("c1", log.records, log.root.public_key))
        call = ["audit", "evidence", "--bundle", str(path), "--root", log.root.public_key.hex()]
        assert program.run(call) == code
        assert "r2 signed two different commits" in capsys.readouterr().out
        assert program.run([*call, "--json"]) == code
        shown = msgspec.json.decode(capsys.readouterr().out)
        assert shown["clean"] is (code == 0)
    path.write_bytes(b"nonsense")
    assert program.run(call) == 3
    assert program.run(["audit", "evidence"]) == 2


def test_an_audit_that_convicts_is_not_called_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c1.bundle"
    for liars, verdict in (((), "clean: "), (("r2",), "verified; 1 at fault (r2): ")):
        log = forked(*liars)
        log.conclude()
        path.write_bytes(encode_bundle("c1", log.records, log.root.public_key))
        call = ["audit", "verify", "--bundle", str(path), "--root", log.root.public_key.hex()]
        assert program.run(call) == 0
        assert capsys.readouterr().out.startswith(verdict)


# The story of the replicas ------------------------------------------------------------------------


def test_a_quiet_run() -> None:
    log = forked()
    told = story(log)
    (view,) = told.views
    assert (view.primary, view.started, view.slots, view.why) == ("r0", True, 1, "")
    assert told.decision is not None
    assert (told.decision.sequence, told.decision.view, told.decision.primary) == (1, 0, "r0")
    assert len(told.decision.signers) == 3
    assert (told.tolerance.n, told.tolerance.f, told.tolerance.q) == (4, 1, 3)
    assert (told.silent, told.caught) == ((), ())


def test_a_silent_primary_is_told_and_so_is_who_replaced_it() -> None:
    log = ReplicaLog()
    log.time_out("r1", "r2", "r3")
    log.act(without=["r0"])
    told = story(log)
    first, second = told.views
    assert first.why == "silent: it proposed nothing in time"
    assert first.left_by == ("r1", "r2", "r3")
    assert (second.primary, second.started, second.why) == ("r1", True, "")
    assert told.silent == ("r0",)
    lines = list(story_in_words(told))
    assert "view 1: r1 led, 1 slots proposed" in lines
    assert any("slot 1 in view 1 under r1, committed by r1, r2, r3" in line for line in lines)


def test_a_primary_that_never_starts_its_view() -> None:
    log = ReplicaLog(count=7)
    rest = ("r2", "r3", "r4", "r5", "r6")
    log.time_out(*rest)
    for name in rest:
        log.append(name, VIEW_CHANGE, ViewChangeSent(2, 0, (), ()), "pub")
    log.act(rest)
    views = story(log).views
    assert views[1].why == "silent: it sent no NEW-VIEW in time"
    assert not views[1].started
    assert views[2].started


def test_a_primary_that_falls_silent_after_some_slots_is_not_called_slow() -> None:
    log = ReplicaLog(mode="service", batch_delay_ms=0)
    log.append("client", REQUEST, RequestSubmitted(1, "first"), "pub")
    log.act()
    log.append("client", REQUEST, RequestSubmitted(2, "second"), "pub")
    log.time_out("r1", "r2", "r3")
    first, *_ = story(log).views
    assert first.slots == 1
    assert first.why.startswith("silent: what it proposed was executed")


def test_slow_and_equivocating_primaries() -> None:
    log = ReplicaLog()
    log.act(["r0"])
    log.time_out("r1", "r2", "r3")
    assert story(log).views[0].why.startswith("slow")
    other = PrePrepareSent(0, 1, batch_digest("c1", (LIE,)), (LIE,))
    log.append("r0", PRE_PREPARE, other, "pub")
    told = story(log)
    assert told.views[0].why == "it proposed two different batches for slot 1"
    assert [(each.replica, each.rule) for each in told.caught] == [("r0", "E1")]
    assert told.caught[0].words == "r0 signed two different proposals for slot 1 in view 0"


def refusing(*names: str, led: bool = False) -> ReplicaLog:
    """These agents refuse; with ``led`` the primary has proposed before."""
    log = ReplicaLog()
    if led:
        log.act(["r0"])
    for name in names:
        body = ProposalRefused(0, 1, batch_digest("c1", (b"\1" * 32,)), "no budget")
        log.append(name, REFUSED, body, "pub")
    log.time_out("r1", "r2", "r3")
    return log


def test_a_primary_whose_agent_refused_is_not_silent() -> None:
    log = refusing("r0", "r1", "r2", "r3")
    told = story(log)
    assert told.views[0].why == "refused: its agent would not vote for the proposal (no budget)"
    assert "r0's agent refused the proposal: no budget" in list(story_in_words(told))


def test_backups_that_refused_are_named_if_the_others_are_no_quorum() -> None:
    told = story(refusing("r1", "r2", led=True))
    assert told.views[0].why == "refused: the agents of r1, r2 would not vote for it"
    few = story(refusing("r1", led=True))
    assert few.views[0].why.startswith("slow")


def test_the_hint_after_refusals_is_not_more_time() -> None:
    for names, hint in ((("r0",), "which agents refused"), ((), "longer time")):
        log = refusing(*names)
        for name in log.names:
            log.append(name, DEADLINE_PASSED, DeadlinePassed(OVERALL), "pub")
        log.conclude()
        told = list(steps(log.records, "c1", log.root.public_key, KNOWN))
        lines = list(explanation.in_words(explanation.explain("c1", told, story(log))))
        assert any(line.startswith("hint: ") and hint in line for line in lines), lines


def test_a_fork_is_told() -> None:
    assert story(forked("r0", "r1", "r2")).forked_slot == 1


def test_the_story_is_part_of_the_explanation() -> None:
    log = forked("r2")
    told = list(steps(log.records, "c1", log.root.public_key, KNOWN))
    lines = list(explanation.in_words(explanation.explain("c1", told, story(log))))
    assert any("commit x " in line or "; commit" in line for line in lines)
    assert any(line.startswith("caught: r2 signed two different commits") for line in lines)
    assert any("n = 4, tolerates 1 Byzantine, q = 3" in line for line in lines)
