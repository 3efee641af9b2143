"""What each anchor stands for, and how users differ in it.

In: a trained model, counts of its interests, the published vectors. Out: alpha for every interest (eq. 6), the interests an anchor takes
most of, its share of what users do, and the distribution of the norm of its part of the vector over users. Vectors are streamed.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from lurm.smen.model import SMEN

log = logging.getLogger("lurm")
CHUNK = 8_192
N_BINS = 1_024
SECONDS_BETWEEN_REPORTS = 5.0


@torch.no_grad()
def anchor_weights(smen: SMEN) -> np.ndarray:
    """alpha of all interests, (D, M) float32; each row sums to 1. A memory is no anchor of alpha."""
    chunks = torch.arange(smen.n_interests).split(CHUNK)
    return torch.cat([smen.anchor_weights(chunk) for chunk in chunks]).numpy()


def strongest_interests(alpha: np.ndarray, users: np.ndarray, min_users: int, n: int) -> list[list[int]]:
    """For each anchor the interests of largest alpha among those with `min_users` users, at most n; of equal ones that with more users."""
    shown = np.flatnonzero(users >= min_users)
    ranked = [shown[np.lexsort((shown, -users[shown], -np.round(alpha[shown, anchor], 6)))] for anchor in range(alpha.shape[1])]
    return [row[:n].tolist() for row in ranked]


def shares_of_use(alpha: np.ndarray, events: np.ndarray) -> np.ndarray:
    """(M,) share of all events that flows into each anchor; they sum to 1 where there are events."""
    return events @ alpha.astype(np.float64) / max(1, events.sum())


def entropy(shares: np.ndarray) -> float:
    """Of a distribution, in nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0


@dataclass
class NormCounts:
    """Histograms of M norms with a common width that doubles whenever a larger norm comes: exact counts at any scale, in one pass."""

    counts: np.ndarray  # (M, N_BINS) int64
    width: float = 0.0  # of a bin; 0 before the first user

    @staticmethod
    def empty(n_anchors: int) -> "NormCounts":
        return NormCounts(np.zeros((n_anchors, N_BINS), np.int64))

    def add(self, norms: np.ndarray) -> None:
        """Count the norms of some users, (n, M), finite and not negative."""
        if not norms.size:
            return
        largest = float(norms.max())
        if self.width == 0.0:
            self.width = max(largest, 1e-6) / N_BINS * 1.25
        while largest >= self.width * N_BINS:
            pairs = self.counts.reshape(len(self.counts), -1, 2).sum(axis=2)
            self.counts = np.concatenate([pairs, np.zeros_like(pairs)], axis=1)
            self.width *= 2
        bins = (norms / self.width).astype(np.int64)
        for anchor, row in enumerate(bins.T):
            self.counts[anchor] += np.bincount(row, minlength=N_BINS)

    def quantiles(self, shares: Iterable[float]) -> np.ndarray:
        """(M, len(shares)): norms below which these shares of the users lie, to the width of a bin."""
        within = (np.cumsum(self.counts, axis=1) / np.maximum(self.counts.sum(axis=1, keepdims=True), 1))
        return np.array([[(np.searchsorted(row, share) + 0.5) * self.width for share in shares] for row in within])

    def histograms(self, n_bars: int) -> tuple[np.ndarray, float]:
        """(M, n_bars) counts in equal bars from 0 to the largest 99.5 % quantile of all anchors (what is above is in the last bar), and that end."""
        end = float(self.quantiles([0.995]).max()) if self.counts.any() else 1.0
        centres = (np.arange(N_BINS) + 0.5) * self.width
        bars = np.minimum((centres / end * n_bars).astype(np.int64), n_bars - 1)
        return np.array([np.bincount(bars, weights=row, minlength=n_bars) for row in self.counts]).astype(np.int64), end


def count_norms(batches: Iterable[pa.RecordBatch], n_anchors: int) -> NormCounts:
    """Norms of each anchor's part over all users; batches hold `embedding`, lists of M x H numbers."""
    found, n_users, told = NormCounts.empty(n_anchors), 0, time.monotonic()
    for batch in batches:
        vectors = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, n_anchors, -1)
        found.add(np.linalg.norm(vectors, axis=2))
        n_users += batch.num_rows
        if time.monotonic() - told >= SECONDS_BETWEEN_REPORTS:
            told = time.monotonic()
            log.info("looking at the vectors: %s users so far", f"{n_users:,}")
    return found
