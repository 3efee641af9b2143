"""TF-IDF of a user's titles, and its truncated SVD: the baseline that is hard to beat.

In: all titles of a user before the cut, joined. Out: a sparse row of 1-2-grams (sublinear term frequency, inverse document frequency, L2), or
`svd` directions of it under one common scale. The vocabulary is learned without labels from all users of the history. With `activity` the row
also says how often and how recently, by the numbers that LURM's vector has for it: what is left between the two is not activity.

The settings are those that won a search on the Amazon purchases (docs/evaluation.md): 1-2-grams over words alone, sublinear over raw
counts, min_df 3.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from lurm.evaluation.baselines.activity import fading_activity
from lurm.evaluation.baselines.behaviours import Behaviours, behaviours_of, rows_for
from lurm.evaluation.baselines.method import Budget, History


class TfIdf:
    """Frozen; `svd` is the number of directions, None keeps all words; ngrams, min_df and sublinear as in `tf_idf`."""

    def __init__(
        self, name: str, budget: Budget, seed: int, svd: int | None = None, activity: bool = False, ngrams: int = 2, min_df: int = 3,
        sublinear: bool = True,
    ):  # fmt: skip
        self.name, self.budget, self.seed, self.svd, self.activity = name, budget, seed, svd, activity
        self.settings = {"ngrams": ngrams, "min_df": min_df, "sublinear": sublinear}
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours_of(history)
        self._matrix = tf_idf(self._behaviours, **self.settings)
        self.details = {**self.settings, "n_words": self._matrix.shape[1]}
        if self.svd is not None:
            self._matrix = truncated_svd(self._matrix, self.svd, self.seed)
            self.details["width"] = self._matrix.shape[1]
        if self.activity:
            rows = sparse.csr_matrix(self._matrix)
            spread = float(rows.multiply(rows).mean(axis=0).sum() - np.square(rows.mean(axis=0)).sum())
            self._matrix = sparse.hstack([rows, fading_activity(self._behaviours, history.as_of, spread)], format="csr")

    def embed(self, users: Sequence[str]) -> np.ndarray | sparse.csr_matrix:
        return rows_for(self._behaviours, users, self._matrix)


def tf_idf(behaviours: Behaviours, ngrams: int, min_df: int, sublinear: bool) -> sparse.csr_matrix:
    """(U, words and pairs of words) float32, rows of length 1 (0 where nothing is left of a user's words)."""
    documents = documents_of(behaviours)
    few = min(min_df, max(1, len(documents) // 10))  # a handful of users still has a vocabulary
    vectorizer = TfidfVectorizer(ngram_range=(1, ngrams), sublinear_tf=sublinear, min_df=few, norm="l2", dtype=np.float32)
    try:
        return sparse.csr_matrix(vectorizer.fit_transform(documents))
    except ValueError as error:
        if "vocabulary" not in str(error) and "no terms" not in str(error):
            raise
        return sparse.csr_matrix((len(documents), 1), dtype=np.float32)  # titles without any word: everybody is the same


def documents_of(behaviours: Behaviours) -> list[str]:
    """(U,) all titles of every user, in order of time, one after the other."""
    titles, bounds = behaviours.titles, behaviours.offsets
    return [" ".join(titles[item] for item in behaviours.items[start:stop]) for start, stop in zip(bounds[:-1], bounds[1:])]


def truncated_svd(matrix: sparse.csr_matrix, width: int, seed: int) -> np.ndarray:
    """(U, width) float32, not scaled by direction: strong directions stay strong. A matrix that is no wider stays as it is."""
    width = min(width, matrix.shape[0] - 1)
    if matrix.shape[1] <= max(width, 1):
        return np.asarray(matrix.todense(), dtype=np.float32)
    return TruncatedSVD(width, random_state=seed, n_iter=7).fit_transform(matrix).astype(np.float32)
