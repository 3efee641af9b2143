"""Many logistic regressions on the same rows at once: every class, fold and strength of regularisation is a column of one problem.

In: rows (n, d) whose columns are principal directions, as `feature_scales.scaled` leaves them, and for each column who is positive, who counts
and how strong the penalty is. Out: weights and intercepts. Scikit-learn's regression is what is computed (L2 penalty, intercept free), so
its tests hold one against the other; there a fit reads all rows from memory at each step, here one product serves a hundred fits,
which is what lets an evaluation of a hundred methods end within hours.

Limited-memory quasi-Newton steps (Nocedal 1980), each column with its own history and step length. In principal directions the curvature is
nearly diagonal, and its bound 1/(C n) + mean(x_j^2)/4 is the first guess of it.
"""

from collections.abc import Sequence

import numpy as np

MOST_STEPS, MEMORY, TOLERANCE = 300, 6, 1e-5
ARMIJO, SHORTEST = 1e-4, 1e-6
COLUMNS = 128  # of one problem: their weights and histories stay small


def fit_logistic(rows: np.ndarray, truth: np.ndarray, counted: np.ndarray, strengths: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d, k) and intercepts (k,), float64, of k regressions.

    rows (n, d); truth and counted (n, k) bool: the positive rows, and those that the regression sees; strengths (k,): scikit-learn's C, the
    weight of the summed loss against half the squared length. A column that sees one class only has no minimum and is the caller's to leave out.
    """
    parts = [slice(start, start + COLUMNS) for start in range(0, truth.shape[1], COLUMNS)]
    strengths = np.asarray(strengths, np.float64)
    found = [_fit(rows, truth[:, part], counted[:, part], strengths[part]) for part in parts]
    return np.concatenate([one[:-1] for one in found], axis=1), np.concatenate([one[-1] for one in found])


def _fit(rows: np.ndarray, truth: np.ndarray, counted: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """(d + 1, k): the weights, the intercept below them."""
    number = counted.sum(axis=0)
    wide = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    problem = _Problem(wide, np.where(truth, 1.0, -1.0), counted / number, 1 / (strengths * number))
    share = (truth & counted).sum(axis=0) / number
    point = np.zeros((wide.shape[1], truth.shape[1]))
    point[-1] = np.log(share / (1 - share))
    first = 1 / (problem.penalty + 0.25 * (wide**2).T @ problem.counted)
    done = np.zeros_like(point)
    where = np.arange(point.shape[1])  # columns still on their way
    value, slope = problem.at(point)
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # step, change of the slope, 1 / their product
    for _ in range(MOST_STEPS):
        running = np.abs(slope).max(axis=0) > TOLERANCE
        if not running.all():
            done[:, where[~running]] = point[:, ~running]
            where, point, value, slope, first = where[running], point[:, running], value[running], slope[:, running], first[:, running]
            steps = [tuple(part[..., running] for part in step) for step in steps]
            problem = problem.of(running)
        if not len(where):
            return done
        way = -_newton(slope, first, steps)
        moved, new_value, new_slope = problem.along(point, value, slope, way)
        change, turn = moved - point, new_slope - slope
        product = (change * turn).sum(axis=0)
        steps = [*steps[-MEMORY + 1 :], (change, turn, np.where(product > 1e-300, 1 / np.maximum(product, 1e-300), 0.0))]
        point, value, slope = moved, new_value, new_slope
    done[:, where] = point
    return done


class _Problem:
    """The mean loss of the counted rows plus the penalty, of each column."""

    def __init__(self, wide: np.ndarray, signs: np.ndarray, counted: np.ndarray, penalty: np.ndarray):
        self.wide, self.signs, self.counted = wide, signs, counted
        self.penalty = np.repeat(penalty[None], wide.shape[1], axis=0) if penalty.ndim == 1 else penalty
        self.penalty[-1] = 0.0  # the intercept is free

    def of(self, columns: np.ndarray) -> "_Problem":
        return _Problem(self.wide, self.signs[:, columns], self.counted[:, columns], self.penalty[:, columns])

    def at(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (k,) and slope (d + 1, k)."""
        margin = self.signs * (self.wide @ point)
        small = np.exp(-np.abs(margin))
        loss = (self.counted * (np.log1p(small) - np.minimum(margin, 0))).sum(axis=0) + 0.5 * (self.penalty * point**2).sum(axis=0)
        wrong = np.where(margin > 0, small, 1.0) / (1 + small)
        return loss, self.wide.T @ (-self.signs * self.counted * wrong) + self.penalty * point

    def along(self, point: np.ndarray, value: np.ndarray, slope: np.ndarray, way: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The point after a step short enough to go down, its value and slope."""
        fall = (slope * way).sum(axis=0)
        length = np.ones(len(value))
        while True:
            moved = point + length * way
            new_value, new_slope = self.at(moved)
            high = new_value > value + ARMIJO * length * fall + 1e-14
            if not high.any() or length.min() < SHORTEST:
                return moved, new_value, new_slope
            length[high] *= 0.5


def _newton(slope: np.ndarray, first: np.ndarray, steps: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The inverse curvature, as the last steps have shown it, times the slope."""
    way = slope.copy()
    shares = []
    for change, turn, inverse in reversed(steps):
        share = inverse * (change * way).sum(axis=0)
        shares.append(share)
        way -= share * turn
    way *= first
    if steps:
        change, turn, inverse = steps[-1]
        size = (turn * first * turn).sum(axis=0) * inverse
        way *= np.where(size > 0, 1 / np.maximum(size, 1e-300), 1.0)
    for (change, turn, inverse), share in zip(steps, reversed(shares), strict=True):
        way += change * (share - inverse * (turn * way).sum(axis=0))
    return way
