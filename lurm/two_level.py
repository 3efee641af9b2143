"""K-means with tens of thousands of clusters, in minutes instead of days: centroids in cells, cells of centroids.

In: unit vectors (n, d) float32. Out: unit centroids (K, d), and the nearest of them for any vectors. Three things differ from plain spherical
k-means, which compares every vector with every centroid (2.6e13 operations an iteration at n = 10^6, K = 10^5, d = 128):

  start   about sqrt(K) coarse clusters, each of them clustered by itself into its share of the K (hierarchical k-means);
  search  a vector is compared with the centroids of the few cells nearest to it (lurm/cells.py);
  end     with ten vectors per cluster a mean is mostly the chance of its ten. Centroids are therefore smoothed by what lies near,
          c_j ~ sum_k exp(-sharpness (1 - cos_jk)) S_k over the nearest centroids k, where vectors that were held out say that it helps.

Every product is computed by one thread, threads and processes take different blocks of rows: the result does not depend on how many there are.
Products in bfloat16 or in float32 (lurm/rough_products.py) give other centroids, equally good ones. Vectors may be a memory map.
"""

from collections.abc import Callable

import numpy as np

from lurm.cells import Cells, cells_of, flat_kmeans, roughly_nearest, search
from lurm.dealt_blocks import DealtPool, Pool, of_the_first
from lurm.errors import InputError
from lurm.lloyd import BLOCK_ROWS, KMeansResult, Standing, cluster_sums, directions, refills
from lurm.rough_products import one_thread_a_product, products

N_PROBES = 8  # cells whose centroids a vector is compared with
MAX_FLAT = 2_048  # clusters that are found without cells
COARSE_ROWS, COARSE_ITERATIONS, START_ITERATIONS = 128, 8, 6  # rows per coarse cluster; iterations of the two levels of the start
MAX_HELD_OUT = 16_384
MIN_GAIN = 2e-4  # relative growth of the held-out cosine below which the iterations stop
N_NEIGHBOURS, NEIGHBOUR_CELLS, SHARPNESS = 4, 24, (10.0, 20.0)
LOOK_CLOSER = 4  # times as many cells for held-out vectors: what a narrow search misses must not decide


