"""``byzantine_consensus``: PBFT over a shared untrusted log (specification, section 5)."""

from __future__ import annotations

from ...core.machine import ProtocolSpec
from .config import ByzantineConfig, Group, default_timeout_ms, freeze
from .coordinator import ByzantineCoordinator
from .events import BYZANTINE_EVENT_TYPES, ProposalRequest, Verdict
from .fold import ByzantineFold
from .forensics import Forensics, analyse, culprits_of
from .outcome import ByzantineOutcome, HandoverOutcome
from .proofs import PROOF_RULES, Proof, is_proof, submission
from .replica import ByzantineReplica

SPEC = ProtocolSpec(
    name="byzantine_consensus",
    family="byzantine",
    config_type=ByzantineConfig,
    event_types=BYZANTINE_EVENT_TYPES,
    coordinator=ByzantineCoordinator,
    participant=ByzantineReplica,
    outcome_type=ByzantineOutcome,
    freeze=freeze,
    default_timeout_ms=default_timeout_ms,
    orderings=("bft",),
    proofs=PROOF_RULES,
)

__all__ = [
    "SPEC",
    "ByzantineConfig",
    "ByzantineFold",
    "ByzantineOutcome",
    "Forensics",
    "Group",
    "HandoverOutcome",
    "Proof",
    "ProposalRequest",
    "Verdict",
    "analyse",
    "culprits_of",
    "is_proof",
    "submission",
]
