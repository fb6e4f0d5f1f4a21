"""Byzantine consensus among real daemons over a real server: every size, and bad primaries."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registration import register

from mabeam.core.audit.verify import audit_log
from mabeam.core.author import Author
from mabeam.core.client import Client, CoordinationFailedError
from mabeam.core.envelope import Event
from mabeam.core.kernel_events import Body
from mabeam.core.log import Submission
from mabeam.core.machine import LogEvent
from mabeam.core.transport import Transport
from mabeam.infra.local import LocalDeployment
from mabeam.infra.membership import Applicant
from mabeam.infra.sql_reading import rows_of
from mabeam.protocols import PROTOCOLS
from mabeam.protocols.byzantine import ByzantineConfig, ByzantineFold, analyse
from mabeam.protocols.byzantine.config import group_of
from mabeam.protocols.byzantine.digests import batch_digest
from mabeam.protocols.byzantine.events import (
    PRE_PREPARE,
    REQUEST,
    PrePrepareSent,
    RequestSubmitted,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

BAD = "r00"
"""The first replica, hence the first primary, of groups that contain it; the tests act for it."""

SILENT = "silent"
"""Another replica that nobody runs."""

REPLICAS = tuple(f"r{number:02}" for number in range(1, 14))
AGENT = "mabeam.infra.bench.voter:make_voter"


@pytest.fixture(scope="module")
def group() -> Iterator[LocalDeployment]:
    """Thirteen replicas, a coordinator, and one replica that nobody runs."""
    directory = Path(tempfile.mkdtemp(prefix="mabeam-"))
    local = LocalDeployment(directory / "home")
    try:
        local.create()
        local.start_server()
        local.provision()
        local.admit_many(
            [
                *(
                    Applicant(id, ("agent",), "site", f"owner-{id}")
                    for id in (BAD, SILENT, *REPLICAS)
                ),
                Applicant("coordinator-1", ("coordinator",), "site"),
                Applicant("client", ("client",), "site"),
                Applicant("projector", ("projector",), "site"),
            ]
        )
        register(local, BAD)
        register(local, SILENT)
        for id in REPLICAS:
            local.spawn_agent(id, AGENT, wait=False)
        local.spawn_coordinator("coordinator-1", wait=False)
        local.spawn_projector("projector", wait=False)
        for id in local.daemons:
            local.wait_ready(id, timeout_s=90)
        yield local
    finally:
        local.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def client(group: LocalDeployment) -> AsyncIterator[Client]:
    client = await group.client()
    yield client
    await client.transport.close()


async def query(group: LocalDeployment, sql: str) -> list[dict[str, Any]]:
    """Rows, once the projector has seen everything stored until now."""
    url = group.home.database_url(group.home.config())
    operator = await group.connect("operator")
    head = (await operator.log.head()).sequence
    await operator.close()
    for _ in range(200):
        reached = await asyncio.to_thread(rows_of, url, "SELECT max(sequence) AS s FROM event")
        if (reached[0]["s"] or 0) >= head:
            break
        await asyncio.sleep(0.05)
    return await asyncio.to_thread(rows_of, url, sql)


def command(group: LocalDeployment, *arguments: str) -> str:
    """What ``mabeam ARGUMENTS`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "mabeam.infra.cli", "--home", str(group.home.path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def events_of(client: Client, coordination: str) -> list[LogEvent]:
    """All admitted events of a coordination."""
    records = await client.transport.log.read(coordination)
    admitted = (client.registry.admit(record) for record in records)
    return [event for event in admitted if event is not None]


async def commits_of(client: Client, coordination: str, count: int) -> list[LogEvent]:
    """Commits of the first slot, once ``count`` replicas have sent theirs."""
    for _ in range(200):
        events = await events_of(client, coordination)
        commits = [each for each in events if each.type == "byzantine.commit_sent"]
        if len({each.author for each in commits}) >= count:
            break
        await asyncio.sleep(0.05)
    return commits


@pytest.mark.parametrize("count", [4, 5, 6, 7, 10, 13])
async def test_replicas_decide_in_view_0(client: Client, count: int) -> None:
    """Worked example 1: all honest, so one pre-prepare, n - 1 prepares, n commits."""
    names = REPLICAS[:count]
    started = time.monotonic()
    got = await client.decide("byzantine_consensus", {"proposal": "A"}, names)
    assert time.monotonic() - started < 5
    outcome = got.outcome
    assert (outcome["proposal"], outcome["view"], outcome["primary"]) == ("A", 0, "r01")
    f = (count - 1) // 3
    assert outcome["tolerance"]["f"] == f
    assert len(outcome["commit_ids"]) == outcome["tolerance"]["q"] == (count + f) // 2 + 1
    await commits_of(client, got.coordination, count)
    kinds = [event.type for event in await events_of(client, got.coordination)]
    assert sum(kind.startswith("byzantine.") for kind in kinds) == 2 * count


async def test_silent_primary_is_replaced(client: Client) -> None:
    """Worked example 3 with a shorter patience: view 1 under the second replica decides."""
    config = {"proposal": "A", "view_timeout_ms": 1_500}
    got = await client.decide("byzantine_consensus", config, (BAD, *REPLICAS[:6]))
    assert (got.outcome["view"], got.outcome["primary"]) == (1, "r01")
    assert got.outcome["proposal"] == "A"


async def test_too_many_silent_replicas_end_in_a_time_out(client: Client) -> None:
    """More than f are silent: no certificate can be made, and none can be excluded (BYZ-22b)."""
    config = {"proposal": "A", "view_timeout_ms": 500}
    members = (BAD, SILENT, *REPLICAS[:2])
    name = await client.request("byzantine_consensus", config, members, timeout_ms=2_000)
    with pytest.raises(CoordinationFailedError) as failed:
        await client.result(name)
    assert failed.value.failure == "timeout"
    assert failed.value.details["silent"] == [BAD, SILENT]
    terminal = (await client.read(name)).terminal
    assert terminal is not None
    assert not terminal.content.final


class Impostor:
    """Acts for the bad replica with its true key."""

    def __init__(self, group: LocalDeployment, transport: Transport, client: Client) -> None:
        self.author = Author(BAD, "site", group.home.secrets(BAD).key_pair(), time.time_ns)
        self._transport = transport
        self._client = client

    async def epoch(self, coordination: str) -> tuple[bytes, bytes]:
        """Epoch and request of a coordination, once it is open."""
        while True:
            fold = await self._client.read(coordination)
            if fold.opened is not None and fold.request is not None:
                return fold.epoch, fold.request.id
            await asyncio.sleep(0.02)

    async def append(self, coordination: str, epoch: bytes, kind: str, body: Body) -> Event:
        """Sign and append."""
        event = self.author.sign(coordination, epoch, kind, body)
        await self._transport.log.append(Submission(event, "pub", "site"))
        return event


async def test_equivocating_primary_achieves_one_value(
    group: LocalDeployment, client: Client
) -> None:
    """Two proposals for one slot, each seen by everybody, in either order."""
    transport = await group.connect(BAD)
    impostor = Impostor(group, transport, client)
    config = {"proposal": "A", "proposers": "participants", "view_timeout_ms": 1_500}
    name = await client.request("byzantine_consensus", config, (BAD, *REPLICAS[:6]))
    epoch, requested = await impostor.epoch(name)
    other = await impostor.append(name, epoch, REQUEST, RequestSubmitted(0, "B"))
    for request_id in (other.id, requested):
        digest = batch_digest(name, (request_id,))
        body = PrePrepareSent(0, 1, digest, (request_id,))
        await impostor.append(name, epoch, PRE_PREPARE, body)
    got = await client.result(name)
    assert got.outcome["proposal"] in ("A", "B")
    commits = await commits_of(client, name, 6)
    decided = [
        each.content.batch_digest
        for each in commits
        if each.content.sequence == got.outcome["sequence"]
        and each.content.view == got.outcome["view"]
    ]
    assert len(set(decided)) == 1
    events = await events_of(client, name)
    frozen = msgspec.convert(got.opened.content.config, ByzantineConfig)
    found = analyse(events, group_of(name, got.opened.content.replicas, frozen))
    assert found.verdict == "no_fork"
    assert list(found.culprits) == [BAD]
    await transport.close()
    rows = await query(
        group, f"SELECT rule, accused, valid FROM evidence WHERE coordination = '{name}'"
    )
    assert {"rule": "E1", "accused": BAD, "valid": 1} in rows
    shown = await asyncio.to_thread(command, group, "coord", "show", name)
    assert f"{BAD}" in shown
    assert "E1" in shown
    assert "n = 7, tolerates 2 Byzantine, q = 5" in shown
    assert "E1" in await asyncio.to_thread(command, group, "audit", "evidence", name)


async def test_ballot_ordered_by_replicas(client: Client) -> None:
    """``ordering: bft``: the votes are requests, decided order counts, the label says so."""
    config = {"proposal": 1, "threshold_ppm": 600_000}
    got = await client.decide("simple_consensus", config, REPLICAS[:4], ordering="bft")
    assert got.outcome["decision"] == "agree"
    label: dict[str, Any] = got.outcome["tolerance"]
    assert (label["ordering"], label["n"], label["f"], label["q"]) == ("bft", 4, 1, 3)


async def test_ballot_survives_a_silent_primary(client: Client) -> None:
    config = {"proposal": 1, "threshold_ppm": 600_000}
    got = await client.decide(
        "simple_consensus", config, (BAD, *REPLICAS[:3]), ordering="bft", timeout_ms=12_000
    )
    assert got.outcome["decision"] == "agree"
    assert got.outcome["silent"] == [BAD]


async def test_service_executes_what_clients_submit(group: LocalDeployment, client: Client) -> None:
    """A long-running order of operations, fed from the command line and ended by its requester."""
    name = await client.request("byzantine_consensus", {"mode": "service"}, REPLICAS[:4])
    while (await client.read(name)).opened is None:
        await asyncio.sleep(0.02)
    for number in range(1, 4):
        operation = f'{{"deposit": {number}}}'
        said = await asyncio.to_thread(command, group, "coord", "submit", name, operation)
        assert said == f"executed in slot {number}\n"
    at_once = [asyncio.to_thread(command, group, "coord", "submit", name, str(n)) for n in range(6)]
    assert all(said.startswith("executed in slot ") for said in await asyncio.gather(*at_once))
    await client.cancel(name, "the year is over")
    with pytest.raises(CoordinationFailedError) as ended:
        await client.result(name)
    assert ended.value.failure == "cancelled"
    machine = (await client.read(name)).machine
    assert isinstance(machine, ByzantineFold)
    done = [machine.executor.operation(each) for s in machine.executor.log for each in s.requests]
    assert done[:3] == [{"deposit": 1}, {"deposit": 2}, {"deposit": 3}]
    assert sorted(done[3:9]) == list(range(6))
    assert not machine.equivocations


async def test_a_service_goes_on_without_a_replica_that_is_gone_for_good(
    group: LocalDeployment, client: Client
) -> None:
    """One of four replicas is replaced and then killed; the client only ever knows the old name."""
    old, new = REPLICAS[9:13], REPLICAS[8:12]
    config = {"mode": "service", "view_timeout_ms": 1_500}
    name = "ledger"
    await client.request("byzantine_consensus", config, old, coordination=name)
    while (await client.read(name)).opened is None:
        await asyncio.sleep(0.02)

    async def told(*arguments: str) -> str:
        return await asyncio.to_thread(command, group, "coord", *arguments)

    assert await told("submit", name, '{"deposit": 1}') == "executed in slot 1\n"
    said = await told("reconfigure", name, "-p", ",".join(new), "-s", "rotation_slots=2")
    assert said.startswith("ledger: handed over to ledger-2 at slot ")
    assert said.endswith("ledger-2: r09, r10, r11, r12 go on, f = 1\n")
    group.kill(old[-1])
    for number in (2, 3):
        done = await told("submit", name, f'{{"deposit": {number}}}')
        assert done == f"executed in slot {number - 1} of ledger-2\n"
    assert await told("reconfigure", name, "-p", ",".join(new)) == said
    machine = (await client.read(name)).machine
    assert isinstance(machine, ByzantineFold)
    slot, root = machine.executor.executed, machine.executor.root.hex()
    shown, following = await told("show", name), await told("show", "ledger-2")
    assert f"handed over to ledger-2 at slot {slot}, state {root[:12]}" in shown
    assert f"goes on from ledger behind its slot {slot}, state {root[:12]}" in following
    rows = await query(
        group,
        "SELECT c.status, c.result, o.outcome FROM coordination c "
        "JOIN outcome o USING (coordination) WHERE coordination = 'ledger'",
    )
    (row,) = rows
    outcome = row["outcome"]
    assert (row["status"], row["result"]) == ("decided", "success")
    assert (outcome["result"], outcome["successor"]) == ("handed_over", "ledger-2")
    assert (outcome["sequence"], outcome["state_root"]) == (slot, root)


async def test_audit_of_all_of_it_is_clean(group: LocalDeployment, client: Client) -> None:
    report = await audit_log(client.transport.log, group.home.root_public_key(), PROTOCOLS)
    assert [each for each in report.findings if each.severity == "wrong"] == []
