"""The linear probe of a task: one logistic regression a class, each among the users it can be asked of.

In: rows (n, d) as `feature_scales` gives them, truth and candidates (n, C), folds. Out: probabilities of each class for rows that the
regressions did not see: of a binary question, of classes (one against the rest), of a ranking. A fold's C is the one with the best mean AUC over
classes on the held-out part of its training users. All folds, classes and strengths of a task are one problem (`logistic`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lurm.evaluation.logistic import fit_logistic
from lurm.evaluation.probe import Fold, auc


@dataclass(frozen=True)
class _Question:
    """One regression: who teaches, who is judged, on which class, how freely."""

    fit: np.ndarray
    judge: np.ndarray
    place: int
    strength: float


def linear_scores(
    rows: np.ndarray, truth: np.ndarray, candidates: np.ndarray, folds: Sequence[Fold], grid: Sequence[float], scored: Sequence[int] | None = None
) -> list[np.ndarray]:
    """(n_test, C) probabilities for each fold; a class that nobody, or everybody, of the training users has gets their share.

    `scored` names the classes that a regression is fitted for, all unless told; of two classes the other's probability is the rest.
    """
    places = list(range(truth.shape[1]) if scored is None else scored)
    best = [grid[0]] * len(folds)
    if len(grid) > 1:
        questions = [_Question(fit, judge, place, c) for fold in folds for c in grid for fit, judge in fold.inner for place in places]
        answers = iter(_answers(rows, truth, candidates, questions))
        for number, fold in enumerate(folds):
            judged = []
            for _ in grid:
                areas = [_area(truth[judge, place], candidates[judge, place], next(answers)) for _, judge in fold.inner for place in places]
                judged.append(np.mean([area for area in areas if area is not None] or [0.5]))
            best[number] = grid[int(np.argmax(judged))]
    questions = [_Question(fold.train, fold.test, place, c) for fold, c in zip(folds, best, strict=True) for place in places]
    answers = iter(_answers(rows, truth, candidates, questions))
    scores = []
    for fold in folds:
        found = np.zeros((len(fold.test), truth.shape[1]))
        for place in places:
            found[:, place] = next(answers)
        if truth.shape[1] == 2 and len(places) == 1:
            found[:, 1 - places[0]] = 1 - found[:, places[0]]
        scores.append(found)
    return scores


def _answers(rows: np.ndarray, truth: np.ndarray, candidates: np.ndarray, questions: Sequence[_Question]) -> list[np.ndarray]:
    """Probabilities of the judged rows of each question."""
    positive = np.stack([truth[:, one.place] for one in questions], axis=1)
    counted = np.zeros(positive.shape, bool)
    for column, one in enumerate(questions):
        counted[one.fit, column] = candidates[one.fit, one.place]
    number, positives = counted.sum(axis=0), (counted & positive).sum(axis=0)
    answers = [np.full(len(one.judge), positives[column] / max(number[column], 1)) for column, one in enumerate(questions)]
    both = np.flatnonzero((positives > 0) & (positives < number))
    if len(both):
        weights, intercepts = fit_logistic(rows, positive[:, both], counted[:, both], [questions[column].strength for column in both])
        margins = rows @ weights + intercepts
        for place, column in enumerate(both):
            answers[column] = 1 / (1 + np.exp(-margins[questions[column].judge, place]))
    return answers


def _area(holds: np.ndarray, asked: np.ndarray, scores: np.ndarray) -> float | None:
    """AUC among those asked; None where all of them have, or lack, the class."""
    holds = holds[asked]
    return None if holds.all() or not holds.any() else auc(holds, scores[asked])
