"""Sums of rows, as quickly as this machine adds them: those of each cluster, and weighted ones of a few rows.

In: a matrix (n, d) float32, and which rows go together. Out: (k, d) float32. torch's weighted bags of rows are many times quicker than
numpy's sums by sorted number; without torch it is numpy. Every sum is computed by one thread in the order of the rows.
"""

import importlib.util
import warnings

import numpy as np


def sums_by_number(vectors: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """The sum of the rows of each number below n, (n, d) float32; rows whose number is n belong to nobody. Good for clusters of a few
    thousand rows: larger ones lose digits of float32 (lurm.lloyd.cluster_sums does not)."""
    order = np.argsort(numbers.astype(np.uint16) if n < 65_536 else numbers, kind="stable")  # of 16 bits: a radix sort
    starts = np.searchsorted(numbers[order], np.arange(n + 1))
    return _bags(vectors, order[: starts[-1]], starts[:-1], None)


def weighted_sums(vectors: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_r weights[k, r] vectors[rows[k, r]], (k, d) float32; rows (k, r) int64, weights (k, r)."""
    return _bags(vectors, rows.ravel(), np.arange(len(rows)) * rows.shape[1], weights.astype(np.float32).ravel())


def _bags(vectors: np.ndarray, rows: np.ndarray, starts: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Sums of vectors[rows[starts[k]:starts[k + 1]]]; the last goes to the end."""
    if importlib.util.find_spec("torch") is None:
        return _plain_bags(vectors, rows, starts, weights)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch fears for a matrix that may not be written to; nobody writes
        matrix = torch.from_numpy(np.asarray(vectors))
    own = None if weights is None else torch.from_numpy(weights)
    return torch.nn.functional.embedding_bag(torch.from_numpy(rows), matrix, torch.from_numpy(starts), mode="sum", per_sample_weights=own).numpy()


def _plain_bags(vectors: np.ndarray, rows: np.ndarray, starts: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    sums = np.zeros((len(starts), vectors.shape[1]), np.float32)
    filled = np.flatnonzero(np.diff(starts, append=len(rows)))
    if len(filled):
        taken = vectors[rows] if weights is None else vectors[rows] * weights[:, None]
        sums[filled] = np.add.reduceat(taken, starts[filled], axis=0)
    return sums
