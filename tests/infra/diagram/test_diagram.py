"""Sequence diagrams: what is drawn, and how it looks, against golden files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import msgspec
import pytest
from logbook import Logbook, eventful_log

from mabeam.core.audit.replay import Step, steps
from mabeam.core.errors import NotFoundError
from mabeam.infra.diagram import mermaid, svg, text
from mabeam.infra.diagram.compose import MAX_LANES, compose
from mabeam.infra.diagram.model import Diagram
from mabeam.infra.diagram.svg import CHARACTER
from mabeam.infra.diagram.template import duration, fill
from mabeam.infra.diagram.wording import WORDINGS, words
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.byzantine.events import BYZANTINE_EVENT_TYPES
from tests.conftest import Golden

GOLDEN = Path(__file__).parent / "golden"
DRAWN = ("two-faced", "taken-over", "running", "called-off", "nobody", "crowd")
SVG = "{http://www.w3.org/2000/svg}"


@cache
def book() -> Logbook:
    """Everything that can happen, and a crowd of thirty."""
    log = eventful_log()
    crowd = [f"member-{number:02}" for number in range(30)]
    for name in crowd:
        log.admit(name, "agent")
    log.start("crowd", *crowd, early_exit=False)
    for name in crowd[:20]:
        log.vote("crowd", name)
    log.vote("crowd", crowd[3], "disagree", expect="equivocation")
    log.go_on("crowd")
    for name in crowd[20:29]:
        log.vote("crowd", name, "disagree")
    log.deadline("crowd")
    return log


def walked(coordination: str) -> list[Step]:
    """Its steps."""
    log = book()
    return list(steps(log.records, coordination, log.root.public_key, PROTOCOLS))


def drawn(coordination: str) -> Diagram:
    """Its diagram."""
    return compose(coordination, walked(coordination))


# The model --------------------------------------------------------------------------------------


def test_lanes_stand_in_the_order_requester_coordinators_participants_others() -> None:
    lanes = drawn("taken-over").lanes
    assert [(lane.name, lane.role) for lane in lanes[:4]] == [
        ("client", "requester"),
        ("coordinator-1", "coordinator"),
        ("coordinator-2", "coordinator"),
        ("agent-a", "participant"),
    ]
    assert drawn("running").lanes[-1].role == "other"


def test_arrows_come_from_those_who_are_answered() -> None:
    diagram = drawn("taken-over")
    takeover = next(row for row in diagram.rows if row.kind == "takeover")
    assert takeover.words == "takes over from coordinator-1, term 2"
    assert [diagram.lanes[at].name for at in takeover.sources] == ["coordinator-1"]
    ending = next(row for row in diagram.rows if row.kind == "ending")
    assert [diagram.lanes[at].name for at in ending.sources] == [
        f"agent-{letter}" for letter in "abcde"
    ]


def test_every_event_is_drawn_and_what_has_no_effect_says_why() -> None:
    for name in DRAWN:
        found = {row.sequence: row.reason for row in drawn(name).rows}
        for step in walked(name):
            if name != "crowd":
                assert found[step.sequence] == ("" if step.verdict == "in force" else step.verdict)
    assert sum(row.count for row in drawn("crowd").rows) == len(walked("crowd"))
    assert all(row.kind == "event" for row in drawn("running").rows if row.reason)


def test_what_an_answered_event_answers_itself_is_left_out() -> None:
    first, second, third = (step for step in walked("agreed")[2:5])
    chain = [
        first,
        _answering(second, first.event_id),
        _answering(third, first.event_id, second.event_id),
    ]
    diagram = compose("agreed", chain)
    assert [diagram.lanes[at].name for at in diagram.rows[2].sources] == [second.author]


def _answering(step: Step, *refs: str) -> Step:
    return msgspec.structs.replace(step, refs=refs)


def test_a_crowd_shares_a_lane_and_whoever_stands_out_does_not() -> None:
    diagram = drawn("crowd")
    assert len(diagram.lanes) == 4 <= MAX_LANES
    shared = next(lane for lane in diagram.lanes if lane.members)
    assert "member-03" not in shared.members
    assert "member-03" in {lane.name for lane in diagram.lanes}
    named = {lane.name for lane in diagram.lanes} | set(shared.members)
    assert {f"member-{number:02}" for number in range(30)} <= named
    assert any(row.count > 1 and row.author == f"{row.count} of them:" for row in diagram.rows)
    assert any(note.startswith(f"{shared.name}: member-") for note in diagram.notes)


def test_many_strangers_share_a_lane_too() -> None:
    steps = walked("running")
    stranger = next(step for step in steps if step.author == "stranger")
    many = [
        msgspec.structs.replace(stranger, author=f"stranger-{number}", sequence=500 + number)
        for number in range(20)
    ]
    diagram = compose("running", [*steps, *many])
    assert len(diagram.lanes) <= MAX_LANES
    assert diagram.lanes[-1].name == "21 strangers"
    assert diagram.rows[-1].count == 20


def test_without_events_there_is_nothing_to_draw() -> None:
    with pytest.raises(NotFoundError):
        compose("none", [])


# Words ------------------------------------------------------------------------------------------


def test_every_event_type_of_byzantine_consensus_and_of_the_known_protocols_has_words() -> None:
    known = {kind.name for spec in PROTOCOLS.values() for kind in spec.event_types}
    assert (known | {kind.name for kind in BYZANTINE_EVENT_TYPES}) <= set(WORDINGS)


def test_an_unknown_type_is_shown_by_its_name() -> None:
    assert words("future.thing_done", {"a": 1}, {}) == "future.thing_done"
    assert words("", None, {}) == "left a record nobody can read"


def test_sentences_leave_out_what_is_absent_and_keep_what_agents_wrote() -> None:
    template = "votes {option}[, sure by {sure:percent}][ ({why})]"
    assert fill(template, {"option": "a"}, {}) == "votes a"
    assert (
        fill(template, {"option": "{why}[x]", "sure": 5000}, {}) == "votes {why}[x], sure by 0.5 %"
    )
    assert fill(template, {"sure": "no number"}, {}) == "votes ?"
    assert fill("{a}", {"a": "x\n\x1b[31my" + "z" * 99}, {}).startswith("x [31myz")
    assert len(fill("{a}", {"a": "z" * 99}, {})) == 60
    assert fill("{a:event} {b:events}", {"a": "ab", "b": ["ab", "cd" * 8]}, {"ab": 7}) == (
        "#7 #7 cdcdcdcd"
    )


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(250, "250 ms"), (1500, "1.5 s"), (60_000, "1 min"), (90_000, "90 s"), (86_400_000, "1 d")],
)
def test_durations(milliseconds: int, shown: str) -> None:
    assert duration(milliseconds) == shown


# The three looks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("width", [80, 120])
def test_text(name: str, width: int, golden: Golden) -> None:
    shown = text.render(drawn(name), width)
    assert max(map(len, shown.splitlines())) <= width
    golden.check(GOLDEN / f"{name}-{width}.txt", shown)


@pytest.mark.parametrize("name", DRAWN)
def test_mermaid(name: str, golden: Golden) -> None:
    shown = mermaid.render(drawn(name))
    head, *lines = shown.splitlines()
    assert head == "sequenceDiagram"
    statement = re.compile(
        r"    (acc(Title|Descr): .+|(actor|participant) L\d+ as .+"
        r"|Note over L\d+(,L\d+)?: .+|L\d+(->>|--x)L\d+: .+)"
    )
    for line in lines:
        assert statement.fullmatch(line), line
        assert not re.search(r"[;#%<>]", re.sub(r"#\d+;|->>|<br/>", "", line)), line
    golden.check(GOLDEN / f"{name}.mmd", shown)


@pytest.mark.parametrize("name", ["two-faced", "crowd"])
def test_svg(name: str, golden: Golden) -> None:
    golden.check(GOLDEN / f"{name}.svg", svg.render(drawn(name)))


@pytest.mark.parametrize("name", DRAWN)
def test_no_two_texts_of_an_svg_overlap_and_all_lie_on_the_page(name: str) -> None:
    root = ElementTree.fromstring(svg.render(drawn(name)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = []
    for each in root.iter(f"{SVG}text"):
        wide = len(each.text or "") * CHARACTER
        if each.get("class") == "title":
            wide *= 14 / 12
        left = float(each.attrib["x"]) - (wide / 2 if each.get("text-anchor") == "middle" else 0)
        bottom = float(each.attrib["y"]) + 3
        boxes.append((left, bottom - 13, left + wide, bottom, each.text))
    assert len(boxes) > 20 or name == "nobody"
    for box in boxes:
        assert box[0] >= 0
        assert box[2] <= width, box
        assert box[3] <= height
    for at, (left, top, right, bottom, said) in enumerate(boxes):
        for left2, top2, right2, bottom2, other in boxes[at + 1 :]:
            apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            assert apart, (said, other)


def test_an_svg_stands_alone_and_tells_what_it_shows() -> None:
    shown = svg.render(drawn("two-faced"))
    root = ElementTree.fromstring(shown)
    assert root.findtext(f"{SVG}title") == "two-faced: simple_consensus"
    assert not re.search(r"<script|href|url\(|@import|\son\w+=", shown)
    rows = [group.findtext(f"{SVG}title") for group in root.iter(f"{SVG}g")]
    assert "30: agent-a votes disagree (no effect: equivocation)" in rows
    assert "prefers-color-scheme:dark" in shown
