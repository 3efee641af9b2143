"""K-means with tens of thousands of clusters, in seconds instead of days: centroids in cells, cells of centroids.

In: unit vectors (n, d) float32. Out: unit centroids (K, d), and the nearest of them for any vectors. Three things differ from plain spherical
k-means, which compares every vector with every centroid (2.6e13 operations an iteration at n = 10^6, K = 10^5, d = 128):

  start   about sqrt(K) coarse clusters, each of them clustered by itself into its share of the K (hierarchical k-means);
  means   with ten vectors per cluster a mean is mostly the chance of its ten. Means are therefore smoothed by what lies near,
          c_j ~ sum_k exp(-sharpness (1 - cos_jk) / usual) S_k over the nearest means k, where usual is the mean of these 1 - cos_jk and
          vectors that were held out say that it helps;
  search  a vector is compared with the centroids of the few cells nearest to it (lurm/cells.py).

Every product is computed by one thread, threads and processes take different blocks of rows: the result does not depend on how many there are.
Rough products and those of float32 (lurm/rough_products.py) give other centroids, equally good ones. Vectors may be a memory map.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lurm.cells import Cells, cells_of, flat_kmeans, moved, reach_of, roughly_nearest, search
from lurm.dealt_blocks import DealtPool, Pool, of_the_first
from lurm.errors import InputError
from lurm.lloyd import BLOCK_ROWS, SAME, KMeansResult, Standing, directions, refills
from lurm.neighbours import neighbours
from lurm.rough_products import one_thread_a_product
from lurm.row_sums import sums_by_number, weighted_sums

N_PROBES = 8  # cells with whose centroids a vector is compared, on average
MAX_FLAT = 2_048  # clusters that are found without cells
COARSE_ROWS, COARSE_ITERATIONS = 128, 8  # rows per coarse cluster; iterations over them
START_ITERATIONS, FEW_ROWS = (3, 5), 16  # of a cell by itself: with few rows a cluster more of them learn chance
MAX_HELD_OUT = 16_384
MIN_GAIN = 3e-4  # relative growth of the held-out cosine below which the iterations stop
SHARPNESS = 3.5  # of the smoothing
LOOK_CLOSER = 2  # times as many cells for held-out vectors: what a narrow search misses must not decide


def fit_two_level(vectors: np.ndarray, n_clusters: int, *, seed: int, n_iterations: int = 20, n_probes: int = N_PROBES,
                  progress: Callable[[int, float], None] | None = None, begin: Standing | None = None,
                  keep: Callable[[Standing], None] | None = None) -> KMeansResult:  # fmt: skip
    """Find n_clusters directions among checked unit vectors. Raises InputError when fewer distinct vectors than clusters are found.

    Up to MAX_HELD_OUT vectors are kept out of the means: they end the iterations when they gain next to nothing, and decide about the
    smoothing. Without iterations the means of the start are what is returned, and sizes and objective are those of the start.
    `progress(iteration, mean cosine)` is called after each search; `begin` and `keep` are as in lurm.kmeans.fit_kmeans.
    """
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(len(vectors))[: min(MAX_HELD_OUT, (len(vectors) - n_clusters) // 50)]
    rows = np.setdiff1d(np.arange(len(vectors)), held_out, assume_unique=True)
    keep, tell = keep or (lambda standing: None), progress or (lambda iteration, objective: None)
    with one_thread_a_product() as threads:
        pool = DealtPool(threads.map)
        fit = _Fit(vectors, rows, held_out, n_clusters, n_probes, pool)
        if begin is None:
            centroids, ids = _start(vectors, rows, n_clusters, rng, pool)
            cosine = _cosine_to_own(vectors, rows, centroids, ids, pool)
            objective = [_mean(cosine)]
            tell(0, objective[0])
            begin = _updated(fit, Standing(0, centroids, objective, 0, np.empty((0, vectors.shape[1]), np.float32)), ids, cosine)
            if not n_iterations:
                return KMeansResult(begin.centroids, objective, begin.n_refilled, np.bincount(ids, minlength=n_clusters), "two-level")
            keep(begin)
        now = begin
        while True:
            cells = cells_of(now.centroids, pool, now.middles)
            ids, cosine = search(vectors, cells, reach_of(vectors, cells, n_probes), pool)
            objective = [*now.objective, _mean(cosine)]
            tell(now.iteration, objective[-1])
            ended = now.settled or now.iteration == n_iterations
            after = now if ended else _updated(fit, replace(now, objective=objective), ids[rows], cosine[rows])
            if ended or after.worth < now.worth:  # sizes and objective belong to the centroids that are returned
                return KMeansResult(now.centroids, objective, now.n_refilled, np.bincount(ids, minlength=n_clusters), "two-level")
            now = after
            keep(now)


@dataclass(frozen=True)
class _Fit:
    """What a fit looks at: vectors[rows] are fitted, vectors[held_out] say how well."""

    vectors: np.ndarray
    rows: np.ndarray
    held_out: np.ndarray
    n_clusters: int
    n_probes: int
    pool: Pool


def search_two_level(vectors: np.ndarray, centroids: np.ndarray, look: float = N_PROBES, n_threads: int | None = None,
                     cells: Cells | None = None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The nearest centroid among those of the nearest cells: ids (n,) int32 and cosine (n,) float32; of equal ones the lowest wins.

    `look` says which cells (lurm.cells.search); `cells` are cells_of(centroids) when the caller has them already.
    """
    with one_thread_a_product(n_threads) as pool:
        return search(vectors, cells or cells_of(centroids, pool), look, pool)


