"""Properties over random ballots (specification 1.14 and 3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mabeam.core.kernel_events import DeadlinePassed, EvidenceSubmitted
from mabeam.protocols.simple import SPEC, SimpleConfig
from mabeam.protocols.simple.coordinator import SimpleCoordinator
from mabeam.protocols.simple.events import BallotClosed, BallotOpened, VoteCast, Weights
from mabeam.protocols.simple.participant import SimpleParticipant
from mabeam.protocols.simple.proposal import proposal_digest
from mabeam.protocols.simple.tally import GRADES
from mabeam.protocols.simple.weights import cap_shares, expertise_weight
from tests.protocols.simple.ballot_world import World, context_for, log_event, rejection
from tests.protocols.simple.naive_count import NaiveVote, naive_decision

PPM = 1_000_000
RULES = ("threshold", "majority", "unanimous", "plurality", "weighted")
NAMES = ("v1", "v2", "v3", "v4", "v5")

ppm = st.integers(0, PPM)
weight = st.integers(1, 10**9)
choice = st.sampled_from(["agree", "disagree", "neutral", "abstain", None])
ballots = st.lists(
    st.tuples(weight, choice, st.one_of(st.none(), ppm)), min_size=1, max_size=len(NAMES)
)
configs = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(RULES),
        "threshold_ppm": st.integers(500_000, PPM),
        "min_share_ppm": ppm,
        "min_turnout_ppm": st.one_of(st.none(), ppm),
        "early_exit": st.booleans(),
    }
)

Votes = Sequence[tuple[int, str | None, int | None]]


def hold(fields: dict[str, Any], votes: Votes, order: Sequence[int]) -> World:
    """A ballot in which the votes come in ``order``; who has no option stays silent."""
    named = {NAMES[index]: each[0] for index, each in enumerate(votes)}
    world = World(named, unit=1, **fields)
    for index in order:
        _, option, confidence_ppm = votes[index]
        if option is not None:
            body = VoteCast(1, world.digest, option, confidence_ppm)
            world.append(NAMES[index], "simple.vote_cast", body)
            world.run()
    if not world.decided:
        world.deadline()
    return world


def naive(fields: dict[str, Any], votes: Votes) -> str:
    rule = fields["rule"]
    options = ("agree", "neutral", "disagree") if rule == "weighted" else ("agree", "disagree")
    turnout = fields["min_turnout_ppm"]
    if turnout is None:
        turnout = 500_000 if rule == "weighted" else 0
    share = fields["min_share_ppm"] if rule == "plurality" else fields["threshold_ppm"]
    return naive_decision(
        rule,
        [
            NaiveVote(each, option, Fraction(500_000 if ppm_ is None else ppm_, PPM))
            for each, option, ppm_ in votes
        ],
        options=options,
        share=Fraction(share, PPM),
        turnout=Fraction(turnout, PPM),
    )


@given(configs, ballots, st.data())
def test_any_order_decides_as_the_naive_counter(
    fields: dict[str, Any], votes: Votes, data: st.DataObject
) -> None:
    """SIM-3 to SIM-6, COM-6. Only an early grade may be another, and then both are approvals."""
    order = data.draw(st.permutations(range(len(votes))))
    outcome = hold(fields, votes, order).outcome
    expected = naive(fields, votes)
    if fields["rule"] == "weighted" and outcome.decided_by == "threshold":
        assert outcome.decision in GRADES[:2]
        assert expected in GRADES[:2]
    else:
        assert outcome.decision == expected


@given(configs, ballots)
def test_outcome_is_bounded_and_labelled_honestly(fields: dict[str, Any], votes: Votes) -> None:
    """COM-1, COM-27: integers in bounds, and no claim beyond crashes under ``ordering: log``."""
    outcome = hold(fields, votes, range(len(votes))).outcome
    msgspec.convert(msgspec.to_builtins(outcome), SPEC.outcome_type)  # checks all bounds
    weights = outcome.weights
    spread = sum(weights.options.values()) + weights.abstain + weights.void + weights.silent
    assert spread == weights.total == sum(each[0] for each in votes)
    label = outcome.tolerance
    assert (label.f, label.ordering, label.n) == (0, "log", len(votes))
    assert {"operator_order", "crash_only"} <= set(label.assumes)
    assert ("stated_confidence" in label.assumes) == (fields["rule"] == "weighted")
    assert ("single_controller" in label.assumes) == (len(votes) == 1)
    assert not {"at_most_f_byzantine", "partial_synchrony"} & set(label.assumes)
    assert 0 <= label.q <= weights.total
    if outcome.decision not in ("no_consensus", *GRADES) and outcome.decision != "disagree":
        assert weights.options[outcome.decision] >= label.q


@given(configs, ballots, st.lists(st.tuples(st.integers(0, 4), choice), max_size=8))
def test_nothing_after_the_verdict_changes_it(
    fields: dict[str, Any], votes: Votes, late: list[tuple[int, str | None]]
) -> None:
    """COM-8, COM-17, and folding the log again gives the same terminal event (replay)."""
    world = hold(fields, votes, range(len(votes)))
    terminal, log = world.terminal, list(world.log)
    for index, option in late:
        if option is not None and index < len(votes):
            assert world.vote(NAMES[index], option) is not None
    assert world.coordinator.terminal() == terminal
    again = SimpleCoordinator(world.context)
    for event in (each for each in log for _ in range(2)):  # every event delivered twice
        reason = rejection(again, event)
        assert reason in (None, "duplicate", "late", "wrong_phase", "unknown_option")
    assert again.terminal() == terminal


bodies = st.one_of(
    st.builds(
        BallotOpened,
        st.integers(1, 10),
        st.one_of(st.just(proposal_digest(1)), st.binary(min_size=32, max_size=32)),
        st.just(("agree", "disagree")),
        st.integers(1, 10**6),
    ).map(lambda body: ("simple.ballot_opened", body)),
    st.builds(
        VoteCast,
        st.integers(1, 10),
        st.one_of(st.just(proposal_digest(1)), st.binary(min_size=32, max_size=32)),
        st.text(min_size=1, max_size=64),
        st.one_of(st.none(), ppm),
    ).map(lambda body: ("simple.vote_cast", body)),
    st.builds(
        BallotClosed,
        st.integers(1, 10),
        st.text(min_size=1, max_size=64),
        st.just(Weights({}, 0, 0, 0, 0)),
    ).map(lambda body: ("simple.ballot_closed", body)),
    st.builds(
        DeadlinePassed, st.sampled_from(["ballot", "overall"]), st.integers(0, 2**63 - 1)
    ).map(lambda body: ("deadline.passed", body)),
    st.builds(
        EvidenceSubmitted, st.just("E1"), st.just("v1"), st.just((bytes(32),)), st.just((b"",))
    ).map(lambda body: ("evidence.submitted", body)),
)
authors = st.sampled_from([*NAMES[:3], "coordinator", "stranger"])


@settings(max_examples=200)
@given(st.lists(st.tuples(authors, bodies), max_size=12), st.booleans())
def test_only_the_typed_peer_error_leaves_a_fold(
    steps: list[tuple[str, tuple[str, Any]]], opened: bool
) -> None:
    """Specification 1.12: whatever peers sign, the fold stays up and its intents stay pure."""
    context = context_for(dict.fromkeys(NAMES[:3], 1), SimpleConfig(proposal=1), author="v1")
    machines = (SimpleCoordinator(context), SimpleParticipant(context))
    opening = machines[0].opening()
    log = [("coordinator", (opening.type, opening.body))] if opened else []
    for sequence, (author, (type_name, body)) in enumerate([*log, *steps], 1):
        event = log_event(sequence, author, type_name, body)
        for machine in machines:
            assert rejection(machine, event) != ""
            assert list(machine.intents()) == list(machine.intents())
            assert machine.phase()
            assert list(machine.waiting_for()) == sorted(machine.waiting_for())


fields_of_bodies = sorted(
    {name for kind in SPEC.event_types for name in kind.body.__struct_fields__}
)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=80),
    st.binary(max_size=40),
    st.lists(st.text(max_size=8), max_size=4),
    st.dictionaries(st.text(max_size=8), st.integers(-1, 1), max_size=2),
)


@given(st.dictionaries(st.sampled_from([*fields_of_bodies, "unknown"]), values, max_size=7))
def test_any_event_body_is_decoded_or_refused(content: dict[str, Any]) -> None:
    """Bodies decode strictly: random content is a body or a typed refusal."""
    data = msgspec.msgpack.encode(content)
    for kind in SPEC.event_types:
        try:
            decoded = msgspec.msgpack.decode(data, type=kind.body)
        except msgspec.ValidationError:
            continue
        assert isinstance(decoded, kind.body)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for kind in SPEC.event_types:
        try:
            decoded = msgspec.msgpack.decode(data, type=kind.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        assert isinstance(decoded, kind.body)


def lower_until_stable(weights: list[int], cap_ppm: int) -> list[int]:
    """SIM-8 as it is worded."""
    current = list(weights)
    while True:
        top = max(range(len(current)), key=current.__getitem__)
        others = sum(current) - current[top]
        if current[top] * PPM <= cap_ppm * (current[top] + others):
            return current
        current[top] = cap_ppm * others // (PPM - cap_ppm)


@given(st.lists(st.integers(1, 10**4), min_size=1, max_size=6), ppm)
def test_cap_is_the_iteration_of_the_specification(weights: list[int], cap: int) -> None:
    cap = max(cap, -(-PPM // len(weights)))
    capped = cap_shares(weights, cap)
    assert capped == lower_until_stable(weights, cap)
    assert min(capped) >= 1
    assert max(capped) * PPM <= cap * sum(capped)


@given(ppm, ppm)
def test_expertise_is_monotone(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 100_000 <= expertise_weight(low) <= expertise_weight(high) <= 2_000_000
