"""The papers' probe: a perceptron with one hidden layer of 64 on frozen features (models.md 1.5).

In: rows (n, d) as `feature_scales` gives them, labels and folds. Out: class probabilities of rows that it did not see. ReLU, Adam at 0.001,
batches of 128, cross-entropy; a tenth of the training users is held out, training stops when their loss has not fallen for PATIENCE epochs, and
the weights of the best epoch are taken. How long the rows are decides how fast it learns by heart, so of LENGTHS the one with the
lowest held-out loss is taken in each fold, as C is for the logistic regression. Written out in numpy: thousands of small fits are needed.

Rows are turned at random first. Adam gives each coordinate steps of one size: where coordinates are principal directions, as `one_scale` leaves
wide features, it learns noise of the weak ones as fast as what the strong ones tell, which cost TF-IDF ten points of AUC on real users.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from lurm.evaluation.probe import Fold

HIDDEN, BATCH, RATE, HELD_OUT = 64, 128, 0.001, 0.1
PATIENCE, MOST_EPOCHS = 8, 100
DECAYS, TINY = (0.9, 0.999), 1e-8  # Kingma and Ba 2015
LENGTHS = (1.0, 4.0)  # root mean square length of a row


def mlp_scores(rows: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], seed: int = 0, lengths: Sequence[float] = LENGTHS) -> list[np.ndarray]:
    """(n_test, C) class probabilities of each fold's test rows; labels (n,) are the numbers 0..C-1, each present in every fold.

    rows (n, d) of mean squared length 1.
    """
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((rows.shape[1], rows.shape[1])))[0]
    turned = (rows @ turn).astype(np.float32)
    return [_of_fold(turned, labels, fold, seed, lengths) for fold in folds]


def _of_fold(rows: np.ndarray, labels: np.ndarray, fold: Fold, seed: int, lengths: Sequence[float]) -> np.ndarray:
    share = max(HELD_OUT, (labels.max() + 1) / len(fold.train))
    fit, judge = next(StratifiedShuffleSplit(1, test_size=share, random_state=seed).split(fold.train, labels[fold.train]))
    fit, judge = fold.train[fit], fold.train[judge]
    tried = [train(length * rows[fit], labels[fit], length * rows[judge], labels[judge], int(labels.max()) + 1, seed) for length in lengths]
    best = int(np.argmin([loss for _, loss in tried]))
    return forward(lengths[best] * rows[fold.test], tried[best][0])[1].astype(np.float64)


def train(
    rows: np.ndarray, labels: np.ndarray, held: np.ndarray, held_labels: np.ndarray, n_classes: int, seed: int
) -> tuple[list[np.ndarray], float]:
    """Weights (d, 64), (64,), (64, C), (C,) float32 of the best epoch, and its mean held-out cross-entropy."""
    rng = np.random.default_rng(seed)
    sizes = (rows.shape[1], HIDDEN, n_classes)
    weights: list[np.ndarray] = []
    for into, out in zip(sizes, sizes[1:]):  # Glorot and Bengio 2010
        bound = np.sqrt(6 / (into + out))
        weights += [rng.uniform(-bound, bound, (into, out)).astype(np.float32), np.zeros(out, np.float32)]
    means, squares = [np.zeros_like(part) for part in weights], [np.zeros_like(part) for part in weights]
    target = np.eye(n_classes, dtype=np.float32)[labels]
    best, kept, since, step = np.inf, weights, 0, 0
    for _ in range(MOST_EPOCHS):
        order = rng.permutation(len(rows))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            step += 1
            for part, gradient, mean, square in zip(weights, gradients(rows[batch], target[batch], weights), means, squares, strict=True):
                mean += (1 - DECAYS[0]) * (gradient - mean)
                square += (1 - DECAYS[1]) * (gradient * gradient - square)
                part -= RATE * (mean / (1 - DECAYS[0] ** step)) / (np.sqrt(square / (1 - DECAYS[1] ** step)) + TINY)
        chances = forward(held, weights)[1]
        loss = float(-np.log(np.maximum(chances[np.arange(len(held)), held_labels], 1e-12)).mean())
        since += 1
        if loss < best:
            best, kept, since = loss, [part.copy() for part in weights], 0
        if since >= PATIENCE:
            break
    return kept, best


def forward(rows: np.ndarray, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 64) hidden activations and (n, C) class probabilities."""
    hidden = np.maximum(rows @ weights[0] + weights[1], 0)
    logits = hidden @ weights[2] + weights[3]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return hidden, powers / powers.sum(axis=1, keepdims=True)


def gradients(rows: np.ndarray, target: np.ndarray, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of the mean cross-entropy with target (n, C) of ones and zeros, in the order of the weights."""
    hidden, chances = forward(rows, weights)
    error = (chances - target) / len(rows)
    back = (error @ weights[2].T) * (hidden > 0)
    return [rows.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
