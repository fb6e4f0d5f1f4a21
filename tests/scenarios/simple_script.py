"""The script language of the scenarios in ``simple/``.

A scenario is a text file of blocks separated by blank lines. A block is commands, one a line, then
a line ``----``, then the trace they must produce. ``#`` starts a comment line.

    config RULE-FIELDS             JSON object of parameters; the proposal is "p" unless given
    weights a=4 b=0.5              participants and their weights; starts the coordination
    vote a agree [0.9] [ballot=1] [digest=other]
    answer a agree [0.9]           through the participant's machine and its question
    fail a CODE                    the agent's own code failed
    deadline                       the open ballot's time is over
    repeat 3                       the log delivers event 3 again
    asks                           whom the participants' machines would ask now

The coordinator does whatever it intends after every command. A trace line is

    SEQUENCE AUTHOR TYPE BODY <- REFS [! REASON [EVIDENCE]]

with events written as ``@sequence`` and other digests shortened, and the last line of a block tells
the phase, who is waited for and which deadline is pending.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from mabeam.core.machine import After, AskFailed, LogEvent
from mabeam.protocols.simple import Ballot
from tests.protocols.simple.ballot_world import World

SEPARATOR = "----"


def run_script(text: str) -> str:
    """The same scenario with the trace that its commands produce now."""
    script = SimpleScript()
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return "\n\n".join(_run_block(script, block.strip("\n")) for block in blocks) + "\n"


def _run_block(script: SimpleScript, block: str) -> str:
    commands = block.split(f"\n{SEPARATOR}", 1)[0].splitlines()
    trace: list[str] = []
    for line in commands:
        if not line.startswith("#"):
            trace.extend(script.execute(line))
    if not trace and script.world is None:
        return "\n".join(commands)
    return "\n".join([*commands, SEPARATOR, *trace, *script.status()])


class SimpleScript:
    """Executes commands over one :class:`World`."""

    def __init__(self) -> None:
        self.world: World | None = None
        self._config: dict[str, Any] = {"proposal": "p"}
        self._shown = 0
        self._commands: dict[str, Callable[..., None]] = {
            "weights": self._weights,
            "vote": self._vote,
            "answer": self._answer,
            "fail": self._fail,
            "deadline": self._deadline,
            "repeat": self._repeat,
        }

    def execute(self, line: str) -> list[str]:
        """Trace lines of one command."""
        word, _, rest = line.partition(" ")
        if word == "config":
            self._config.update(json.loads(rest))
            return []
        if word == "asks":
            return self._asks()
        positional = [part for part in rest.split() if "=" not in part or word == "weights"]
        named = dict(part.split("=", 1) for part in rest.split() if part not in positional)
        self._commands[word](*positional, **named)
        return self._new_lines()

    @property
    def _running(self) -> World:
        assert self.world is not None, "the script needs `weights` first"
        return self.world

    def _weights(self, *parts: str) -> None:
        named = (part.split("=") for part in parts)
        micros = {agent: int(Decimal(weight) * 1_000_000) for agent, weight in named}
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in self._config.items()
        }
        self.world = World(micros, unit=1, **fields)

    def _vote(
        self, author: str, option: str, confidence: str = "", *, ballot: str = "", digest: str = ""
    ) -> None:
        self._running.vote(
            author,
            option,
            float(confidence) if confidence else None,
            ballot=int(ballot) if ballot else None,
            digest=bytes(32) if digest else None,
        )

    def _answer(self, author: str, option: str, confidence: str = "") -> None:
        answer = Ballot.choose(option, float(confidence) if confidence else None)
        self._running.answer(author, answer)

    def _fail(self, author: str, code: str) -> None:
        self._running.answer(author, AskFailed(code, "the agent's code failed"))

    def _deadline(self) -> None:
        self._running.deadline()

    def _repeat(self, sequence: str) -> None:
        self._running.replay(self._running.log[int(sequence) - 1])

    def _asks(self) -> list[str]:
        asked = {
            agent: [" ".join(map(str, intent.key)) for intent in machine.intents()]
            for agent, machine in self._running.participants.items()
        }
        return [f"asks {agent}: {', '.join(keys) or 'nothing'}" for agent, keys in asked.items()]

    def status(self) -> list[str]:
        """Phase, who is waited for, pending deadlines."""
        world = self._running
        pending = "".join(
            f"; {' '.join(map(str, intent.key))} {intent.delay_ms} ms after "
            f"{self._name(intent.since)}"
            for intent in world.intents()
            if isinstance(intent, After)
        )
        waiting = " ".join(world.coordinator.waiting_for())
        return [f"= {world.coordinator.phase()}" + (f" [{waiting}]" if waiting else "") + pending]

    # Rendering --------------------------------------------------------------------------------

    def _new_lines(self) -> list[str]:
        world = self._running
        lines = [self._line(world, at) for at in range(self._shown, len(world.log))]
        self._shown = len(world.log)
        return lines

    def _line(self, world: World, at: int) -> str:
        event: LogEvent = world.log[at]
        body = json.dumps(self._plain(msgspec.to_builtins(event.content, builtin_types=(bytes,))))
        line = f"{event.sequence} {event.author} {event.type} {body}"
        refs = event.event.header.refs
        if refs:
            line += f" <- {' '.join(map(self._name, refs))}"
        error = world.rejections.get(event.sequence)
        if error is not None:
            evidence = "".join(f" {name}" for name in sorted(map(self._name, error.evidence)))
            line += f" ! {error.reason}{evidence}"
        return line

    def _plain(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return self._name(value)
        if isinstance(value, dict):
            return {key: self._plain(each) for key, each in value.items() if each is not None}
        if isinstance(value, list | tuple):
            return [self._plain(each) for each in value]
        return value

    def _name(self, value: bytes) -> str:
        world = self._running
        if value == world.context.opened_id:
            return "@opened"
        if value == world.digest:
            return "proposal"
        for event in world.log:
            if value == event.id:
                return f"@{event.sequence}"
            if value == event.event.wire:
                return f"wire@{event.sequence}"
        return value.hex()[:8]
