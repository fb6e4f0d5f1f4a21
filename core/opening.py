"""Opening: from a request and the registry to the frozen configuration, as a pure function.

The coordinator opens with its result; the auditor computes it again. Everything that can be refused
is refused here, with the code and the violated bound (specification 1.11 and 1.12).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .author import encode_body
from .envelope import MAX_EVENT_BYTES
from .errors import ConfigError, InvalidFieldError, MabeamError, PeerProtocolError
from .hashing import PPM, tagged_hash
from .kernel_events import (
    CoordinationFailed,
    CoordinationOpened,
    CoordinationRequested,
    Invitee,
    Participant,
    RegistrySnapshot,
)
from .keyring import Keyring
from .machine import LogEvent, Protocols, ProtocolSpec
from .ordering import Order, resolve_order

MAX_EMBEDDED_CERTIFICATE_BYTES = 64 * 1024

MAX_OPENED_BYTES = MAX_EVENT_BYTES - 1024
"""Body of ``coordination.opened``, so that the event still fits."""


class OpeningError(MabeamError):
    """A request cannot be opened; :meth:`body` is the failure the requester gets."""

    code = "opening_refused"

    def __init__(
        self, failure: str, message: str, *, hint: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.failure = failure
        self.details = details or {}

    def body(self) -> CoordinationFailed:
        """The terminal event's body."""
        return CoordinationFailed(self.failure, self.message, self.hint, self.details)


def open_request(
    request: LogEvent, keyring: Keyring, coordinator: str, protocols: Protocols
) -> CoordinationOpened:
    """Freeze the configuration for a request.

    Args:
        request: the admitted ``coordination.requested``.
        keyring: the registry at the position the opening will cite.
        coordinator: id of the coordinator that opens.
        protocols: known protocols.

    Raises:
        OpeningError: the request must be answered with ``coordination.failed``.
    """
    wanted: CoordinationRequested = request.content
    spec = protocols.get(wanted.protocol)
    if spec is None or wanted.protocol_version != spec.version:
        raise OpeningError(
            "unknown_protocol",
            f"there is no protocol {wanted.protocol!r} version {wanted.protocol_version}",
            hint=f"Known protocols: {', '.join(sorted(protocols))}.",
        )
    members = _members(wanted, keyring, request.stored_ns)
    order, config, members = _freeze(spec, wanted, members)
    members = _cap_controllers(members, wanted.controller_cap_ppm)
    opened = CoordinationOpened(
        request_id=request.id,
        protocol=spec.name,
        protocol_version=spec.version,
        ordering=order.ordering,
        fault_tolerance=wanted.fault_tolerance,
        f=order.f,
        replicas=order.replicas,
        participants=members,
        certificates=_certificates(coordinator, members, keyring),
        config=msgspec.to_builtins(config, builtin_types=(bytes,)),
        overall_timeout_ms=wanted.overall_timeout_ms or spec.default_timeout_ms(config),
        topic=wanted.topic,
        beacon=tagged_hash("opener", request.id),
        registry_snapshot=RegistrySnapshot(keyring.sequence, keyring.digest),
        parent=wanted.parent,
    )
    size = len(encode_body(opened))
    if size > MAX_OPENED_BYTES:
        raise OpeningError(
            "invalid_config",
            f"the frozen configuration has {size} bytes, the limit is {MAX_OPENED_BYTES}",
            hint="Store the proposal elsewhere and propose its digest, or name fewer agents.",
            details={"field": "config", "bound": MAX_OPENED_BYTES, "value": size},
        )
    return opened


