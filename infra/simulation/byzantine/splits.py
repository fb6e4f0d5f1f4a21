"""What the network may do to the messages of one step: who hears whom.

The network is whole, or split into sides that do not hear each other (Bano et al. 2020), or some
readers are shown nothing of it. Of choices with the same effect only the first is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

Blocks = tuple[tuple[int, ...], ...]


class Split(NamedTuple):
    """Who hears whom.

    Attributes:
        name: as shown, like ``r0 r1 | r2 r3``.
        hears: per reader the others it hears, in order.
    """

    name: str
    hears: tuple[tuple[int, ...], ...]


def partitions(count: int, sides: int) -> Iterator[Blocks]:
    """All ways to part ``range(count)`` into at most ``sides`` blocks, the whole first."""

    def place(each: int, blocks: list[list[int]]) -> Iterator[Blocks]:
        if each == count:
            yield tuple(map(tuple, blocks))
            return
        for block in blocks:
            block.append(each)
            yield from place(each + 1, blocks)
            block.pop()
        if len(blocks) < sides:
            blocks.append([each])
            yield from place(each + 1, blocks)
            blocks.pop()

    yield from place(0, [])


def split_into(blocks: Blocks, names: Sequence[str]) -> Split:
    """A split into these sides."""
    side = {each: block for block in blocks for each in block}
    hears = tuple(
        tuple(other for other in side[each] if other != each) for each in range(len(names))
    )
    return Split(" | ".join(" ".join(names[each] for each in block) for block in blocks), hears)


def deafened(deaf: Sequence[int], names: Sequence[str]) -> Split:
    """These readers are shown nothing; everybody else hears everybody."""
    everybody = range(len(names))
    hears = tuple(
        () if each in deaf else tuple(other for other in everybody if other != each)
        for each in everybody
    )
    return Split("deaf: " + " ".join(names[each] for each in deaf), hears)


def splits(names: Sequence[str], sides: int = 2, *, deaf: bool = False) -> tuple[Split, ...]:
    """All splits into at most ``sides`` sides, and with ``deaf`` all sets of deaf readers."""
    count = len(names)
    found: dict[tuple[tuple[int, ...], ...], Split] = {}
    for blocks in partitions(count, sides):
        split = split_into(blocks, names)
        found.setdefault(split.hears, split)
    for size in range(1, count + 1) if deaf else ():
        for readers in combinations(range(count), size):
            split = deafened(readers, names)
            found.setdefault(split.hears, split)
    return tuple(found.values())
