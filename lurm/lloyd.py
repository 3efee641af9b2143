"""What an iteration of spherical k-means does after every vector has found its centroid: new directions, and new starts for empty clusters.

Shared by the exact backends (lurm/kmeans.py) and the two-level one (lurm/two_level.py).
"""

from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 65_536  # vectors that are looked at at a time
SAME = 1e-6  # 1 - cosine of two vectors that float32 cannot tell apart


@dataclass(frozen=True)
class KMeansResult:
    """What k-means found.

    centroids: (D, d) float32, unit norm. objective: mean cosine of the vectors to their centroid, one number per iteration and one last for
    the centroids returned. n_refilled: how often an empty cluster was given a new centroid. sizes: (D,) int64 vectors per cluster.
    """

    centroids: np.ndarray
    objective: list[float]
    n_refilled: int
    sizes: np.ndarray
    backend: str


@dataclass(frozen=True)
class Standing:
    """Where a fit stands between two iterations: what it needs to go on as if nobody had stopped it.

    iteration: the next one. centroids: (D, d) float32, for its search. objective, n_refilled: as in KMeansResult, so far. Of the two-level one
    also middles: (L, d) float32 of the cells of these centroids (lurm/cells.py), (0, d) where there are none yet; worth: mean cosine of
    held-out vectors to these centroids; settled: whether that has grown next to nothing, so that these are the last.
    """

    iteration: int
    centroids: np.ndarray
    objective: list[float]
    n_refilled: int
    middles: np.ndarray
    worth: float = -np.inf
    settled: bool = False


def cluster_sums(vectors: np.ndarray, ids: np.ndarray, n_clusters: int) -> np.ndarray:
    """Sum of the vectors of every cluster, (n_clusters, d) float64."""
    sums = np.zeros((n_clusters, vectors.shape[1]), dtype=np.float64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        tile_ids = ids[start : start + BLOCK_ROWS]
        order = np.argsort(tile_ids, kind="stable")
        present, first = np.unique(tile_ids[order], return_index=True)
        sums[present] += np.add.reduceat(np.asarray(vectors[start : start + BLOCK_ROWS])[order], first, axis=0)
    return sums


def directions(sums: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Sums at unit length, (D, d) float32; a cluster that is empty or cancels out keeps its previous centroid."""
    norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))
    found, lost = (sums / np.maximum(norms, SAME)[:, None]).astype(np.float32, copy=False), norms <= SAME
    found[lost] = previous[lost]
    return found


def refills(ids: np.ndarray, cosine: np.ndarray, sizes: np.ndarray, n_empty: int) -> np.ndarray:
    """Rows that become the centroids of n_empty empty clusters, at most one for each.

    The clusters are ranked by what they lose, sum(1 - cosine); the worst one gives its worst-served vector to the first empty cluster, the
    next one to the second, and round again when there are more empties than clusters. Ties go to the lower cluster and the lower row. So
    a refill splits the cluster where a second centroid gains most. Vectors that coincide with their centroid are never taken.
    """
    if not n_empty:
        return np.empty(0, dtype=np.int64)
    loss = np.bincount(ids, weights=1.0 - cosine, minlength=len(sizes))
    order = np.lexsort((cosine, ids))  # stable: by cluster, then worst served first
    place = np.arange(len(ids)) - (np.cumsum(sizes) - sizes)[ids[order]]  # 0 for the worst of its cluster
    usable = 1.0 - cosine[order] > SAME
    order, place = order[usable], place[usable]
    turn = np.lexsort((ids[order], -loss[ids[order]], place))
    return order[turn[:n_empty]]
