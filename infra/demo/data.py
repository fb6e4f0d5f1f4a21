"""The Wisconsin breast cancer data, split once: what the models learn from and what they vote on.

569 fine-needle biopsies with 30 measured features each, from the copy that scikit-learn ships. The
split is stratified and fixed, so every process sees the same one without talking to any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from ...core.errors import UsageError

SEED = 20
TRAINING_SHARE = 0.7


@dataclass(frozen=True)
class Biopsy:
    """One held-out case.

    Attributes:
        row: its row in the data set.
        features: 30 measurements, in the order of the data set.
        malignant: the truth, which no agent is told.
    """

    row: int
    features: tuple[float, ...]
    malignant: bool

    @property
    def name(self) -> str:
        """``biopsy-17``."""
        return f"biopsy-{self.row}"

    @property
    def truth(self) -> str:
        """The vote that would have been right."""
        return "agree" if self.malignant else "disagree"


@cache
def _biopsies() -> tuple[list[Biopsy], list[Biopsy]]:
    """Training cases and held-out cases."""
    features, target = load_breast_cancer(return_X_y=True)
    everything = [
        Biopsy(row, tuple(map(float, values)), int(kind) == 0)
        for row, (values, kind) in enumerate(zip(features, target, strict=True))
    ]
    training, held_out = train_test_split(
        everything,
        train_size=TRAINING_SHARE,
        random_state=SEED,
        stratify=[each.malignant for each in everything],
    )
    return list(training), list(held_out)


def training_biopsies() -> list[Biopsy]:
    """What the models may learn from."""
    return _biopsies()[0]


def held_out_biopsies(count: int) -> list[Biopsy]:
    """The first ``count`` cases that no model has seen.

    Raises:
        UsageError: there are not so many.
    """
    held_out = _biopsies()[1]
    if not 1 <= count <= len(held_out):
        raise UsageError(
            f"{count} biopsies asked for, there are 1 to {len(held_out)} held out",
            hint=f"Choose a number from 1 to {len(held_out)}.",
        )
    return held_out[:count]
