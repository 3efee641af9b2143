"""Smaller numbers for vectors: float16, and int8 with one scale for every anchor of every vector.

In: vectors (n, width) float32. Out: `Quantized`, which gives them back with an error of its own. An int8 number is the code times the
scale, and the scale is the largest absolute number of the anchor over 127, so zero stays zero, no number is cut off, and an anchor with
small numbers does not suffer from one with large ones.
"""

from dataclasses import dataclass

import numpy as np

from lurm.errors import InputError
from lurm.vectors import unit_rows

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"
DTYPES = (FLOAT32, FLOAT16, INT8)
LEVELS = 127  # codes go from -127 to 127: symmetric


@dataclass(frozen=True)
class Quantized:
    """codes (n, width) of the type asked for; scales (n, n_anchors) float32 of int8 codes, None otherwise."""

    codes: np.ndarray
    scales: np.ndarray | None

    def vectors(self) -> np.ndarray:
        """What the codes stand for, (n, width) float32."""
        if self.scales is None:
            return self.codes.astype(np.float32)
        return (_anchors(self.codes, self.scales.shape[1]) * self.scales[:, :, None]).reshape(self.codes.shape)


def quantize(vectors: np.ndarray, dtype: str, n_anchors: int) -> Quantized:
    """Store vectors (n, n_anchors * dim) float32 as `dtype`; the same vectors give the same codes however they are cut into batches.

    Raises InputError for a type that is none of DTYPES, and for a number that float16 cannot hold.
    """
    if dtype not in DTYPES:
        raise InputError(f"Expected a type of {', '.join(DTYPES)}, got {dtype!r}; choose one of them.")
    if dtype == FLOAT32:
        return Quantized(vectors, None)
    if dtype == FLOAT16:
        largest, most = float(np.abs(vectors).max(initial=0.0)), float(np.finfo(np.float16).max)
        if largest > most:
            raise InputError(f"Expected numbers of at most {most:,.0f} to store as float16, got {largest:g}; use float32 or int8.")
        return Quantized(vectors.astype(np.float16), None)
    anchors = _anchors(vectors, n_anchors)
    scales = np.abs(anchors).max(axis=2) / np.float32(LEVELS)
    codes = np.rint(anchors / np.where(scales > 0, scales, 1)[:, :, None])
    return Quantized(np.clip(codes, -LEVELS, LEVELS).astype(np.int8).reshape(vectors.shape), scales)


def _anchors(vectors: np.ndarray, n_anchors: int) -> np.ndarray:
    """(n, n_anchors, dim), also of no vectors."""
    return vectors.reshape(len(vectors), n_anchors, vectors.shape[1] // n_anchors)


class VectorError:
    """How far stored vectors are from the original ones, over all batches of a stream; zero vectors have no relative error and are left out."""

    def __init__(self):
        self.n_vectors, self._relative, self._cosine, self._worst = 0, 0.0, 0.0, 0.0

    def add(self, original: np.ndarray, stored: np.ndarray) -> None:
        """Both (n, width)."""
        original, stored = np.asarray(original, np.float64), np.asarray(stored, np.float64)
        norms = np.linalg.norm(original, axis=1)
        directed = norms > 0
        relative = np.linalg.norm((stored - original)[directed], axis=1) / norms[directed]
        self.n_vectors += len(relative)
        self._relative += float(relative.sum())
        self._worst = max(self._worst, float(relative.max(initial=0.0)))
        self._cosine += float((unit_rows(original) * unit_rows(stored))[directed].sum())

    def figures(self) -> dict[str, float | None]:
        """Mean and largest relative L2 error, and the mean cosine to the original; None where no vector has a direction."""
        if not self.n_vectors:
            return {"relative_l2_mean": None, "relative_l2_max": None, "cosine_mean": None}
        return {"relative_l2_mean": self._relative / self.n_vectors, "relative_l2_max": self._worst, "cosine_mean": self._cosine / self.n_vectors}
