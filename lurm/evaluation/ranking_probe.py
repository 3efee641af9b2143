"""The linear probe of a ranking: one logistic regression a class, each among the users it can be asked of.

In: rows (n, d) as `feature_scales` gives them, truth and candidates (n, C), folds. Out: probabilities of each class for rows that the
regressions did not see, so that the classes of a user can be ranked. A fold's C is the one with the best mean AUC over classes on the
held-out part of its training users.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from lurm.evaluation.probe import Fold, auc


def ranking_scores(rows: np.ndarray, truth: np.ndarray, candidates: np.ndarray, folds: Sequence[Fold], grid: Sequence[float]) -> list[np.ndarray]:
    """(n_test, C) probabilities for each fold; a class that nobody, or everybody, of the training users has gets their share."""
    scores = []
    for fold in folds:
        judged = np.zeros(len(grid))
        if len(grid) > 1:
            for fit, judge in fold.inner:
                judged += [_mean_auc(_probabilities(rows, truth, candidates, fit, judge, c), truth[judge], candidates[judge]) for c in grid]
        scores.append(_probabilities(rows, truth, candidates, fold.train, fold.test, grid[int(judged.argmax())]))
    return scores


def _probabilities(rows: np.ndarray, truth: np.ndarray, candidates: np.ndarray, fit: np.ndarray, score: np.ndarray, c: float) -> np.ndarray:
    found = np.zeros((len(score), truth.shape[1]))
    for place in range(truth.shape[1]):
        asked = fit[candidates[fit, place]]
        holds = truth[asked, place]
        if holds.any() and not holds.all():
            found[:, place] = LogisticRegression(C=c, max_iter=1_000).fit(rows[asked], holds).predict_proba(rows[score])[:, 1]
        elif len(asked):
            found[:, place] = holds.mean()
    return found


def _mean_auc(scores: np.ndarray, truth: np.ndarray, candidates: np.ndarray) -> float:
    found = []
    for place in range(truth.shape[1]):
        asked = candidates[:, place]
        holds = truth[asked, place]
        if holds.any() and not holds.all():
            found.append(auc(holds, scores[asked, place]))
    return float(np.mean(found)) if found else 0.5
