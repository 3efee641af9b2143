"""Popularity: everybody is given what is frequent, the floor of every table.

In: the labels of the training users. Out: their shares, the same for every user. So its AUC is one half by construction, its accuracy that
of the largest class, and as a ranking of interests it is the ranking by popularity.
"""

from collections.abc import Sequence

import numpy as np

from lurm.evaluation.baselines.method import Budget, History


class Popularity:
    """Supervised, but blind."""

    def __init__(self, name: str, budget: Budget, seed: int):
        self.name, self.budget, self.seed = name, budget, seed
        self.details: dict = {}

    def fit(self, history: History) -> None:
        """There is nothing to learn from the history."""

    def scores(self, users: Sequence[str], labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        shares = np.bincount(labels[train], minlength=int(labels.max()) + 1) / len(train)
        return np.tile(shares, (len(test), 1))