def fit_two_level(vectors: np.ndarray, n_clusters: int, *, seed: int, n_iterations: int = 20, n_probes: int = N_PROBES,
                  progress: Callable[[int, float], None] | None = None, begin: Standing | None = None,
                  keep: Callable[[Standing], None] | None = None) -> KMeansResult:  # fmt: skip
    """Find n_clusters directions among checked unit vectors. Raises InputError when fewer distinct vectors than clusters are found.

    Up to MAX_HELD_OUT vectors are kept out of the means: they end the iterations when they gain nothing, and decide about the smoothing.
    `progress(iteration, mean cosine)` is called after each search; `begin` and `keep` are as in lurm.kmeans.fit_kmeans.
    """
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(len(vectors))[: min(MAX_HELD_OUT, (len(vectors) - n_clusters) // 50)]
    fitted = np.ones(len(vectors), bool)
    fitted[held_out] = False
    keep = keep or (lambda standing: None)
    with one_thread_a_product() as threads:
        pool = DealtPool(threads.map)
        if begin is None:
            centroids = _start(vectors, np.flatnonzero(fitted), n_clusters, rng, pool)
            begin = Standing(0, centroids, [], 0, np.empty((0, vectors.shape[1]), np.float32))
            keep(begin)
        centroids, objective, n_refilled, middles, before = begin.centroids, list(begin.objective), begin.n_refilled, begin.middles, begin.worth
        for iteration in range(begin.iteration, n_iterations + 1):
            cells = cells_of(centroids, pool, middles)
            ids, cosine = search(vectors, cells, n_probes, pool)
            objective.append(_mean(cosine))
            if progress:
                progress(iteration, objective[-1])
            sizes = np.bincount(ids, minlength=n_clusters).astype(np.int64)
            # Where nothing is held out, the vectors themselves say when to stop.
            now = _worth(vectors[held_out], cells, n_probes, pool) if len(held_out) else objective[-1]
            if iteration == n_iterations or (iteration > 0 and now - before < MIN_GAIN * abs(before)):
                break
            before, middles = now, cells.middles
            sums = cluster_sums(vectors, np.where(fitted, ids, n_clusters), n_clusters + 1)[:n_clusters]
            centroids = directions(sums, centroids)
            empty = np.flatnonzero(np.bincount(ids[fitted], minlength=n_clusters) == 0)
            new = refills(ids, np.where(fitted, cosine, 1.0), sizes, len(empty))
            if iteration == 0 and len(new) < len(empty):
                raise InputError(f"K-means expects at least as many distinct vectors as clusters, got no vector for {len(empty) - len(new)} of "
                                 f"{n_clusters} clusters among {len(vectors)}; lower interests.n_interests or give more items.")
            centroids[empty[: len(new)]] = vectors[new]
            n_refilled += len(new)
            keep(Standing(iteration + 1, centroids, objective, n_refilled, middles, before))
        if len(held_out) and n_iterations:
            smooth = _smoothed(vectors, centroids, cells, np.where(fitted, ids, n_clusters), vectors[held_out], now, n_probes, pool)
            if smooth is not None:
                centroids = smooth
                ids, cosine = search(vectors, cells_of(centroids, pool, cells.middles), n_probes, pool)
                sizes = np.bincount(ids, minlength=n_clusters).astype(np.int64)
                objective.append(_mean(cosine))
    return KMeansResult(centroids, objective, n_refilled, sizes, "two-level")


def search_two_level(vectors: np.ndarray, centroids: np.ndarray, n_probes: int = N_PROBES, n_threads: int | None = None,
                     cells: Cells | None = None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The nearest centroid among those of the nearest cells: ids (n,) int32 and cosine (n,) float32; of equal ones the lowest wins.

    `cells` are cells_of(centroids) when the caller has them already.
    """
    with one_thread_a_product(n_threads) as pool:
        return search(vectors, cells or cells_of(centroids, pool), n_probes, pool)


# ---- start -----------------------------------------------------------------------------------------------------------------------------


def _start(vectors: np.ndarray, rows: np.ndarray, n_clusters: int, rng: np.random.Generator, pool: Pool) -> np.ndarray:
    """(n_clusters, d): hierarchical k-means of vectors[rows]."""
    n_coarse = round(n_clusters**0.5)
    sample = np.sort(rng.permutation(rows)[: COARSE_ROWS * n_coarse])
    coarse, _ = flat_kmeans(vectors[sample], vectors[rng.permutation(sample)[:n_coarse]], COARSE_ITERATIONS, pool.map)

    def nearest(start: int) -> np.ndarray:
        return roughly_nearest(vectors[rows[start : start + BLOCK_ROWS]], coarse)[0]

    where = np.concatenate(list(pool.map(nearest, range(0, len(rows), BLOCK_ROWS))))
    sizes = np.bincount(where, minlength=n_coarse)
    shares = _shares(sizes, n_clusters)
    members = np.split(rows[np.argsort(where, kind="stable")], np.cumsum(sizes)[:-1])
    seeds = rng.integers(2**63, size=n_coarse)

    def fine(cell: int) -> np.ndarray:
        own, k = members[cell], int(shares[cell])
        generator = np.random.default_rng(seeds[cell])
        if k > MAX_FLAT:  # a cell that holds much of everything
            return _start(vectors, own, k, generator, _Here())
        part = vectors[own]
        return flat_kmeans(part, part[generator.permutation(len(part))[:k]], START_ITERATIONS)[0]

    return np.concatenate(list(pool.map(fine, np.flatnonzero(shares))))


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


# ---- end -------------------------------------------------------------------------------------------------------------------------------


def _smoothed(vectors: np.ndarray, centroids: np.ndarray, cells: Cells, ids: np.ndarray, held_out: np.ndarray, cosine: float, n_probes: int,
              pool: Pool) -> np.ndarray | None:  # fmt: skip
    """The smoothing that held-out vectors gain most by; None where they gain nothing. `cosine` is what they have now."""
    sums = cluster_sums(vectors, ids, len(centroids) + 1)[:-1]
    near, similar = _neighbours(centroids, cells, pool)
    best, chosen = cosine, None
    for sharpness in SHARPNESS:
        weights = np.exp(-sharpness * (1.0 - similar.astype(np.float64)))
        smooth = directions(sums + np.einsum("kr,krd->kd", weights, sums[near]), centroids)
        now = _worth(held_out, cells_of(smooth, pool, cells.middles), n_probes, pool)
        if now > best:
            best, chosen = now, smooth
    return chosen


def _worth(held_out: np.ndarray, cells: Cells, n_probes: int, pool: Pool) -> float:
    """Mean cosine of held-out vectors to their nearest centroid."""
    return _mean(search(held_out, cells, LOOK_CLOSER * n_probes, pool)[1])


def _mean(cosine: np.ndarray) -> float:
    """Decisions hang on it, so all processes have the same one, to the last bit."""
    return float(of_the_first(cosine.mean(dtype=np.float64)))


def _neighbours(centroids: np.ndarray, cells: Cells, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """(K, N_NEIGHBOURS) nearest other centroids and their cosines, looked for in the nearest cells."""
    beside = np.argsort(-(cells.middles @ cells.middles.T), axis=1, kind="stable")[:, :NEIGHBOUR_CELLS]
    near = np.zeros((len(centroids), N_NEIGHBOURS), np.int64)
    similar = np.full((len(centroids), N_NEIGHBOURS), -np.inf, np.float32)

    def one(cell: int) -> tuple[np.ndarray, ...]:
        own = cells.order[cells.starts[cell] : cells.starts[cell + 1]]
        others = np.concatenate([cells.order[cells.starts[j] : cells.starts[j + 1]] for j in beside[cell]])
        if not len(own) or len(others) <= N_NEIGHBOURS:
            return own[:0], near[:0], similar[:0]
        like = products(centroids[own], centroids[others])
        like[own[:, None] == others] = -np.inf
        found = np.argpartition(like, -N_NEIGHBOURS, axis=1)[:, -N_NEIGHBOURS:]
        return own, others[found], np.take_along_axis(like, found, axis=1)

    for own, found, cosine in pool.map(one, range(len(cells.middles))):
        near[own], similar[own] = found, cosine
    return near, similar
