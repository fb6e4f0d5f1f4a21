"""Diagrams of Byzantine consensus, from the scenarios' logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mabeam.core.audit.findings import readable
from mabeam.core.audit.replay import Step
from mabeam.core.errors import PeerProtocolError
from mabeam.core.kernel_events import TERMINAL_TYPES
from mabeam.infra.diagram import mermaid, svg, text
from mabeam.infra.diagram.compose import compose
from mabeam.infra.diagram.model import Diagram
from mabeam.protocols.byzantine.coordinator import ByzantineCoordinator
from tests.conftest import Golden
from tests.protocols.byzantine.network import OPENED, REQUESTED
from tests.scenarios.byzantine_script import ByzantineScript
from tests.scenarios.byzantine_stage import Stage

GOLDEN = Path(__file__).parent / "golden"
SCENARIOS = Path(__file__).parents[2] / "scenarios" / "byzantine"
DRAWN = ("new_view_wrong_slot", "certificate_after_failure")


def played(name: str) -> Stage:
    """The stage after a scenario."""
    script = ByzantineScript()
    for block in (SCENARIOS / f"{name}.txt").read_text(encoding="utf-8").split("\n\n"):
        for line in block.split("\n----")[0].splitlines():
            if not line.startswith("#"):
                script.execute(line)
    assert script.stage is not None
    return script.stage


def steps_of(stage: Stage) -> Iterator[Step]:
    """The steps that a recording of this log has; its opening was not played and is made up."""
    coordinator = ByzantineCoordinator(stage.context(""))
    appended = {text: at for at, text, readers in stage.trace if not readers}
    content = readable(stage.context("").opened) | {"participants": []}
    content["participants"] = [{"agent_id": each} for each in stage.group.replicas]

    def step(
        sequence: int,
        id: bytes,
        type: str,
        author: str,
        body: object,
        refs: tuple[bytes, ...] = (),
        at_ms: int = 0,
        verdict: str = "in force",
    ) -> Step:
        ended = [each.type for each in stage.log[: sequence - 3] if each.type in TERMINAL_TYPES]
        phase = "requested" if sequence < 3 else "active"
        phase = ended[-1].removeprefix("coordination.") if ended else phase
        names = tuple(each.hex() for each in refs)
        return Step(
            sequence, at_ms * 1_000_000, id.hex(), type, author, verdict, "", body, phase,
            "coordinator", coordinator.waiting_for(), (), names,
        )  # fmt: skip

    asked = {"protocol": content["protocol"], "config": {"proposal": "A"}, "participants": []}
    yield step(1, REQUESTED, "coordination.requested", "client", asked)
    yield step(2, b"claim", "coordination.claimed", "coordinator", {"term": 1})
    yield step(3, OPENED, "coordination.opened", "coordinator", content, (REQUESTED,))
    for event in stage.log:
        verdict = "in force"
        try:
            coordinator.apply(event)
        except PeerProtocolError as error:
            verdict = error.reason
        at_ms = appended[event.id.hex()]
        refs = event.event.header.refs
        body = readable(event.content)
        sequence = event.sequence + 3
        yield step(sequence, event.id, event.type, event.author, body, refs, at_ms, verdict)


def drawn(name: str) -> Diagram:
    """The diagram of a scenario."""
    return compose("c-1", list(steps_of(played(name))))


@pytest.mark.parametrize("name", DRAWN)
def test_byzantine_scenarios_are_drawn(name: str, golden: Golden) -> None:
    diagram = drawn(name)
    for width in (80, 110):
        shown = text.render(diagram, width)
        assert max(map(len, shown.splitlines())) <= width
    golden.check(GOLDEN / f"{name}.txt", shown)
    golden.check(GOLDEN / f"{name}.mmd", mermaid.render(diagram))
    golden.check(GOLDEN / f"{name}.svg", svg.render(diagram))


def test_a_vote_answers_the_proposal_and_not_what_that_stands_on() -> None:
    diagram = drawn("certificate_after_failure")
    prepares = [row for row in diagram.rows if row.words.startswith("prepare ")]
    assert len(prepares) == 3
    assert {diagram.lanes[at].name for row in prepares for at in row.sources} == {"r0"}


def test_a_wrong_new_view_is_crossed_out() -> None:
    rows = drawn("new_view_wrong_slot").rows
    (wrong,) = [row for row in rows if row.reason]
    assert wrong.words.startswith("NEW-VIEW v1 over 3 view changes: s1 ")
    assert wrong.reason == "invalid_certificate"
