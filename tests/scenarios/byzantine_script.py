"""The script language of the scenarios in ``byzantine/``; README.md explains it with an example."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mabeam.core.errors import ConfigError
from mabeam.core.machine import LogEvent
from mabeam.protocols.byzantine import ByzantineConfig, Verdict
from mabeam.protocols.byzantine.config import complete
from mabeam.protocols.byzantine.events import (
    HANDOVER,
    REQUEST,
    HandoverRequested,
    RequestSubmitted,
)
from mabeam.protocols.byzantine.forensics import culprits_of
from mabeam.protocols.byzantine.proofs import Proof, is_proof
from tests.protocols.byzantine.network import Node, names
from tests.scenarios.byzantine_forging import Forge
from tests.scenarios.byzantine_stage import Pattern, Rule, Stage, short

SEPARATOR = "----"
MAX_NAMED = 10
PROTOCOL_EVENTS = ("pre_prepare", "prepare", "commit")


def run_script(text: str) -> str:
    """The same scenario with the trace that its commands produce now."""
    script = ByzantineScript()
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return "\n\n".join(_run_block(script, block.strip("\n")) for block in blocks) + "\n"


def _run_block(script: ByzantineScript, block: str) -> str:
    commands = block.split(f"\n{SEPARATOR}", 1)[0].splitlines()
    trace: list[str] = []
    for line in commands:
        if not line.startswith("#"):
            trace.extend(script.execute(line))
    if script.stage is None and not trace:
        return "\n".join(commands)
    return "\n".join([*commands, SEPARATOR, *trace, *script.status()])


class ByzantineScript:
    """Executes commands over one :class:`Stage`."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self._config: dict[str, Any] = {"proposal": "A"}
        self._faulty: dict[str, frozenset[str]] = {}
        self._rules: list[Rule] = []
        self._shown = 0
        self._told: list[str] = []
        self._commands: dict[str, Callable[..., None]] = {
            "config": self._configure,
            "faulty": self._cast,
            "replicas": self._start,
            "verdict": self._verdict,
            "withhold": self._withhold,
            "lose": self._lose,
            "delay": self._delay,
            "deliver": self._deliver,
            "repeat": self._repeat,
            "request": self._request,
            "handover": self._handover,
            "forge": self._forge,
            "tick": self._tick,
            "expect": self._expect,
            "proof": self._proof,
            "culprits": self._culprits,
        }

    def execute(self, line: str) -> list[str]:
        """Trace lines of one command."""
        word, _, rest = line.partition(" ")
        if word == "config":
            self._configure(rest)
            return []
        parts = shlex.split(rest)
        positional = [part for part in parts if "=" not in part]
        named = dict(part.split("=", 1) for part in parts if "=" in part)
        self._told = []
        try:
            self._commands[word](*positional, **named)
        except AssertionError as error:
            raise AssertionError(f"{line}: {error}") from error
        return [*self._new_lines(), *self._told]

    @property
    def _running(self) -> Stage:
        assert self.stage is not None, "the script needs `replicas` first"
        return self.stage

    # Before the start ---------------------------------------------------------------------------

    def _configure(self, text: str) -> None:
        self._config.update(json.loads(text))

    def _cast(self, *replicas: str, mute: str = "") -> None:
        muted = frozenset(mute.split(",")) if mute else frozenset()
        self._faulty.update(dict.fromkeys(replicas, muted))

    def _start(self, count: str, f: str = "", *, timeout: str = "60000") -> None:
        if f:
            self._config["f"] = int(f)
        config = ByzantineConfig(**self._config)
        try:
            complete(config, int(count))
        except ConfigError as error:
            details = getattr(error, "details", {})
            self._told.append(f"refused: {error.code} {json.dumps(details)}")
            return
        self.stage = Stage(int(count), config, self._faulty, self._rules, int(timeout))
        self._shown = 0
        group = self.stage.group
        self._told.append(
            f"n {group.n}, f {group.f}, q {group.q}; primary of view 0 is {group.primary(0)}"
        )

    # The schedule -------------------------------------------------------------------------------

    def _withhold(self, *kinds: str, **fields: str) -> None:
        self._rules.append(Rule(_pattern(kinds, fields), "withhold"))

    def _lose(self, *kinds: str, **fields: str) -> None:
        self._rules.append(Rule(_pattern(kinds, fields), "lose"))

    def _delay(self, milliseconds: str, *kinds: str, **fields: str) -> None:
        self._rules.append(Rule(_pattern(kinds, fields), "delay", int(milliseconds)))

    def _deliver(self, *kinds: str, **fields: str) -> None:
        self._running.release(_pattern(kinds, fields) if kinds or fields else None)

    def _repeat(self, event: str, *, to: str = "") -> None:
        stage = self._running
        found = stage.log[int(event.removeprefix("@")) - 1]
        for reader in to.split(",") if to else names(stage.count):
            stage.give(reader, found)

    def _tick(self, milliseconds: str) -> None:
        self._running.pass_time(int(milliseconds))

    # What people and liars do -------------------------------------------------------------------

    def _verdict(self, replica: str, reason: str) -> None:
        self._running.verdicts[replica] = Verdict.refuse(reason)

    def _request(self, client: str, operation: str, *, number: str = "1") -> None:
        body = RequestSubmitted(int(number), operation)
        self._sign(client, REQUEST, body)

    def _handover(self, client: str, successor: str) -> None:
        self._sign(client, HANDOVER, HandoverRequested(successor))

    def _forge(self, author: str, kind: str, **fields: str) -> None:
        stage = self._running
        assert author in self._faulty or author not in names(stage.count), f"{author} is honest"
        self._sign(author, *Forge(stage, author).event(kind, fields))

    def _sign(self, author: str, kind: str, body: Any, refs: tuple[bytes, ...] = ()) -> None:
        stage = self._running
        if author not in names(stage.count):
            stage.put(author, kind, body, refs)
            return
        node = stage.node(author)
        node.sign(kind, body, refs)
        node.react()

    # What must have come of it ------------------------------------------------------------------

    def _expect(self, what: str, *values: str, **fields: str) -> None:
        checks: dict[str, Callable[..., None]] = {
            "appends": self._expect_appends,
            "decided": self._expect_decided,
            "executed": self._expect_executed,
            "view": self._expect_view,
            "ending": self._expect_ending,
            "handed_over": self._expect_handed_over,
        }
        checks[what](*values, **fields)

    def _expect_appends(self, count: str) -> None:
        found = sum(short(event.type) in PROTOCOL_EVENTS for event in self._running.log)
        assert found == int(count), f"there are {found}"

    def _replicas(self, given: tuple[str, ...]) -> Iterator[Node]:
        stage = self._running
        yield from (stage.node(each) for each in given) if given else stage.honest

    def _expect_decided(self, operation: str, *replicas: str, view: str = "") -> None:
        for node in self._replicas(replicas):
            machine = node.machine
            slot = machine.deciding
            assert slot is not None, f"{node.author} has not decided"
            assert machine.executor.operation(slot.requests[0]) == operation, node.author
            found = machine.executor.decisions[slot.sequence].view
            assert view in ("", str(found)), f"{node.author} decided by view {found}"

    def _expect_executed(self, slots: str, *replicas: str) -> None:
        for node in self._replicas(replicas):
            found = node.machine.executor.executed
            assert found == int(slots), f"{node.author} executed {found}"

    def _expect_view(self, view: str, *replicas: str) -> None:
        for node in self._replicas(replicas):
            views = node.machine.views
            assert (views.view, views.is_active) == (int(view), True), (
                f"{node.author}: {views.view}"
            )

    def _expect_ending(self, kind: str, code: str = "", *, final: str = "") -> None:
        ended = self._running.ended
        if kind == "none":
            assert ended is None, f"it ended: {ended}"
            return
        assert ended is not None, "it has not ended"
        assert short(ended.type) == kind, ended.type
        assert code in ("", getattr(ended.body, "code", "")), ended.body
        assert final in ("", str(getattr(ended.body, "final", "")).lower()), ended.body

    def _expect_handed_over(self, successor: str, slot: str) -> None:
        ended = self._running.ended
        assert ended is not None, "it has not ended"
        outcome = getattr(ended.body, "outcome", {})
        found = outcome.get("result"), outcome.get("successor"), outcome.get("sequence")
        assert found == ("handed_over", successor, int(slot)), ended.body
        assert all(node.machine.is_done() for node in self._replicas(())), "replicas go on"

    def _proof(self, rule: str, accused: str, *events: str) -> None:
        stage = self._running
        found = tuple(stage.log[int(each.removeprefix("@")) - 1] for each in events)
        holds = is_proof(Proof(rule, accused, found), stage.group)
        told = "holds" if holds else "does not hold"
        self._told.append(f"proof {rule} against {accused} by {' '.join(events)} {told}")

    def _culprits(self) -> None:
        stage = self._running
        found = culprits_of(stage.log, stage.group)
        for accused, proof in found.items():
            events = " ".join(f"@{event.sequence}" for event in proof.events)
            self._told.append(f"culprit {accused}: {proof.rule} by {events}")
        if not found:
            self._told.append("no culprits")

    # Rendering ----------------------------------------------------------------------------------

    def status(self) -> list[str]:
        """Time, and the honest replicas by where they stand."""
        if self.stage is None:
            return []
        standing: dict[str, list[str]] = {}
        for node in self.stage.honest:
            machine = node.machine
            words = f"{machine.phase()}, view {machine.views.view}"
            words += f", executed {machine.executor.executed}"
            standing.setdefault(words, []).append(node.author)
        lines = [
            f"= {' '.join(who) if len(who) <= MAX_NAMED else f'all {len(who)}'}: {words}"
            for words, who in standing.items()
        ]
        return [*lines, f"= {self.stage.now} ms"]

    def _new_lines(self) -> list[str]:
        if self.stage is None:
            return []
        trace = self.stage.trace
        lines = [self._line(*each) for each in trace[self._shown :]]
        self._shown = len(trace)
        return lines

    def _line(self, at: int, text: str, readers: list[str]) -> str:
        if readers:
            return f"      {at:>6} | {' '.join(sorted(readers))}: {text}"
        event = self._running.find(bytes.fromhex(text))
        assert event is not None
        return f"{'@' + str(event.sequence):>5} {at:>6} {self._event(event)}"

    def _event(self, event: LogEvent) -> str:
        name = self._running.name
        body = msgspec.to_builtins(event.content, builtin_types=(bytes,))
        fields = " ".join(
            f"{key}={self._plain(value)}" for key, value in body.items() if value is not None
        )
        refs = " ".join(map(name, event.event.header.refs))
        line = f"{event.author} {short(event.type)} {fields}"
        return f"{line} <- {refs}" if refs else line

    def _plain(self, value: Any) -> str:
        if isinstance(value, bytes):
            return self._running.name(value) if len(value) == 32 else f"{len(value)} bytes"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k}: {self._plain(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(self._plain, value)) + "]"
        return json.dumps(value)


def _pattern(kinds: tuple[str, ...], fields: dict[str, str]) -> Pattern:
    known = dict(fields)
    authors, readers = known.pop("by", ""), known.pop("to", "")
    view, slot = known.pop("view", None), known.pop("slot", None)
    digest = known.pop("digest", "")
    assert not known, f"unknown fields {sorted(known)}"
    return Pattern(
        kinds,
        tuple(authors.split(",")) if authors else (),
        tuple(readers.split(",")) if readers else (),
        None if view is None else int(view),
        None if slot is None else int(slot),
        digest,
    )
