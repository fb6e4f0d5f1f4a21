"""Random worlds: one seed chooses the mode, the faulty replicas and the schedule."""

from __future__ import annotations

import random

from mabeam.protocols.byzantine import ByzantineConfig
from tests.protocols.byzantine.adversaries import ADVERSARIES
from tests.protocols.byzantine.network import Network, Schedule, names

SIZES = (4, 5, 6, 7)
WAVES_MS = (0, 30_000)
CLIENTS = 3


def world(count: int, adversary: str, seed: int) -> Network:
    """f faulty replicas of one kind, the first primary among them in most worlds."""
    draw = random.Random(f"{count}:{adversary}:{seed}")
    service = seed % 2 == 1
    config = ByzantineConfig(
        mode="service" if service else "single",
        proposers="participants",
        proposal=None if service else "A",
        view_timeout_ms=1_000,
        checkpoint_interval=2,
        window=4,
        batch_max_requests=1 + draw.randrange(2),
        batch_delay_ms=20,
    )
    number = (count - 1) // 3
    faulty = draw.sample(names(count), number)
    if draw.random() < 0.7:
        faulty = ["r0", *draw.sample(names(count)[1:], number - 1)]
    schedule = Schedule(delay_ms=20 + draw.randrange(60), late_percent=draw.randrange(15))
    makers = {} if adversary == "none" else dict.fromkeys(faulty, ADVERSARIES[adversary])
    network = Network(count, seed, config, makers, schedule=schedule)
    honest = [node.author for node in network.honest]
    if service:
        for wave, start_ms in enumerate(WAVES_MS, 1):
            for client in honest[:CLIENTS]:
                network.submit(client, f"{client}-{wave}", wave, start_ms + draw.randrange(200))
    else:
        for client in honest[: seed % 3]:
            network.submit(client, f"{client}'s own", 1, draw.randrange(200))
    return network


def play(network: Network) -> None:
    """Run to the end and check what must hold there."""
    service = network.config.mode == "service"
    done = network.executed(CLIENTS * len(WAVES_MS)) if service else network.decided
    assert network.run(done), f"no progress until {network.now} ms"
    network.finish()