# ---- start -----------------------------------------------------------------------------------------------------------------------------


def _start(vectors: np.ndarray, rows: np.ndarray, n_clusters: int, rng: np.random.Generator, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Hierarchical k-means of vectors[rows]: (n_clusters, d), and the cluster of each row, (len(rows),) int32."""
    n_coarse = round(n_clusters**0.5)
    sample = np.sort(rng.permutation(rows)[: COARSE_ROWS * n_coarse])
    coarse, _ = flat_kmeans(vectors[sample], vectors[rng.permutation(sample)[:n_coarse]], COARSE_ITERATIONS, pool.map)

    def nearest(start: int) -> np.ndarray:
        return roughly_nearest(vectors[rows[start : start + BLOCK_ROWS]], coarse)

    where = np.concatenate(list(pool.map(nearest, range(0, len(rows), BLOCK_ROWS))))
    sizes = np.bincount(where, minlength=n_coarse)
    shares = _shares(sizes, n_clusters)
    members = np.split(np.argsort(where, kind="stable"), np.cumsum(sizes)[:-1])
    seeds = rng.integers(2**63, size=n_coarse)

    def fine(cell: int) -> tuple[np.ndarray, np.ndarray]:
        own, k = rows[members[cell]], int(shares[cell])
        generator = np.random.default_rng(seeds[cell])
        if k > MAX_FLAT:  # a cell that holds much of everything
            return _start(vectors, own, k, generator, _Here())
        part = vectors[own]
        centroids, ids = flat_kmeans(part, part[generator.permutation(len(part))[:k]], START_ITERATIONS[len(part) >= FEW_ROWS * k])
        return centroids, ids.astype(np.int32)

    cells, centroids, ids = np.flatnonzero(shares), [], np.empty(len(rows), np.int32)
    for cell, before, (found, own) in zip(cells, np.cumsum(shares[cells]) - shares[cells], pool.map(fine, cells), strict=True):
        ids[members[cell]] = own + before
        centroids.append(found)
    return np.concatenate(centroids), ids


def _cosine_to_own(vectors: np.ndarray, rows: np.ndarray, centroids: np.ndarray, ids: np.ndarray, pool: Pool) -> np.ndarray:
    """(len(rows),) float32."""

    def one(start: int) -> np.ndarray:
        own = slice(start, start + BLOCK_ROWS)
        return np.einsum("ij,ij->i", vectors[rows[own]], centroids[ids[own]])

    return np.concatenate(list(pool.map(one, range(0, len(rows), BLOCK_ROWS))))


class _Here:
    """A pool that works in the thread that asks: an inner start must not wait for threads that wait for it."""

    map = staticmethod(map)


def _shares(sizes: np.ndarray, n_clusters: int) -> np.ndarray:
    """How many clusters each cell gets: in proportion to its rows, at most one a row, together n_clusters."""
    exact = sizes * (n_clusters / sizes.sum())
    shares = np.minimum(np.maximum(exact.astype(np.int64), sizes > 0), sizes)
    while (short := n_clusters - int(shares.sum())) != 0:
        able = np.flatnonzero(shares < sizes) if short > 0 else np.flatnonzero(shares > 1)
        gap = exact[able] - shares[able]
        chosen = able[np.argsort(-gap if short > 0 else gap, kind="stable")[: abs(short)]]
        shares[chosen] += 1 if short > 0 else -1
    return shares


# ---- means -----------------------------------------------------------------------------------------------------------------------------


def _updated(fit: _Fit, now: Standing, ids: np.ndarray, cosine: np.ndarray) -> Standing:
    """After each fitted row has found its cluster: the means, as they are or smoothed, whichever held-out vectors gain most by."""
    numbers = np.full(len(fit.vectors), fit.n_clusters, np.int32)
    numbers[fit.rows] = ids
    sums = sums_by_number(fit.vectors, numbers, fit.n_clusters)
    sizes = np.bincount(ids, minlength=fit.n_clusters)
    empty = np.flatnonzero(sizes == 0)
    new = refills(ids, cosine, sizes, len(empty))
    if now.iteration == 0 and len(new) < len(empty):
        raise InputError(f"K-means expects at least as many distinct vectors as clusters, got no vector for {len(empty) - len(new)} of "
                         f"{fit.n_clusters} clusters among {len(fit.vectors)}; lower interests.n_interests or give more items.")
    sums[empty[: len(new)]] = fit.vectors[fit.rows[new]]
    centroids = directions(sums, now.centroids)
    cells = cells_of(centroids, fit.pool, now.middles)
    worth = _mean(cosine)  # where nothing is held out, the vectors themselves say when to stop
    if len(fit.held_out):
        held_out = fit.vectors[fit.held_out]
        worth = _worth(held_out, cells, fit.n_probes, fit.pool)
        near, similar = neighbours(cells, fit.pool)
        apart = np.maximum(1.0 - similar, 0.0)
        usual = max(apart[np.isfinite(apart)].mean(dtype=np.float64), SAME) if np.isfinite(apart).any() else 1.0
        smooth = directions(sums + weighted_sums(sums, near, np.exp(-SHARPNESS * apart / usual)), centroids)
        smooth_cells = moved(cells, smooth)
        if (found := _worth(held_out, smooth_cells, fit.n_probes, fit.pool)) > worth:
            worth, centroids, cells = found, smooth, smooth_cells
    settled = now.iteration > 0 and worth - now.worth < MIN_GAIN * abs(now.worth)
    return Standing(now.iteration + 1, centroids, now.objective, now.n_refilled + len(new), cells.middles, worth, settled)


def _worth(held_out: np.ndarray, cells: Cells, n_probes: int, pool: Pool) -> float:
    """Mean cosine of held-out vectors to their nearest centroid."""
    return _mean(search(held_out, cells, reach_of(held_out, cells, LOOK_CLOSER * n_probes), pool)[1])


def _mean(cosine: np.ndarray) -> float:
    """Decisions hang on it, so all processes have the same one, to the last bit."""
    return float(of_the_first(cosine.mean(dtype=np.float64)))
