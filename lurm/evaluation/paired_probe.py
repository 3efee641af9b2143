"""What a probe reads off two embeddings of the same users: the same folds for both, and the difference with an interval.

In: a file of labels, and features (n, d) and (n, e) of the same users. Out: the AUC from each, and the paired difference with a 95 %
bootstrap interval over users: both scores of a user are drawn together, so what makes a user hard for both cancels out. The interval says
how far the difference hangs on who was asked, not how far another training of the same model would differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lurm.errors import InputError
from lurm.evaluation.probe import make_folds, one_scale, out_of_fold_scores
from lurm.joining.label_frames import open_labels, time_micros, user_texts
from lurm.sampling import hash64_of_text

GRID = (1.0, 10.0, 100.0)
MOST_USERS = 4_000  # labelled users, by hash: a probe of more takes minutes
MOST_CLASSES = 20
N_FOLDS = 5
N_RESAMPLED = 1_000
SEED = 0


@dataclass(frozen=True)
class Labels:
    """One label for each of some users, and what was left out."""

    users: np.ndarray  # (n,) text, ascending
    labels: np.ndarray  # (n,) text
    rows: int
    rows_too_early: int  # before the date: the vectors may have seen what they tell
    rows_without: int  # no user, no label or no time
    rows_again: int  # of a user who had a label already


def read_labels(path: str, user: str, label: str, time: str | None, as_of: str, most: int = MOST_USERS) -> Labels:
    """Labels of at most `most` users, those with the smallest hashes; of several labels of a user the earliest counts, or the first.

    With `time` only rows at or after `as_of` (midnight UTC) count. Raises InputError for a column that is not there or cannot be read.
    """
    source = open_labels(path, user, time or user)
    if label not in source.schema.names:
        raise InputError(f"Expected a column {label!r} in {path}, found: {', '.join(source.schema.names)}; name the right one with --label.")
    first = int(np.datetime64(as_of, "us").astype(np.int64))
    kept: dict[int, tuple[int, str, str]] = {}  # hash of a user: time, user, label
    counted = dict.fromkeys(("rows", "rows_too_early", "rows_without", "rows_again"), 0)
    for batch in source.batches:
        counted["rows"] += batch.num_rows
        for hashed, moment, name, value in _rows(batch, user, label, time):
            if name is None or value is None or moment is None:
                counted["rows_without"] += 1
            elif moment < first and time:
                counted["rows_too_early"] += 1
            elif hashed in kept:
                counted["rows_again"] += 1
                kept[hashed] = min(kept[hashed], (moment, name, value), key=lambda row: row[0])
            else:
                kept[hashed] = (moment, name, value)
        if len(kept) > 4 * most:
            kept = {hashed: kept[hashed] for hashed in sorted(kept)[:most]}  # whose hash is not among the smallest now never will be
    chosen = sorted((kept[hashed] for hashed in sorted(kept)[:most]), key=lambda row: row[1])
    return Labels(np.asarray([row[1] for row in chosen], object), np.asarray([row[2] for row in chosen], object), **counted)


def _rows(batch: pa.RecordBatch, user: str, label: str, time: str | None) -> Iterator[tuple]:
    """Hash, time, user and label of each row; None for what is not there."""
    names = user_texts(batch.column(user), user).to_pylist()
    values = [None if value is None or value == "" else str(value) for value in batch.column(label).to_pylist()]
    moments: list = [0] * len(names)
    if time:
        numbers, known = time_micros(batch.column(time), time)
        moments = [number if there else None for number, there in zip(numbers.tolist(), known.tolist(), strict=True)]
    return zip(hash64_of_text(("" if name is None else name for name in names), SEED).tolist(), moments, names, values, strict=True)


def probe_both(before: np.ndarray, now: np.ndarray, labels: np.ndarray, seed: int = SEED, n_resampled: int = N_RESAMPLED) -> dict:
    """AUC of a logistic regression on each of two features (n, d) and (n, e), out of fold, and their paired difference.

    Two classes give the AUC of the larger name, more the macro mean of one-vs-rest; a figure is the mean over folds. Raises InputError
    for fewer than two classes, too few users in one, or more than MOST_CLASSES.
    """
    classes = np.unique(labels.astype(str))
    if len(classes) > MOST_CLASSES:
        raise InputError(f"Expected a label of at most {MOST_CLASSES} classes, got {len(classes)} (first {classes[0]!r}); bin its values first.")
    named = labels.astype(str)
    folds = make_folds(named, N_FOLDS, 1, seed, n_inner=1)
    scores = [out_of_fold_scores(one_scale(features), named, folds, GRID) for features in (before, now)]
    rng = np.random.default_rng(seed)
    measured = np.zeros((2, 1 + n_resampled))  # first as it is, then resampled
    for number, fold in enumerate(folds):
        truth = named[fold.test]
        weights = np.concatenate([np.ones((1, len(truth))), rng.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), n_resampled)])
        for side in (0, 1):
            measured[side] += _macro_auc(truth, scores[side][number], classes, weights) / len(folds)
    difference = measured[1] - measured[0]
    low, high = np.nanpercentile(difference[1:], [2.5, 97.5])
    return {
        "before": float(measured[0, 0]), "now": float(measured[1, 0]), "users": len(named), "classes": len(classes),
        "difference": {"mean": float(difference[0]), "low": float(low), "high": float(high)},
    }


def _macro_auc(truth: np.ndarray, scores: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if scores.ndim == 1:
        return weighted_auc(truth == classes[-1], scores, weights)
    return np.mean([weighted_auc(truth == name, scores[:, place], weights) for place, name in enumerate(classes)], axis=0)


def weighted_auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(b,) areas under the ROC curve of n rows, (n,) bool and (n,) float, each counted as often as its weight says, (b, n).

    The share of pairs (positive, negative) in which the positive one scores higher, ties half: one sort serves all b weightings. NaN
    where a weighting leaves one class empty.
    """
    values, group = np.unique(scores, return_inverse=True)
    sums = np.zeros((2, len(weights), len(values)))
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(values)))
    for side, member in enumerate((~positive, positive)):
        sums[side] = np.add.reduceat((weights * member)[:, order], starts, axis=1)
    negatives, positives = sums
    below = np.cumsum(negatives, axis=1) - negatives / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))
