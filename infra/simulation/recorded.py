"""The log of a simulated run as a bundle, to be drawn and audited like any other."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ...core.audit.bundle import encode_bundle
from ...core.errors import NotFoundError
from ...core.names import REGISTRY
from ...core.sim.checkers import Violation
from ...core.sim.run import Case, Recording, Result, Simulation, run_case


class RecordedRun(msgspec.Struct, frozen=True):
    """A run that was done again with Ed25519 signatures.

    Attributes:
        result: what came of it.
        coordination: the one in the bundle: the first a violation names, else the first.
        bundle: what ``audit verify`` and ``coord diagram`` read.
        root_public_key: root key of the simulated deployment.
    """

    result: Result
    coordination: str
    bundle: bytes
    root_public_key: bytes


def record_run(case: Case, simulation: Simulation) -> RecordedRun:
    """Do a run again and keep its log.

    Raises:
        NotFoundError: nothing was asked for in it.
        LimitError: the log is larger than a bundle may be.
    """
    recording = Recording(real_signatures=True)
    result = run_case(case, simulation, recording)
    world = recording.world
    if world is None or not world.requested:
        raise NotFoundError(f"the run of seed {case.seed} broke before anything was asked for")
    name = _named(world.requested, result.violations)
    records = [each for each in world.network.broker.records if _of(each.subject) == name]
    if not records:
        raise NotFoundError(f"the log of seed {case.seed} holds nothing of {name}")
    last = records[-1].sequence
    records += [
        each
        for each in world.network.broker.records
        if each.sequence <= last and _of(each.subject) == REGISTRY
    ]
    root = world.root.public_key
    ordered = sorted(records, key=lambda record: record.sequence)
    return RecordedRun(result, name, encode_bundle(name, ordered, root), root)


def _of(subject: str) -> str:
    return subject.split(".", 4)[3]


def _named(coordinations: Iterable[str], violations: Iterable[Violation]) -> str:
    """The first coordination a violation is about."""
    known = list(coordinations)
    words = [word.strip(":,") for each in violations for word in each.message.split()]
    return next((word for word in words if word in known), known[0])
