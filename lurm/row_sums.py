"""Sums of rows: those of each cluster, and weighted ones of a few rows.

In: a matrix (n, d) float32, and which rows go together. Out: (k, d) float32. Where numba is there it is a loop that adds each row where it belongs,
else numpy's sums by sorted number. Every sum is computed by one thread in the order of the rows.
"""

import importlib.util
from functools import cache

import numpy as np


def sums_by_number(vectors: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """The sum of the rows of each number below n, (n, d) float32; rows whose number is n belong to nobody. Good for clusters of a few
    thousand rows: larger ones lose digits of float32 (lurm.lloyd.cluster_sums does not)."""
    if _compiles():
        from lurm.row_loops import add_rows

        sums = np.zeros((n, vectors.shape[1]), np.float32)
        add_rows(np.asarray(vectors), numbers.astype(np.int64), sums)
        return sums
    order = np.argsort(numbers.astype(np.uint16) if n < 65_536 else numbers, kind="stable")  # of 16 bits: a radix sort
    starts = np.searchsorted(numbers[order], np.arange(n + 1))
    return _sums_of_runs(vectors[order[: starts[-1]]], starts[:-1])


def weighted_sums(vectors: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_r weights[k, r] vectors[rows[k, r]], (k, d) float32; rows (k, r) int64, weights (k, r)."""
    if _compiles():
        from lurm.row_loops import add_weighted_rows

        sums = np.zeros((len(rows), vectors.shape[1]), np.float32)
        add_weighted_rows(np.asarray(vectors), np.ascontiguousarray(rows), np.ascontiguousarray(weights, np.float32), sums)
        return sums
    return _sums_of_runs(vectors[rows.ravel()] * weights.astype(np.float32).ravel()[:, None], np.arange(len(rows)) * rows.shape[1])


@cache
def _compiles() -> bool:
    """Whether numba is there; looking for it takes longer than some sums."""
    return importlib.util.find_spec("numba") is not None


def _sums_of_runs(rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of rows[starts[k]:starts[k + 1]]; the last goes to the end."""
    sums = np.zeros((len(starts), rows.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(starts, append=len(rows)))
    if len(filled):
        sums[filled] = np.add.reduceat(rows, starts[filled], axis=0)
    return sums
