"""Reconfiguring a service of replicas: it is handed over to a successor with other ones (BYZ-24).

Every step is found in the log, so after a crash the same call goes on where the last one stopped.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.client import Client
from ..core.coordination import Coordination
from ..core.errors import NotFoundError, UsageError, VerificationError
from ..core.hashing import ZERO32
from ..core.kernel_events import CoordinationRequested, Invitee
from ..core.names import check_id
from ..core.opening import OpeningError, open_request
from ..core.succession import Predecessor, contradiction, link_of
from ..protocols.byzantine import ByzantineFold
from ..protocols.byzantine.events import HANDOVER, HandoverRequested

MAX_ID = 32
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[1-9][0-9]{0,8})\Z")


class Change(msgspec.Struct, frozen=True):
    """What is to be different in the successor.

    Attributes:
        participants: its replicas.
        parameters: of ``byzantine_consensus``; others stay as they were requested.
        f: Byzantine replicas tolerated; as many as the replicas allow if unset.
        successor: its id; the next number behind the old one's if empty.
    """

    participants: Sequence[Invitee]
    parameters: dict[str, Any] = {}
    f: int | None = None
    successor: str = ""


class Reconfigured(msgspec.Struct, frozen=True):
    """A service that goes on as another.

    Attributes:
        coordination, successor: from where to where.
        sequence, state_root: last slot of the old one, and the state the new one starts from.
        replicas, f: of the new one.
    """

    coordination: str
    successor: str
    sequence: int
    state_root: str
    replicas: tuple[str, ...]
    f: int


async def reconfigure(client: Client, coordination: str, change: Change) -> Reconfigured:
    """Hand a service over and open its successor; returns when that is open.

    Before anything is handed over, the successor's configuration is tried against the registry, as
    a service that has stopped does not start again.

    Raises:
        NotFoundError: nothing is stored under that id.
        UsageError: it is no service of this client's, or the successor could not be opened.
        CoordinationFailedError: it ended otherwise, or the successor was refused.
        VerificationError: something else goes by the successor's name.
    """
    fold = await client.read(coordination)
    _check_service(client, fold)
    if link_of(fold).handover is None:
        successor = check_id(change.successor or following_id(coordination), "coordination id")
        await _hand_over(client, fold, successor, change)
        await client.result(coordination)
        fold = await client.read(coordination)
    link = link_of(fold)
    if link.handover is None:
        raise UsageError(f"{coordination!r} has ended", hint="See 'mabeam coord show'.")
    successor = link.handover.successor
    if not await _exists(client, successor):
        predecessor = Predecessor(
            coordination, link.terminal_id, link.handover.sequence, link.handover.state_root
        )
        await _request(client, fold, successor, change, predecessor)
    following = await client.until(successor, lambda it: it if it.opened is not None else None)
    wrong = contradiction(link_of(following), link)
    if wrong:
        raise VerificationError(f"{successor!r} is not the successor of {coordination!r}: {wrong}")
    opened = following.config
    assert opened is not None
    _check_same(coordination, following, change)
    return Reconfigured(
        coordination,
        successor,
        link.handover.sequence,
        link.handover.state_root.hex(),
        opened.replicas,
        opened.f,
    )


def following_id(coordination: str) -> str:
    """``ledger-2`` behind ``ledger``, ``ledger-3`` behind ``ledger-2``."""
    found = _NUMBERED.match(coordination)
    stem = found["stem"] if found else coordination
    number = f"-{int(found['number']) + 1 if found else 2}"
    return stem[: MAX_ID - len(number)] + number


def _check_service(client: Client, fold: Coordination) -> None:
    machine = fold.machine
    if not isinstance(machine, ByzantineFold) or machine.config.mode != "service":
        raise UsageError(f"{fold.id!r} is no open service of replicas")
    assert fold.request is not None
    if fold.request.author != client.author.id:
        raise UsageError(
            f"{fold.request.author!r} asked for {fold.id!r}, so only {fold.request.author!r} may "
            "hand it over",
            hint=f"Use --as {fold.request.author}.",
        )
    if fold.terminal is not None and link_of(fold).handover is None:
        raise UsageError(f"{fold.id!r} has ended", hint=f"See 'mabeam coord show {fold.id}'.")


async def _hand_over(client: Client, fold: Coordination, successor: str, change: Change) -> None:
    """Submit the handover, unless the log holds one of this client's."""
    machine = fold.machine
    assert isinstance(machine, ByzantineFold)
    if machine.is_asked_to_hand_over():
        return
    if await _exists(client, successor):
        raise UsageError(f"there is a coordination {successor!r} already", hint="Give --id.")
    assert fold.request is not None
    trial = Predecessor(fold.id, ZERO32, 1, ZERO32)
    registry = await client.agents()
    wanted = msgspec.structs.replace(
        fold.request, stored_ns=time.time_ns(), content=_wanted(fold, change, trial)
    )
    try:
        open_request(wanted, registry.keyring, fold.coordinator, client.protocols)
    except OpeningError as error:
        raise UsageError(
            f"{successor} could not be opened: {error.message}", hint=error.hint
        ) from None
    await client.submit(fold.id, HANDOVER, lambda number: HandoverRequested(successor))


def _wanted(fold: Coordination, change: Change, predecessor: Predecessor) -> CoordinationRequested:
    """The old request, changed."""
    assert fold.request is not None
    old: CoordinationRequested = fold.request.content
    parameters = {**old.config, "f": None, **change.parameters, "predecessor": predecessor}
    return CoordinationRequested(
        protocol=old.protocol,
        config=msgspec.to_builtins(parameters, builtin_types=(bytes,)),
        participants=tuple(change.participants),
        protocol_version=old.protocol_version,
        ordering=old.ordering,
        f=change.f,
        fault_tolerance=old.fault_tolerance,
        overall_timeout_ms=old.overall_timeout_ms,
        controller_cap_ppm=old.controller_cap_ppm,
        topic=old.topic,
    )


async def _request(
    client: Client,
    fold: Coordination,
    successor: str,
    change: Change,
    predecessor: Predecessor,
) -> None:
    wanted = _wanted(fold, change, predecessor)
    await client.request(
        wanted.protocol,
        wanted.config,
        wanted.participants,
        coordination=successor,
        timeout_ms=wanted.overall_timeout_ms,
        ordering=wanted.ordering,
        f=wanted.f,
        fault_tolerance=wanted.fault_tolerance,
        controller_cap_ppm=wanted.controller_cap_ppm,
        topic=wanted.topic,
    )


def _check_same(coordination: str, following: Coordination, change: Change) -> None:
    """Whether the successor that was there already is the one now asked for."""
    assert following.config is not None
    members = {each.agent_id for each in following.config.participants}
    if members != {each.agent_id for each in change.participants}:
        raise UsageError(
            f"{coordination!r} was handed over to {following.id!r} before, with "
            f"{', '.join(sorted(members))}",
            hint=f"To change that one: mabeam coord reconfigure {following.id} …",
        )


async def _exists(client: Client, coordination: str) -> bool:
    try:
        await client.read(coordination)
    except NotFoundError:
        return False
    return True
