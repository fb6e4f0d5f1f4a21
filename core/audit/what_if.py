"""What if: the recorded inputs of a coordination, folded again under other parameters.

The participants' events are taken as recorded. A coordinator's act (a phase opened, a deadline
passed) happens where it was recorded if the machine with the other parameters intends one of that
type then, with the content this machine gives it; otherwise it did not happen. Nothing is
invented: where the other parameters would have needed further events, the coordination would
still be open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..admission import Rejection
from ..coordination import Coordination
from ..errors import ConfigError, NotFoundError, PeerProtocolError, UsageError
from ..kernel_events import CoordinationOpened
from ..log import Record
from ..machine import (
    TERMINAL_KEY,
    After,
    Append,
    Context,
    Intent,
    LogEvent,
    Machine,
    Protocols,
    ProtocolSpec,
)
from .findings import Ending, ending_of, readable
from .replay import Planned, Recording, planned


class WhatIf(msgspec.Struct, frozen=True):
    """A recorded coordination next to what other parameters would have given.

    Attributes:
        coordination, protocol: which one.
        changed: the parameters that differ, as (recorded, changed).
        recorded: how it ended; ``None`` if it is open.
        alternative: how it would have ended; ``None`` if it would still be open. ``sequence`` is
            the position of the event that would have ended it, ``author`` is empty.
        waiting_for: whose events an open alternative would wait for.
        planned: what an open alternative would do next.
    """

    coordination: str
    protocol: str
    changed: dict[str, tuple[Any, Any]]
    recorded: Ending | None
    alternative: Ending | None
    waiting_for: tuple[str, ...] = ()
    planned: tuple[Planned, ...] = ()


class _Recorder(Machine):
    """Passes events to a machine and remembers them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.events: list[LogEvent] = []

    def apply(self, event: LogEvent) -> None:
        self.events.append(event)
        self._machine.apply(event)

    def intents(self) -> Iterable[Intent]:
        return self._machine.intents()

    def phase(self) -> str:
        return self._machine.phase()

    def waiting_for(self) -> tuple[str, ...]:
        return self._machine.waiting_for()


def what_if(
    records: Iterable[Record],
    overrides: Mapping[str, str],
    coordination: str,
    root_public_key: bytes,
    protocols: Protocols,
) -> WhatIf:
    """Fold the recorded inputs of a coordination under changed protocol parameters.

    Args:
        records: its records and those of the registry, in log order.
        overrides: parameters to change, as text: JSON, or a plain string.
        coordination: its id.
        root_public_key: the deployment's root key.
        protocols: known protocols.

    Raises:
        UsageError: an unknown parameter or a value the protocol refuses.
        NotFoundError: it was never opened.
    """
    recording = Recording(coordination, root_public_key, protocols)
    fold, recorder = recording.fold, None
    for _, result in recording.read(records):
        if isinstance(result, Rejection):
            continue
        _apply(fold, result)
        if recorder is None and fold.machine is not None:
            recorder = fold.machine = _Recorder(fold.machine)
    if fold.opened is None or recorder is None:
        raise NotFoundError(
            f"{coordination!r} was never opened here", hint="See 'mabeam coord ls'."
        )
    opened: CoordinationOpened = fold.opened.content
    spec = protocols[opened.protocol]
    context = _context(fold, opened, spec, overrides)
    machine = _machine(spec, context, overrides)
    alternative = _refold(machine, fold, spec, recorder.events)
    before, after = readable(opened.config), readable(context.opened.config)
    return WhatIf(
        coordination,
        opened.protocol,
        {
            name: (before.get(name), after[name])
            for name in after
            if before.get(name) != after[name]
        },
        ending_of(fold.terminal),
        alternative,
        () if alternative else machine.waiting_for(),
        () if alternative else tuple(planned(intent) for intent in machine.intents()),
    )


def _machine(spec: ProtocolSpec, context: Context, overrides: Mapping[str, str]) -> Machine:
    try:
        return spec.coordinator(context)
    except PeerProtocolError as error:
        raise UsageError(f"{spec.name} refuses {_shown(overrides)}: {error}") from None


def _refold(
    machine: Machine, fold: Coordination, spec: ProtocolSpec, events: list[LogEvent]
) -> Ending | None:
    assert fold.opened is not None
    if ended := _ending(machine, fold.opened):
        return ended
    for event in events:
        content = event.content
        if _is_coordinators(event, fold, spec):
            offers = [each for each in map(_append_of, machine.intents()) if each is not None]
            intended = [each.body for each in offers if each.type == event.type]
            if not intended:
                continue
            content = content if content in intended else intended[0]
        _apply(machine, msgspec.structs.replace(event, content=content))
        if ended := _ending(machine, event):
            return ended
    return None


def _is_coordinators(event: LogEvent, fold: Coordination, spec: ProtocolSpec) -> bool:
    """Whether it is an act of the coordinator, which the other machine must intend too."""
    if event.type == "deadline.passed":
        return True
    kind = next((each for each in spec.event_types if each.name == event.type), None)
    if kind is None:
        return False
    return "pub" not in kind.classes or fold.participant(event.author) is None


def _ending(machine: Machine, event: LogEvent) -> Ending | None:
    for intent in machine.intents():
        if isinstance(intent, Append) and intent.key == TERMINAL_KEY:
            return Ending(event.sequence, intent.type, "", readable(intent.body))
    return None


def _append_of(intent: Intent) -> Append | None:
    return (
        intent.then if isinstance(intent, After) else intent if isinstance(intent, Append) else None
    )


def _apply(fold: Coordination | Machine, event: LogEvent) -> bool:
    try:
        fold.apply(event)
    except PeerProtocolError:
        return False
    return True


def _context(
    fold: Coordination, opened: CoordinationOpened, spec: ProtocolSpec, overrides: Mapping[str, str]
) -> Context:
    assert fold.opened is not None
    types = {field.encode_name: field.type for field in msgspec.structs.fields(spec.config_type)}
    unknown = sorted(set(overrides) - set(types))
    if unknown:
        raise UsageError(
            f"{spec.name} has no parameter {', '.join(unknown)}",
            hint=f"Its parameters: {', '.join(types)}.",
        )
    changed = {name: _parse(text, types[name]) for name, text in overrides.items()}
    try:
        config = msgspec.convert({**opened.config, **changed}, spec.config_type)
        config, members = spec.freeze(config, opened.participants)
    except (msgspec.ValidationError, ConfigError) as error:
        raise UsageError(
            f"{spec.name} refuses {_shown(overrides)}: {error}",
            hint=f"Its parameters: {', '.join(types)}.",
        ) from None
    plain = msgspec.to_builtins(config, builtin_types=(bytes,))
    altered = msgspec.structs.replace(opened, config=plain, participants=members)
    return Context(
        fold.id,
        fold.epoch,
        fold.opened.id,
        altered,
        config,
        "",
        _no_secret,
        requester=fold.request.author if fold.request else "",
    )


def _parse(text: str, kind: Any) -> Any:
    """The value written as JSON, or the text itself where that is what fits."""
    try:
        value = msgspec.json.decode(text)
        msgspec.convert(value, kind)
        return value
    except msgspec.DecodeError:
        return text


def _shown(overrides: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in overrides.items())


def _no_secret(label: str) -> bytes:
    raise ValueError(f"a replay has no secret {label!r}")