def check_answer(request: LogEvent, opened: CoordinationOpened, protocols: Protocols) -> None:
    """Whether an opening is what was asked for, as far as that needs no registry.

    A coordinator orders nothing and decides nothing where replicas do; it must not choose them, or
    how many of them may lie, either. Whom a query finds and what a certificate says depends on the
    registry, which the audit recomputes.

    Args:
        request: the request it answers.
        opened: what a coordinator opened.
        protocols: known protocols.

    Raises:
        PeerProtocolError: ``digest_mismatch``.
    """
    wanted: CoordinationRequested = request.content
    spec = protocols.get(wanted.protocol)
    try:
        if spec is None:
            raise ConfigError(f"there is no protocol {wanted.protocol!r}")
        members = _as_requested(wanted, opened.participants)
        order, config, members = _freeze(spec, wanted, members)
    except (ConfigError, OpeningError) as error:
        raise PeerProtocolError("digest_mismatch", f"cannot be opened: {error}") from None
    due = msgspec.structs.replace(
        opened,
        request_id=request.id,
        protocol=wanted.protocol,
        protocol_version=wanted.protocol_version,
        ordering=order.ordering,
        fault_tolerance=wanted.fault_tolerance,
        f=order.f,
        replicas=order.replicas,
        participants=_cap_controllers(members, wanted.controller_cap_ppm),
        config=msgspec.to_builtins(config, builtin_types=(bytes,)),
        overall_timeout_ms=wanted.overall_timeout_ms or spec.default_timeout_ms(config),
        topic=wanted.topic,
        beacon=tagged_hash("opener", request.id),
        parent=wanted.parent,
    )
    if encode_body(due) != encode_body(opened):
        fields = (each for each in opened.__struct_fields__)
        other = [each for each in fields if getattr(due, each) != getattr(opened, each)]
        raise PeerProtocolError("digest_mismatch", f"not as requested: {', '.join(other)}")


def _as_requested(
    wanted: CoordinationRequested, members: tuple[Participant, ...]
) -> tuple[Participant, ...]:
    """The members with the weights that were asked for."""
    if not wanted.participants:
        return tuple(
            msgspec.structs.replace(each, weight=Invitee(each.agent_id).weight) for each in members
        )
    weights = {invitee.agent_id: invitee.weight for invitee in wanted.participants}
    if [each.agent_id for each in members] != sorted(weights):
        raise ConfigError("other participants were requested")
    return tuple(msgspec.structs.replace(each, weight=weights[each.agent_id]) for each in members)


def _members(
    wanted: CoordinationRequested, keyring: Keyring, now_ns: int
) -> tuple[Participant, ...]:
    invitees = wanted.participants or _query(wanted, keyring)
    if not invitees:
        raise OpeningError(
            "empty_participants",
            "the request names no participants",
            hint="Name agents, or give a capability query.",
        )
    ids = [invitee.agent_id for invitee in invitees]
    twice = (
        sorted({agent_id for agent_id in ids if ids.count(agent_id) > 1})
        if len(set(ids)) != len(ids)
        else []
    )
    if twice:
        raise OpeningError(
            "duplicate_participant",
            f"named more than once: {', '.join(twice)}",
            details={"duplicates": twice},
        )
    members, missing = [], []
    for invitee in sorted(invitees, key=lambda each: each.agent_id):
        member = _member(invitee, keyring, now_ns)
        if member is None:
            missing.append(invitee.agent_id)
        else:
            members.append(member)
    if missing:
        raise OpeningError(
            "agents_not_found",
            f"not registered, or not admitted as agents: {', '.join(missing)}",
            hint="See 'mabeam agent ls'.",
            details={"missing": missing},
        )
    return tuple(members)


def _member(invitee: Invitee, keyring: Keyring, now_ns: int) -> Participant | None:
    entry = keyring.current(invitee.agent_id)
    registered = keyring.agent(invitee.agent_id).registered
    if entry is None or registered is None or "agent" not in entry.certificate.roles:
        return None
    certificate = entry.certificate
    if not certificate.not_before_ns <= now_ns < certificate.not_after_ns:
        return None
    return Participant(
        certificate.id, certificate.key_id, registered.node, certificate.controller, invitee.weight
    )


