"""What can be said of a matrix of vectors, one row a user or an item: lengths, directions, neighbours, and how two matrices differ.

Pure numpy, for matrices that fit: the gate, the drift, the comparison of models and the trainings look at samples.
"""

import numpy as np

NEIGHBOURS = 10
BLOCK = 1_024  # rows whose cosines with all others are in memory at once


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows, (n, d) with n > 1; 1 when all point the same way."""
    n_rows, total = len(vectors), unit_rows(vectors).sum(axis=0, dtype=np.float64)
    return float((total @ total - n_rows) / (n_rows * (n_rows - 1)))


def effective_rank(vectors: np.ndarray) -> float:
    """exp(entropy of the normalised singular values) of the centred rows (n, d) (Roy and Vetterli, 2007); 0 when all are equal."""
    centred = np.asarray(vectors, np.float64) - vectors.mean(axis=0, dtype=np.float64)
    if np.abs(centred).max() <= 1e-6 * max(np.abs(vectors).max(), 1e-30):
        return 0.0
    gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    shares = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_shift(before: np.ndarray, now: np.ndarray) -> float:
    """How far the mean of the same users moved, in spreads of `before`; both (n, d)."""
    before, now = np.asarray(before, np.float64), np.asarray(now, np.float64)
    spread = np.sqrt(np.square(before - before.mean(axis=0)).sum(axis=1).mean())
    return float(np.linalg.norm((now - before).mean(axis=0)) / max(spread, 1e-30))


def nearest(vectors: np.ndarray, n_neighbours: int) -> np.ndarray:
    """(n, n_neighbours) rows of largest cosine, nearest first, without the row itself; (n, d) with n > n_neighbours. Memory: BLOCK x n cosines."""
    rows, found = unit_rows(vectors), np.empty((len(vectors), n_neighbours), np.int64)
    for start in range(0, len(rows), BLOCK):
        cosines = rows[start : start + BLOCK] @ rows.T
        place = np.arange(len(cosines))
        cosines[place, start + place] = -np.inf
        best = np.argpartition(-cosines, n_neighbours - 1, axis=1)[:, :n_neighbours]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found[start : start + BLOCK] = np.take_along_axis(best, order, axis=1)
    return found


def shared(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(n,) share of the entries of each row of `before` that are in the same row of `now`; (n, k) both, different within a row."""
    return np.asarray([len(np.intersect1d(*rows, assume_unique=True)) for rows in zip(before, now, strict=True)]) / before.shape[1]


def neighbour_overlap(before: np.ndarray, now: np.ndarray, n_neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(n,) share of each row's nearest rows in `before` that are among its nearest in `now`; (n, d) and (n, e), n > n_neighbours + 1."""
    return shared(nearest(before, n_neighbours), nearest(now, n_neighbours))


def same_row_cosines(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(n,) cosine of each row of `before` and the same row of `now`; both (n, d)."""
    return (unit_rows(before) * unit_rows(now)).sum(axis=1)


def best_rotation(cross: np.ndarray) -> tuple[np.ndarray, float]:
    """The orthogonal matrix R (d, d) for which ||A R - B|| is least, from cross = A.T @ B of two sets of rows (Schoenemann, 1966).

    With it comes the largest sum of inner products that a rotation reaches: ||A R - B||^2 = ||A||^2 + ||B||^2 - 2 x that.
    """
    left, values, right = np.linalg.svd(np.asarray(cross, np.float64))
    return left @ right, float(values.sum())
