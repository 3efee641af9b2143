"""How good scores are, as they are and for many resamples of the users at once.

In: a `Task`, its folds and out-of-fold scores. Out: per metric and repeat the figure and its value in each resample, (repeats, 1 + b). All
methods and all tasks of a data set share the same resamples: a user drawn twice counts twice everywhere. So the difference of two methods
is paired, resample by resample, and so is the mean over tasks. Intervals tell how far a figure hangs on who was asked; they do not
tell how far another training would differ.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from lurm.evaluation.probe import Fold
from lurm.evaluation.tasks import Task

AUC, ACCURACY, PRECISION, MAP10 = "auc", "accuracy", "average_precision", "map10"
AUC_VALIDATION, AUC_TEST = "auc_validation", "auc_test"  # of one part of the users each; the probes learn from both
METRICS = (AUC, ACCURACY, PRECISION, MAP10, AUC_VALIDATION, AUC_TEST)


def draw_users(n_users: int, n_resamples: int, seed: int) -> np.ndarray:
    """(1 + n_resamples, n_users) float64: how often each user counts; once each in the first row, then as drawn with replacement."""
    drawn = np.random.default_rng(seed).multinomial(n_users, np.full(n_users, 1 / n_users), n_resamples)
    return np.concatenate([np.ones((1, n_users)), drawn])


def spread(task: Task, folds: Sequence[Fold], parts: Sequence[np.ndarray]) -> np.ndarray:
    """(repeats, n, C) scores from those of the folds' test rows; (n_test,) scores of two classes are those of the second against 0.

    The repeats of the folds must be 0, 1, ...; each user is tested once in each.
    """
    scores = np.full((max(fold.repeat for fold in folds) + 1, len(task.rows), len(task.classes)), np.nan)
    for fold, part in zip(folds, parts, strict=True):
        scores[fold.repeat, fold.test] = part if part.ndim == 2 else np.stack([np.zeros_like(part), part], axis=1)
    return scores


def measure(task: Task, folds: Sequence[Fold], scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metric → (repeats, b) means over folds; scores (repeats, n, C) as `spread` gives them, weights (b, users of the data set).

    AUC and average precision are means over classes, each among the users it can be asked of; accuracy is the share whose best class
    holds; map10, of rankings only, is the mean average precision among the ten best candidates. In a ranking these two are of the users of
    whom a class holds. NaN where a resample lacks a class.
    """
    found: dict[str, list[list[np.ndarray]]] = {}
    for repeat in range(len(scores)):
        tests = [fold.test for fold in folds if fold.repeat == repeat]
        values = [_measure_part(task, test, scores[repeat, test], weights[:, task.rows[test]]) for test in tests]
        for metric in values[0]:
            found.setdefault(metric, []).append([value[metric] for value in values])
    return {metric: _mean(np.array(values), axis=1) for metric, values in found.items()}


def weighted_areas(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b,) areas under the ROC curve and (b,) average precisions of n rows, each counted as often as its weight says, (b, n).

    One sort serves all b weightings. Ties count half in the area and are taken together in the precision, as scikit-learn does. NaN where
    a weighting leaves a class empty.
    """
    values, group = np.unique(scores, return_inverse=True)
    order = np.argsort(group, kind="stable")
    if len(values) == len(scores):
        negatives, positives = (weights * ~positive)[:, order], (weights * positive)[:, order]
    else:
        starts = np.searchsorted(group[order], np.arange(len(values)))
        negatives, positives = (np.add.reduceat((weights * side)[:, order], starts, axis=1) for side in (~positive, positive))
    n_positive, n_negative = positives.sum(axis=1), negatives.sum(axis=1)
    below = np.cumsum(negatives, axis=1)
    above_positive = n_positive[:, None] - np.cumsum(positives, axis=1) + positives  # at or above each value
    above = above_positive + n_negative[:, None] - below + negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positives * (below - negatives / 2)).sum(axis=1) / (n_positive * n_negative)
        precision = (positives * np.where(above > 0, above_positive / above, 0)).sum(axis=1) / n_positive
    return area, np.where(n_negative > 0, precision, np.nan)


def _measure_part(task: Task, test: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    truth, candidates = task.truth[test], task.candidates[test]
    areas = []
    for place in task.scored:
        asked = candidates[:, place]
        areas.append(weighted_areas(truth[asked, place], scores[asked, place], weights[:, asked]))
    best = np.where(candidates, scores, -np.inf).argmax(axis=1)
    means = _mean(np.array(areas), axis=0)  # (2, b): over classes
    # A ranking is right or wrong for those of whom something holds.
    has = (truth & candidates).any(axis=1)
    hit = (truth & candidates)[has, best[has]]
    found = {AUC: means[0], PRECISION: means[1], ACCURACY: _weighted(hit, weights[:, has])}
    if task.ranking:
        found[MAP10] = _weighted(_precision_at_10(truth[has], candidates[has], scores[has]), weights[:, has])
    return found


def _precision_at_10(truth: np.ndarray, candidates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) average precision among the ten best candidates of each row; equal scores in the order of the classes."""
    order = np.argsort(-np.where(candidates, scores, -np.inf), axis=1, kind="stable")[:, :10]
    relevant = np.take_along_axis(truth & candidates, order, axis=1)
    at_rank = relevant * np.cumsum(relevant, axis=1) / np.arange(1, order.shape[1] + 1)
    return at_rank.sum(axis=1) / np.maximum(np.minimum((truth & candidates).sum(axis=1), order.shape[1]), 1)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ values / weights.sum(axis=1)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, which is meant
        return np.nanmean(values, axis=axis)
