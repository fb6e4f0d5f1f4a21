"""A world: one deployment under virtual time, with as many nodes, faults and adversaries as wanted.

async with World(7, protocols) as world:
    await world.coordinator("coord-1")
    await world.agent("a-1", MyAgent())
    await world.adversary("equivocating_voter", "mallory", Yes, No)
    decision = await world.decide(protocol, config, ["a-1", "mallory"])
    world.verify()
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..agent import Agent
from ..author import Author
from ..client import Decision
from ..errors import LogUnavailableError, MabeamError
from ..hashing import sha256
from ..identity import Certificate, KeyPair, Role, issue_certificate
from ..kernel_events import AgentAdmitted, Invitee
from ..log import Record, Submission
from ..machine import LogEvent, Protocols
from ..memory_transport import MemoryTransport
from ..names import REGISTRY, ROOT_AUTHOR
from ..replay import Replay, Verdict
from .adversaries import adversary_class
from .adversary import Adversary
from .clock import VirtualLoop, virtual_loop
from .faults import Fault, inflict
from .network import Network
from .nodes import AgentNode, ClientNode, CoordinatorNode, MakeAgent, Node
from .observer import Observer
from .recollection import recollection
from .signing import signatures

if TYPE_CHECKING:
    from .checkers import Violation

POLL_S = 0.02
"""How often a condition is tried, virtual seconds."""

SETTLE_POLL_S = 0.25

VIOLATION = "violated:"
"""Begins the note of something that does not hold."""

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


KEY_RINGS = 16
"""Sets of keys that worlds share, because making a key takes a while."""


@cache
def _key(seed: str) -> KeyPair:
    return KeyPair(sha256(seed.encode()))


class BrokenPromiseError(MabeamError):
    """A check found that something which must always hold does not."""

    code = "broken_promise"


class World:
    """A simulated deployment; use it as an async context under :func:`~.clock.simulate`.

    Args:
        seed: everything random follows from it.
        protocols: known protocols.
        stub_signatures: sign with a fast stub (see :mod:`.signing`).

    Attributes:
        nodes: all nodes by id.
        dishonest: ids of the adversaries.
        stable_at: virtual time at which the last fault so far is over.
        witnesses: what looks into the machines of a protocol, by its name.
        lies: what adversaries signed against their better knowledge: id of the event, kind of lie.
        errors: what was raised where nobody waited for it; nodes that lie have bugs, too.
    """

    def __init__(self, seed: int, protocols: Protocols, *, stub_signatures: bool = False) -> None:
        self.seed = seed
        self.protocols = protocols
        self.root = _key(f"{seed % KEY_RINGS}/root")
        self.keys: dict[str, KeyPair] = {}
        self.nodes: dict[str, Node] = {}
        self.dishonest: dict[str, None] = {}
        self.stable_at = 0.0
        self.witnesses: dict[str, Any] = {}
        self.lies: dict[bytes, str] = {}
        self.errors: list[str] = []
        self.requested: list[str] = []
        self.loop: VirtualLoop
        self.network: Network
        self.directory: Path
        self._stub_signatures = stub_signatures
        self._stack = ExitStack()
        self._notes: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._observer: Observer

    async def __aenter__(self) -> Self:
        self.loop = virtual_loop()
        self.loop.set_exception_handler(self._note_error)
        self._stack.enter_context(signatures(stubbed=self._stub_signatures))
        self._stack.enter_context(recollection())
        # Journals are synced for every entry; in memory that costs nothing.
        self.directory = Path(tempfile.mkdtemp(prefix="mabeam-sim-", dir=_MEMORY))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.network = Network(str(self.seed), self.loop.time_ns)
        self._operator = Author(ROOT_AUTHOR, ROOT_AUTHOR, self.root, self.loop.time_ns)
        self._observer = Observer(self.network, self.root.public_key, self.protocols)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._stack.close()

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:
            self.errors.append(repr(context.get("exception")))

    # Nodes ------------------------------------------------------------------------------------

    async def admit(self, id: str, *roles: Role, controller: str = "") -> None:
        """Admit an id with a key that follows from the seed."""
        key = self.keys[id] = _key(f"{self.seed % KEY_RINGS}/key/{id}")
        certificate = Certificate(
            id, roles, key.public_key, "", controller or id, ROOT_AUTHOR, 0, 2**62, len(self.keys)
        )
        body = AgentAdmitted(issue_certificate(certificate, self.root))
        event = self._operator.sign(REGISTRY, b"", "agent.admitted", body)
        await MemoryTransport(self.network.broker).log.append(Submission(event, "ctl", ROOT_AUTHOR))

    async def agent(
        self, id: str, agent: Agent | MakeAgent, *, controller: str = "", wait: bool = True
    ) -> AgentNode:
        """Admit and start an agent.

        Args:
            id: its id.
            agent: the agent, or what makes one for each life of the process.
            controller: its owner, one of its own by default.
            wait: return once it is registered.
        """
        make: MakeAgent = (lambda: agent) if isinstance(agent, Agent) else agent
        await self.admit(id, "agent", controller=controller)
        node = AgentNode(self, id, make)
        self._start(node)
        if wait:
            await self.until(lambda: self._is_registered(id))
        return node

    async def coordinator(self, id: str = "coord-1") -> CoordinatorNode:
        """Admit and start a coordinator."""
        await self.admit(id, "coordinator")
        node = CoordinatorNode(self, id)
        self._start(node)
        return node

    async def client(self, id: str = "client") -> ClientNode:
        """The client with that id, admitted when first asked for."""
        if id not in self.nodes:
            await self.admit(id, "client")
            self.nodes[id] = ClientNode(self, id)
        node = self.nodes[id]
        assert isinstance(node, ClientNode)
        return node

    async def adversary(
        self, name: str, id: str, *voices: MakeAgent, wait: bool = True
    ) -> Adversary:
        """Admit and start an adversary.

        Args:
            name: one of :data:`~.adversaries.ADVERSARIES`.
            id: its id.
            voices: make agents with different opinions, for those that equivocate.
            wait: return once it is registered, if it is an agent.
        """
        return await self.join(adversary_class(name)(self, id, voices), wait=wait)

    async def join(self, node: Adversary, *, wait: bool = True) -> Adversary:
        """Admit and start an adversary that was made by hand."""
        await self.admit(node.id, *node.roles)
        self.dishonest[node.id] = None
        self._start(node)
        if wait and "agent" in node.roles:
            await self.until(lambda: self._is_registered(node.id))
        return node

    def _start(self, node: Node) -> None:
        self.nodes[node.id] = node
        node.start()

    def _is_registered(self, id: str) -> bool:
        return self.observer().keyring.agent(id).registered is not None

    # Coordinations ----------------------------------------------------------------------------

    async def request(
        self,
        protocol: str,
        config: Mapping[str, Any],
        participants: Sequence[str | Invitee],
        *,
        coordination: str = "",
        client: str = "client",
        **options: Any,
    ) -> str:
        """Ask for a coordination, which every client then follows; returns its id."""
        name = coordination or f"c-{len(self.requested) + 1}"
        asking = await self.client(client)
        try:
            await asking.client.request(
                protocol, config, participants, coordination=name, **options
            )
        except LogUnavailableError:
            self.note(f"request of {name} not acknowledged")
        self.requested.append(name)
        for node in self.nodes.values():
            if isinstance(node, ClientNode):
                self._tasks.append(asyncio.create_task(node.follow(name)))
        return name

    async def result(self, coordination: str, client: str = "client") -> Decision:
        """Wait for the end of a coordination, as a client does."""
        return await (await self.client(client)).client.result(coordination)

    async def decide(
        self,
        protocol: str,
        config: Mapping[str, Any],
        participants: Sequence[str | Invitee],
        **options: Any,
    ) -> Decision:
        """:meth:`request` and :meth:`result` in one."""
        return await self.result(await self.request(protocol, config, participants, **options))

    # Faults and time --------------------------------------------------------------------------

    def schedule(self, *faults: Fault) -> None:
        """Let faults happen from now on, at their times."""
        for fault in faults:
            self.stable_at = max(self.stable_at, self.loop.time() + fault.end_ms / 1000)
            self._tasks.append(asyncio.create_task(inflict(self, fault)))

    async def until(
        self, condition: Callable[[], bool], timeout_s: float = 60.0, poll_s: float = POLL_S
    ) -> bool:
        """Let time pass until the condition holds; false if it does not within ``timeout_s``."""
        end = self.loop.time() + timeout_s
        while not condition():
            if self.loop.time() >= end:
                return False
            await asyncio.sleep(poll_s)
        return True

    async def settle(self, bound_s: float) -> None:
        """Wait until every client has seen every coordination end, at most until ``bound_s`` after
        the last fault."""
        await asyncio.sleep(max(0.0, self.stable_at - self.loop.time()))
        left_s = self.stable_at + bound_s - self.loop.time()
        await self.until(self._is_settled, left_s, SETTLE_POLL_S)

    def _is_settled(self) -> bool:
        if self.loop.time() < self.stable_at:
            return False
        known = self.known()
        return all(name in node.seen for node in self.readers() for name in known)

    def known(self) -> list[str]:
        """Coordinations whose request is stored."""
        folds = map(self.observer().coordination, self.requested)
        return [fold.id for fold in folds if fold is not None and fold.request is not None]

    def readers(self) -> list[ClientNode]:
        """All clients."""
        return [node for node in self.nodes.values() if isinstance(node, ClientNode)]

    # Looking ----------------------------------------------------------------------------------

    def observer(self) -> Replay:
        """The fold of the log as stored now, by somebody who sees all of it at once."""
        return self._observer.fold()

    def verdicts(self, coordination: str) -> list[Verdict]:
        """The observer's verdicts on the records of a coordination."""
        return self._observer.verdicts(coordination)

    def admitted(self, record: Record) -> LogEvent | None:
        """The event of a stored record, if the observer admits it."""
        return self._observer.admitted(record)

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self._notes.append(f"{self.loop.time():.6f} {text}")

    def note_violation(self, text: str) -> None:
        """Note that something does not hold, at the moment that shows."""
        self.note(f"{VIOLATION} {text}")

    def story(self, most: int) -> tuple[str, ...]:
        """The last ``most`` lines of what was noted, up to the first violation if one was."""
        lines: list[str] = []
        for note in self._notes:
            at, text = note.split(" ", 1)
            lines.append(f"{float(at):8.3f} s  {text}")
            if text.startswith(VIOLATION):
                break
        left_out = len(lines) - most
        if left_out <= 0:
            return tuple(lines)
        return (f"({left_out} earlier lines left out)", *lines[-most:])

    def digest(self) -> str:
        """Hash over everything stored, when, everything noted, and what the clients saw."""
        trace = hashlib.sha256()
        for record in self.network.broker.records:
            trace.update(f"{record.sequence} {record.stored_ns} {record.subject}\n".encode())
            trace.update(sha256(record.wire))
        for line in self._notes:
            trace.update(line.encode() + b"\n")
        for node in self.readers():
            for name, (terminal, at) in node.seen.items():
                trace.update(f"{node.id} {name} {at:.6f} {terminal.hex()}\n".encode())
        return trace.hexdigest()

    def check(self, **options: Any) -> tuple[Violation, ...]:
        """What the checkers find; see :func:`~.checkers.check`."""
        from .checkers import check

        return check(self, **options)

    def verify(self, **options: Any) -> None:
        """Run all checkers.

        Raises:
            BrokenPromiseError: one of them found something; the message lists it all.
        """
        violations = self.check(**options)
        if violations:
            raise BrokenPromiseError("\n".join(map(str, violations)))
