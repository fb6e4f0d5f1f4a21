"""Five pathologists: one agent class, five kinds of model.

This is the module to copy. In a project of your own the two imports of the SDK become one,

    from mabeam import Agent, Ballot, VoteRequest, on

and ``mabeam agent run clinic:Logistic --id logistic`` runs one of them.
"""

from __future__ import annotations

from typing import Any

from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from ...core.agent import Agent, on
from ...protocols.simple import Ballot, VoteRequest
from .data import SEED, training_biopsies

MEAN_TEXTURE_COLUMN = 1


class Pathologist(Agent):
    """Votes on whether a biopsy is malignant. ``steps`` are those of a scikit-learn pipeline."""

    capabilities = ("pathology",)

    def __init__(self, *steps: Any) -> None:
        known = training_biopsies()
        self.model = make_pipeline(*steps)
        self.model.fit([each.features for each in known], [each.malignant for each in known])

    @on(VoteRequest)
    def vote(self, request: VoteRequest) -> Ballot:
        """Agree if malignant is the likelier reading."""
        p = self.model.predict_proba([request.proposal["features"]])[0][1]
        return Ballot.agree(confidence=p) if p >= 0.5 else Ballot.disagree(confidence=1 - p)


class Logistic(Pathologist):
    """A linear model on standardised features."""

    model_type = "logistic_regression"

    def __init__(self) -> None:
        super().__init__(StandardScaler(), LogisticRegression())


class Forest(Pathologist):
    """A hundred trees."""

    model_type = "random_forest"

    def __init__(self) -> None:
        super().__init__(RandomForestClassifier(n_estimators=100, random_state=SEED))


class SupportVectors(Pathologist):
    """A support vector machine with calibrated probabilities."""

    model_type = "support_vectors"

    def __init__(self) -> None:
        super().__init__(StandardScaler(), CalibratedClassifierCV(SVC(), ensemble=False))


class Neighbours(Pathologist):
    """The seven most similar cases."""

    model_type = "nearest_neighbours"

    def __init__(self) -> None:
        super().__init__(StandardScaler(), KNeighborsClassifier(n_neighbors=7))


class Stump(Pathologist):
    """Deliberately weak: one threshold on one noisy feature."""

    model_type = "stump"

    def __init__(self) -> None:
        mean_texture = make_column_transformer(("passthrough", [MEAN_TEXTURE_COLUMN]))
        super().__init__(mean_texture, DecisionTreeClassifier(max_depth=1, random_state=SEED))
