"""Read models of the registry: who is admitted under which key, and how healthy agents are."""

from __future__ import annotations

from sqlalchemy import MetaData, Table

from ..core.identity import verify_certificate
from ..core.keyring import Keyring
from .columns import clean_text, integer, json_text, text, time_ns
from .projection import Change, Folded, Projection, Row
from .readable import json_of

_metadata = MetaData()

agent = Table(
    "agent",
    _metadata,
    text("agent", "Id.", primary_key=True),
    text("status", "active or revoked. Validity in time is not applied: compare valid_until_at."),
    json_text("roles", "Roles of its newest certificate."),
    text("controller", "Owner; several ids may share one."),
    text("sponsor", "Id that vouched for it, or root."),
    text("key_id", "First 8 bytes of SHA-256 of its newest key, hex."),
    text("public_key", "Its newest event key, hex."),
    text("nkey", "Public key of its connection to the bus."),
    integer("serial", "Serial number of its newest certificate."),
    integer("keys", "Keys it ever had."),
    time_ns("valid_from_ns", "Storage time from which the newest key counts."),
    time_ns("valid_until_ns", "Storage time from which the newest key no longer counts."),
    integer("admitted_sequence", "Sequence that admitted the first key."),
    integer("key_sequence", "Sequence that admitted the newest key."),
    integer("revoked_sequence", "Sequence that revoked it; null while active.", nullable=True),
    integer("registered_sequence", "Sequence of its last registration.", nullable=True),
    text("node", "Node it runs on; null before it registered, like the rest.", nullable=True),
    json_text("capabilities", "What it can be asked for.", nullable=True),
    text("model_type", "Kind of model behind it.", nullable=True),
    integer("cost_per_request_micros", "Price of one request, micro-credits.", nullable=True),
    integer("max_concurrent", "Requests it works on at a time.", nullable=True),
    text("health", "Last observed health: healthy, overloaded, unreachable or unknown."),
    comment="Every id ever admitted.",
    sqlite_with_rowid=False,
)

agent_health = Table(
    "agent_health",
    _metadata,
    text("agent", "Id.", primary_key=True),
    text("health", "healthy, overloaded, unreachable or unknown."),
    text("observer", "Coordinator or operator that observed the change."),
    integer("sequence", "Sequence of the observation."),
    time_ns("stored_ns", "Storage time of the observation."),
    integer("cpu_ppm", "CPU use at that time, ppm of one core."),
    integer("memory_bytes", "Resident memory at that time, bytes."),
    integer("tasks", "Requests it was working on."),
    comment="Last observed change of health of every agent.",
    sqlite_with_rowid=False,
)


def _agents(batch: Folded) -> Change:
    keyring = batch.replay.keyring
    touched = {
        verify_certificate(verdict.event.content.certificate, keyring.root_public_key).id
        for verdict in batch.of("agent.admitted", "agent.key_rotated")
        if verdict.event is not None
    }
    for verdict in batch.of("agent.revoked", "agent.health_changed"):
        if verdict.event is not None:
            touched.add(verdict.event.content.agent_id)
    for verdict in batch.of("agent.registered"):
        if verdict.event is not None:
            touched.add(verdict.event.author)
    rows = [_agent_row(id, keyring) for id in sorted(touched) if keyring.history(id)]
    return Change(rows, [row[0] for row in rows])


def _agent_row(id: str, keyring: Keyring) -> Row:
    history, known = keyring.history(id), keyring.agent(id)
    newest, registered = history[-1], known.registered
    certificate = newest.certificate
    revoked = newest.until if keyring.current(id) is None else None
    return (
        id,
        "active" if revoked is None else "revoked",
        json_of(certificate.roles),
        certificate.controller,
        certificate.sponsor,
        certificate.key_id.hex(),
        certificate.event_key.hex(),
        clean_text(certificate.nkey),
        certificate.serial,
        len(history),
        certificate.not_before_ns,
        certificate.not_after_ns,
        history[0].since,
        newest.since,
        revoked,
        known.registered_sequence if registered else None,
        registered.node if registered else None,
        json_of(registered.capabilities) if registered else None,
        clean_text(registered.model_type) if registered else None,
        registered.cost_per_request_micros if registered else None,
        registered.max_concurrent if registered else None,
        known.health,
    )


def _health(batch: Folded) -> Change:
    rows: dict[str, Row] = {}
    for verdict in batch.of("agent.health_changed"):
        event = verdict.event
        if event is None:
            continue
        seen = event.content
        rows[seen.agent_id] = (
            seen.agent_id,
            seen.health,
            event.author,
            event.sequence,
            event.stored_ns,
            seen.cpu_ppm,
            seen.memory_bytes,
            seen.tasks,
        )
    return Change(list(rows.values()), list(rows))


AGENT = Projection(agent, 1, _agents, "replace", "agent")
AGENT_HEALTH = Projection(agent_health, 1, _health, "replace", "agent")
