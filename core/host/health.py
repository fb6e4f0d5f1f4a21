"""Health: heartbeats in, changes of health out as events (COM-20)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from ..author import Author
from ..envelope import Event
from ..errors import AppendRefusedError, LogUnavailableError, SequenceConflictError
from ..hashing import sha256
from ..identity import KeyPair
from ..journal import JournalError
from ..kernel_events import Health, HealthChanged
from ..log import Submission
from ..names import REGISTRY
from ..telemetry import Telemetry, logger
from ..transport import Heartbeat, Transport
from .registry import RegistryView
from .signed_chains import SignedChains

_log = logger("coordinator")

HEARTBEAT_S = 2.0
MISSED_HEARTBEATS = 3
HOLD_DOWN_S = 10.0
"""How long a change of health stands before it is contradicted."""

OVERLOAD_CPU_PPM = 900_000
OVERLOAD_MEMORY_BYTES = 2**30
OVERLOAD_TASKS = 10
_DOMAIN = b"mabeam/presence/v1\0"
_decoder = msgspec.msgpack.Decoder(Heartbeat)


def seal_heartbeat(heartbeat: Heartbeat, key: KeyPair) -> bytes:
    """Signed wire form: 64 bytes of signature, then the heartbeat."""
    encoded = msgspec.msgpack.encode(heartbeat)
    return crypto_sign(_DOMAIN + sha256(encoded), key.secret_key)[:64] + encoded


def open_heartbeat(payload: bytes, public_key: bytes) -> Heartbeat | None:
    """The heartbeat if the signature is good, else ``None``."""
    try:
        crypto_sign_open(payload[:64] + _DOMAIN + sha256(payload[64:]), public_key)
        return _decoder.decode(payload[64:])
    except (BadSignatureError, msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None


def health_of(heartbeat: Heartbeat) -> Health:
    """``healthy`` or ``overloaded`` by the limits of COM-20."""
    overloaded = (
        heartbeat.cpu_ppm > OVERLOAD_CPU_PPM
        or heartbeat.memory_bytes > OVERLOAD_MEMORY_BYTES
        or heartbeat.tasks > OVERLOAD_TASKS
    )
    return "overloaded" if overloaded else "healthy"


def _now() -> float:
    """Seconds on the clock of the event loop, which the simulator makes virtual."""
    return asyncio.get_running_loop().time()


class HealthMonitor:
    """Watches heartbeats and appends ``agent.health_changed`` when a state changes.

    Every coordinator watches; whose append is first wins, the others see it in the registry.
    """

    def __init__(
        self,
        author: Author,
        transport: Transport,
        registry: RegistryView,
        telemetry: Telemetry,
        chains: SignedChains,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._author = author
        self._transport = transport
        self._registry = registry
        self._telemetry = telemetry
        self._chains = chains
        self._clock_ns = clock_ns
        self._last: dict[str, tuple[float, Heartbeat]] = {}
        self._known: dict[str, tuple[Health, float]] = {}
        self._pending: Event | None = None
        self._since = 0.0

    def resume(self) -> None:
        """Go on behind what was signed before; what the log lacks of it is sent again first."""
        signed = self._chains.newest(REGISTRY)
        if signed is None:
            return
        header = signed.event.header
        self._author.resume(REGISTRY, header.author_seq + 1, signed.event.id, header.at_ns)
        if self._registry.chains.find(header.author, header.author_seq) is None:
            self._pending = signed.event

    async def run(self) -> None:
        """Watch until cancelled."""
        self._since = _now()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._judge())

    async def _listen(self) -> None:
        async for node, agent, payload in self._transport.heartbeats():
            entry = self._registry.keyring.current(agent)
            heartbeat = open_heartbeat(payload, entry.certificate.event_key) if entry else None
            if heartbeat is None or heartbeat.agent != agent or heartbeat.node != node:
                self._telemetry.count("heartbeats_rejected")
                continue
            age_s = max(0.0, (self._clock_ns() - heartbeat.at_ns) / 1e9)
            self._last[agent] = (_now() - age_s, heartbeat)

    async def _judge(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S / 2)
            counts = {"healthy": 0, "overloaded": 0, "unreachable": 0, "unknown": 0}
            for agent, state in list(self._registry.keyring.registered()):
                observed = self._observe(agent)
                counts[observed.health if observed else state.health] += 1
                if observed is not None and self._is_due(agent, observed.health, state.health):
                    await self._report(observed)
            for status, number in counts.items():
                self._telemetry.gauge("registry_agents", number, status=status)

    def _is_due(self, agent: str, observed: Health, known: Health) -> bool:
        """Whether to report: at once after a quiet time, else only what has lasted.

        Coordinators that see an agent differently would otherwise contradict each other for ever.
        """
        now = _now()
        last = self._known.get(agent)
        if last is None or last[0] != known:
            self._known[agent] = last = (known, now if last is not None else -HOLD_DOWN_S)
        return observed != known and now - last[1] >= HOLD_DOWN_S

    def _observe(self, agent: str) -> HealthChanged | None:
        """What this coordinator sees of an agent; ``None`` while it cannot tell."""
        patience_s = MISSED_HEARTBEATS * HEARTBEAT_S
        known = self._registry.keyring.agent(agent).health_sequence
        seen = self._last.get(agent)
        if seen is None:
            if _now() - self._since < patience_s:
                return None
            return HealthChanged(agent, "unreachable", after_sequence=known)
        at, heartbeat = seen
        if _now() - at > patience_s:
            return HealthChanged(agent, "unreachable", after_sequence=known)
        return HealthChanged(
            agent,
            health_of(heartbeat),
            heartbeat.cpu_ppm,
            heartbeat.memory_bytes,
            heartbeat.tasks,
            known,
        )

    async def _report(self, change: HealthChanged) -> None:
        """Append the change, or first what an earlier attempt has signed: its bytes may be known,
        so nothing else may ever be signed under its number."""
        if self._pending is None:
            # An append of an earlier life may have landed meanwhile; the chain goes on behind it.
            self._author.resume(REGISTRY, *self._registry.chains.head(self._author.id))
            self._pending = self._author.sign(REGISTRY, b"", "agent.health_changed", change)
        event = self._pending
        expected = self._registry.control_sequence
        try:
            await self._chains.record(event)
            appended = await self._transport.log.append(
                Submission(event, "ctl", self._author.node, expected)
            )
        except SequenceConflictError:
            return  # somebody else reported; the next look decides whether more is needed
        except AppendRefusedError as error:
            _log.error("health_refused", extra={"why": str(error), "hint": error.hint})
            return
        except JournalError as error:
            _log.error("not_journalled", extra={"why": str(error), "hint": error.hint})
            return
        except LogUnavailableError as error:
            _log.warning("health_not_reported", extra={"why": str(error)})
            return
        self._pending = None
        _log.info("health_changed", extra={"agent": change.agent_id, "health": change.health})
        await self._registry.until(lambda: self._registry.sequence >= appended.sequence)