def _query(wanted: CoordinationRequested, keyring: Keyring) -> tuple[Invitee, ...]:
    query = wanted.query
    if query is None:
        return ()
    needed = frozenset(query.capabilities)
    found = [
        Invitee(author)
        for author, agent in keyring.registered()
        if agent.registered is not None
        and needed <= frozenset(agent.registered.capabilities)
        and agent.health in ("healthy", "unknown")
        and (entry := keyring.current(author)) is not None
        and "agent" in entry.certificate.roles
    ][: query.at_most]
    if len(found) < query.at_least:
        raise OpeningError(
            "insufficient_nodes",
            f"{len(found)} agents offer {', '.join(sorted(needed))}, {query.at_least} are needed",
            details={"need": query.at_least, "have": len(found)},
        )
    return tuple(found)


def _freeze(
    spec: ProtocolSpec, wanted: CoordinationRequested, members: tuple[Participant, ...]
) -> tuple[Order, Any, tuple[Participant, ...]]:
    try:
        config = msgspec.convert(wanted.config, spec.config_type)
        stated = _stated_f(wanted, config)
        order = resolve_order(
            spec.orderings,
            wanted.ordering,
            stated,
            wanted.fault_tolerance,
            wanted.replicas,
            [member.agent_id for member in members],
        )
        if "f" in spec.config_type.__struct_fields__:
            config = msgspec.structs.replace(config, f=order.f if order.replicas else stated)
        elif stated and not order.replicas:
            raise InvalidFieldError("f", "0 with ordering log", stated)
        return order, *spec.freeze(config, members)
    except msgspec.ValidationError as error:
        raise OpeningError(
            "invalid_config",
            f"{spec.name}: {error}",
            details=_violation(str(error), wanted.config),
        ) from None
    except ConfigError as error:
        details = getattr(error, "details", None)
        raise OpeningError(error.code, error.message, hint=error.hint, details=details) from None


def _stated_f(wanted: CoordinationRequested, config: Any) -> int | None:
    """f as stated in the request or among the protocol's own parameters."""
    own: int | None = getattr(config, "f", None)
    if wanted.f is not None and own is not None and wanted.f != own:
        raise InvalidFieldError("f", f"the same as f in the parameters, {own}", wanted.f)
    return wanted.f if own is None else own


_FIELD = re.compile(r"(?:field |at )`(?:\$\.)?([A-Za-z0-9_]+)[^`]*`\Z")


def _violation(message: str, config: dict[str, Any]) -> dict[str, Any]:
    """Field, bound and value of a schema violation."""
    found = _FIELD.search(message)
    field = found[1] if found else "config"
    return {
        "field": field,
        "bound": message.partition(" - at ")[0],
        "value": repr(config.get(field))[:256],
    }


def _cap_controllers(members: tuple[Participant, ...], cap_ppm: int) -> tuple[Participant, ...]:
    """COM-19: a controller of several participants holds at most ``cap_ppm`` of W."""
    by_controller: dict[str, list[Participant]] = {}
    for member in members:
        by_controller.setdefault(member.controller, []).append(member)
    if cap_ppm >= PPM or len(by_controller) < 2:
        return members
    limit = sum(member.weight for member in members) * cap_ppm // PPM
    capped = {}
    for group in by_controller.values():
        weight = sum(member.weight for member in group)
        for member in group:
            capped[member.agent_id] = (
                max(1, member.weight * limit // weight)
                if len(group) > 1 and weight > limit
                else member.weight
            )
    return tuple(
        msgspec.structs.replace(member, weight=capped[member.agent_id]) for member in members
    )


def _certificates(
    coordinator: str, members: tuple[Participant, ...], keyring: Keyring
) -> tuple[bytes, ...]:
    """Certificates to embed; none if they are too many, readers then use the registry."""
    ids = [coordinator, *(m.agent_id for m in members if m.agent_id != coordinator)]
    entries = [keyring.current(agent_id) for agent_id in ids]
    wires = tuple(entry.certificate_wire for entry in entries if entry is not None)
    return wires if sum(map(len, wires)) <= MAX_EMBEDDED_CERTIFICATE_BYTES else ()
