"""LURM's bag of interests alone (LURM eq. 4 and its Table 5, row BoI), its truncated SVD, and the mean of item embeddings.

In: the shared item vectors and interests of a history (lurm_foundation). Out: one bag per user over all or the last months before the cut,
log(1 + count), as a sparse row. Hard assignment puts an event into one interest; soft assignment shares it among the nearest four
(softmax of cosine / 0.1). `idf` weighs interests by rarity and gives rows length 1, which the paper does not do.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from lurm.bag_of_interests import to_csr
from lurm.evaluation.baselines.behaviours import behaviours_of, rows_for
from lurm.evaluation.baselines.lurm_foundation import SOFT_UNIT, interests, item_vectors, lives
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.word_counts import truncated_svd
from lurm.periods import end_month


class Bag:
    """Frozen; (B, D) sparse."""

    def __init__(
        self, name: str, budget: Budget, seed: int, n_interests: int | None = None, soft: bool = False, last_months: int | None = None,
        idf: bool = False, svd: int | None = None,
    ):  # fmt: skip
        self.name, self.budget, self.seed = name, budget, seed
        self.n_interests, self.soft, self.last_months, self.idf, self.svd = n_interests, soft, last_months, idf, svd
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours_of(history)
        space = interests(history, self.budget, self.seed, self.n_interests)
        months = lives(history, self.budget, self.seed, self.n_interests, self.soft)
        end = end_month(history.as_of)
        window = None if self.last_months is None else (end - self.last_months, end)
        counts = to_csr(months, len(space.centroids), window).astype(np.float32)
        matrix = sparse.csr_matrix((np.log1p(counts.data / (SOFT_UNIT if self.soft else 1)), counts.indices, counts.indptr), counts.shape)
        matrix = rarity_weighted(matrix) if self.idf else matrix
        self._matrix = matrix if self.svd is None else truncated_svd(matrix, self.svd, self.seed)
        self.details = {**space.details, "soft": self.soft, "last_months": self.last_months, "width": self._matrix.shape[1]}

    def embed(self, users: Sequence[str]) -> np.ndarray | sparse.csr_matrix:
        return rows_for(self._behaviours, users, self._matrix)


class ItemMean:
    """Frozen; (B, 128): the mean item embedding of all of a user's events."""

    def __init__(self, name: str, budget: Budget, seed: int):
        self.name, self.budget, self.seed = name, budget, seed
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours = behaviours_of(history)
        vectors, cost = item_vectors(history, self.budget, self.seed)
        counts = sparse.csr_matrix(
            (np.ones(len(behaviours.items), np.float32), (behaviours.owners, behaviours.items)), (len(behaviours.users), len(vectors))
        )
        known = np.any(vectors != 0, axis=1).astype(np.float32)
        self._matrix = (counts @ vectors / np.maximum(counts @ known, 1)[:, None]).astype(np.float32)
        self.details = dict(cost)

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


def rarity_weighted(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Columns times log((1 + U) / (1 + users that have it)) + 1, rows of length 1."""
    n_users, n_columns = matrix.shape
    holders = np.bincount(matrix.indices, minlength=n_columns)
    weighted = sparse.csr_matrix(matrix @ sparse.diags_array(np.log((1 + n_users) / (1 + holders)).astype(np.float32) + 1))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1 / np.where(lengths > 0, lengths, 1)) @ weighted).astype(np.float32)
