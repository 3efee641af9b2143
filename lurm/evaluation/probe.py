"""The linear probe: how well a logistic regression reads a label off frozen features.

In: features (n, d), dense or sparse, one label per row, and folds. Out: scores of rows that the regression did not see, and their AUC.
All features pass through the same door: centred, then divided by one number, so that the mean squared length of a row is 1. Dividing
each dimension by its own deviation instead blows up the dimensions that carry least and cost several points of AUC where it was tried.
The strength of regularisation C is chosen inside each training part (models.md 1.5 has an MLP; a linear probe needs no tuning of its own).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from lurm.errors import InputError

C_GRID = (0.1, 1.0, 10.0, 100.0, 1_000.0)


@dataclass(frozen=True)
class Fold:
    """One training part and one test part (row numbers) of one repeat; the inner splits of the training part choose C."""

    repeat: int
    train: np.ndarray
    test: np.ndarray
    inner: list[tuple[np.ndarray, np.ndarray]]  # row numbers (fit, judge), both within train


def make_folds(labels: np.ndarray, n_folds: int, n_repeats: int, seed: int, n_inner: int = 3) -> list[Fold]:
    """Seeded, stratified folds. `n_inner` 1 chooses C on one held-out fifth of the training part, more by inner cross-validation."""
    smallest = np.unique(labels, return_counts=True)[1].min(initial=len(labels))
    if len(np.unique(labels)) < 2 or smallest < 2 * n_folds:
        raise InputError(
            f"Expected at least two classes with {2 * n_folds} users each, got {_class_sizes(labels)}; use fewer folds or more users."
        )
    folds = []
    for repeat in range(n_repeats):
        for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=seed + repeat).split(labels, labels):
            if n_inner == 1:
                inner = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
            else:
                inner = StratifiedKFold(n_inner, shuffle=True, random_state=seed)
            splits = [(train[fit], train[judge]) for fit, judge in inner.split(train, labels[train])]
            folds.append(Fold(repeat, train, test, splits))
    return folds


def one_scale(features: np.ndarray | sparse.spmatrix) -> np.ndarray:
    """(n, d) to (n, min(d, n)) float64: centred rows of mean squared length 1.

    Where d > n the rows are turned into their own n directions first. That is a rotation: a regression with an L2 penalty gives the same
    scores, many times faster.
    """
    if features.shape[1] > features.shape[0]:
        gram = features @ features.T
        gram = np.asarray(gram.todense() if sparse.issparse(gram) else gram, dtype=np.float64)
        gram -= gram.mean(axis=0)[None, :] + gram.mean(axis=1)[:, None] - gram.mean()  # of centred rows
        values, vectors = np.linalg.eigh(gram)
        real = values > 1e-10 * max(values[-1], 1e-300)
        rows = vectors[:, real] * np.sqrt(values[real])
    else:
        rows = np.asarray(features.todense() if sparse.issparse(features) else features, dtype=np.float64)
        rows = rows - rows.mean(axis=0)
    length = np.sqrt((rows**2).sum() / len(rows))
    return rows / length if length > 0 else rows


def out_of_fold_scores(rows: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], grid: Sequence[float] = C_GRID) -> list[np.ndarray]:
    """Scores of each fold's test rows: (n_test,) for two classes, (n_test, classes) probabilities for more.

    rows (n, d) as `one_scale` gives them; labels (n,) of any comparable type, the larger of two being the positive one.
    """
    scores = []
    for fold in folds:
        judged = np.zeros(len(grid))
        if len(grid) > 1:
            for fit, judge in fold.inner:
                judged += [auc(labels[judge], _fit_and_score(rows, labels, fit, judge, c)) for c in grid]
        scores.append(_fit_and_score(rows, labels, fold.train, fold.test, grid[int(judged.argmax())]))
    return scores


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; macro mean of one-vs-rest for more than two classes."""
    if scores.ndim == 1:
        return float(roc_auc_score(labels, scores))
    return float(roc_auc_score(labels, scores, multi_class="ovr", average="macro"))


def _fit_and_score(rows: np.ndarray, labels: np.ndarray, fit: np.ndarray, score: np.ndarray, c: float) -> np.ndarray:
    model = LogisticRegression(C=c, max_iter=1_000, tol=1e-4).fit(rows[fit], labels[fit])
    return model.decision_function(rows[score]) if len(model.classes_) == 2 else model.predict_proba(rows[score])


def _class_sizes(labels: np.ndarray) -> str:
    return ", ".join(f"{name}: {size}" for name, size in zip(*np.unique(labels, return_counts=True), strict=True)) or "none"
