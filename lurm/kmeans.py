"""Spherical k-means: unit vectors in, unit centroids out, cosine as the similarity; one algorithm over several backends.

In: item embeddings, (n, d) float32 of unit norm. Out: the interests' centroids, (D, d) float32 of unit norm, and for any vectors the number
of their nearest centroid (hard assignment, section 1.2 of the paper's method). The paper uses an algorithm that it calls HDSC and whose
reference it does not spell out; this is plain spherical k-means (Dhillon and Modha 2001: maximise sum_i cos(x_i, c(x_i))) and not HDSC.

Three exact backends differ in one function only, the search of the nearest centroid:
  faiss  faiss's exact inner-product index, on its GPUs where the installed faiss has some;
  torch  tiled products on any torch device;
  numpy  the reference, nothing but numpy.
Seeding, means, refilling and stopping are shared, so they give the same result up to rounding, and one seed gives the same bytes on CPU.
Memory beyond the input is O(D x d) plus one tile of products, whatever n is; vectors may be a memory map. A fourth, two-level, is for tens
of thousands of clusters on a CPU and looks at the likely centroids only: lurm/two_level.py. Of several processes that call it together each
searches for its share of the tiles, on a GPU of its own where there is one (lurm/dealt_blocks.py).

Vectors of norm zero (items without a known word) have no direction: the caller drops them before fitting and assigning.
"""

import importlib.util
import logging
import math
import os
from collections.abc import Callable

import numpy as np

from lurm.cells import Cells
from lurm.dealt_blocks import DealtPool, of_the_first, processes
from lurm.errors import ConfigError, InputError
from lurm.lloyd import BLOCK_ROWS, SAME, KMeansResult, Standing, cluster_sums, directions, refills
from lurm.two_level import fit_two_level, search_two_level

BACKENDS = ("faiss", "torch", "numpy")  # exact
TWO_LEVEL = "two-level"
MANY_CLUSTERS = 4_096  # above, comparing everything with everything is for GPUs
MAX_GREEDY_CLUSTERS = 1_000  # up to here k-means++ seeding costs less than a few iterations
MIN_IMPROVEMENT = 1e-5  # relative growth of the objective below which the iterations stop
_TILE_ROWS, _TILE_CENTROIDS = 1_024, 8_192  # a tile of products is 32 MB
_GPU_ROWS = 16 * _TILE_ROWS  # a GPU needs more work per call: 512 MB of products
_FAISS_ROWS = 16_384  # faiss tiles inside; this bounds the copy of a memory map and what a process is dealt

_log = logging.getLogger("lurm")

Found = tuple[np.ndarray, np.ndarray]  # ids (n,) int32, cosine (n,) float32
Search = Callable[[np.ndarray], Found]  # of centroids


def fit_kmeans(vectors: np.ndarray, n_clusters: int, *, seed: int, n_iterations: int = 20, backend: str = "auto", device: str = "auto",
               progress: Callable[[int, float], None] | None = None, begin: Standing | None = None,
               keep: Callable[[Standing], None] | None = None) -> KMeansResult:  # fmt: skip
    """Find n_clusters directions among vectors ((n, d) float32, unit norm).

    `progress(iteration, mean cosine)` is called after each search. `keep` gets where the fit stands after the start and after each update;
    `begin`, one of these, continues a fit of the same vectors and settings to the same bytes. With torch.distributed every process calls
    this with the same arguments, and gets the same. Raises InputError for NaN, for rows not of unit norm, and for fewer distinct vectors than
    clusters.
    """
    vectors = _checked(vectors, "vectors")
    if n_clusters < 1:
        raise InputError(f"k-means expects at least one cluster, got {n_clusters}; ask for 1 or more.")
    backend = choose_backend(backend, device, n_clusters)
    progress = progress or (lambda iteration, objective: _log.debug("k-means iteration %d: mean cosine %.5f", iteration, objective))
    keep = keep or (lambda standing: None)
    if backend == TWO_LEVEL:
        return fit_two_level(vectors, n_clusters, seed=seed, n_iterations=n_iterations, progress=progress, begin=begin, keep=keep)
    no_cells = np.empty((0, vectors.shape[1]), np.float32)
    if begin is None:
        begin = Standing(0, of_the_first(seed_centroids(vectors, n_clusters, np.random.default_rng(seed))), [], 0, no_cells)
        keep(begin)
    centroids, objective, n_refilled = begin.centroids, list(begin.objective), begin.n_refilled
    search = _search_in(vectors, backend, device, DealtPool().map)
    for iteration in range(begin.iteration, n_iterations + 1):
        ids, cosine = search(centroids)
        objective.append(float(of_the_first(cosine.mean(dtype=np.float64))))
        progress(iteration, objective[-1])
        sizes = np.bincount(ids, minlength=n_clusters).astype(np.int64)
        new = refills(ids, cosine, sizes, int((sizes == 0).sum()))
        settled = iteration > 0 and objective[-1] - objective[-2] < MIN_IMPROVEMENT * abs(objective[-2])
        if iteration == n_iterations or (settled and not len(new)):
            break  # here, before the update: sizes and objective belong to the centroids that are returned
        centroids = directions(cluster_sums(vectors, ids, n_clusters), centroids)
        centroids[np.flatnonzero(sizes == 0)[: len(new)]] = vectors[new]
        n_refilled += len(new)
        keep(Standing(iteration + 1, centroids, objective, n_refilled, no_cells))
    return KMeansResult(centroids, objective, n_refilled, sizes, backend)


def assign(vectors: np.ndarray, centroids: np.ndarray, *, backend: str = "auto", device: str = "auto", n_probes: float | None = None,
           n_threads: int | None = None, cells: Cells | None = None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The nearest centroid of every vector and the cosine to it: (n,) int32 and (n,) float32; of equal ones the lowest number wins.

    With n_probes only the centroids of that many cells are looked at, or, where it is below 1, of the cells that are so little less near than
    the nearest (see lurm.cells.search and reach_for); by n_threads (None: all cores). `cells` are cells_of(centroids) when the caller has them.
    """
    vectors, centroids = _checked(vectors, "vectors"), _checked(centroids, "centroids")
    if vectors.shape[1] != centroids.shape[1]:
        raise InputError(
            f"Vectors and centroids must have the same width, got {vectors.shape[1]} and {centroids.shape[1]}; "
            "use the centroids that were fitted on this encoder's embeddings."
        )
    if n_probes is not None:
        return search_two_level(vectors, centroids, n_probes, n_threads, cells)
    backend = choose_backend(backend, device)
    return _search_in(vectors, backend if backend in BACKENDS else choose_backend("auto", "cpu"), device)(centroids)


def cluster_health(sizes: np.ndarray) -> dict[str, float | int]:
    """How evenly the clusters are filled; sizes: (D,) vectors per cluster.

    imbalance is D * sum(p^2) with p the clusters' shares: 1 when all are equal, D when one holds everything.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    shares = sizes / max(int(sizes.sum()), 1)
    return {
        "n_clusters": len(sizes),
        "n_vectors": int(sizes.sum()),
        "imbalance": float(len(sizes) * np.square(shares).sum()),
        "n_empty": int((sizes == 0).sum()),
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest_share": float(shares.max()),
    }


def choose_backend(backend: str, device: str = "auto", n_clusters: int = 0) -> str:
    """The backend's name; auto takes torch where there is a GPU for it, else two-level for many clusters, else faiss, torch or numpy, as far
    as installed."""
    if backend in (*BACKENDS, TWO_LEVEL):
        if backend in ("faiss", "torch") and importlib.util.find_spec(backend) is None:
            raise ConfigError(f"The k-means backend {backend!r} is not installed; install it or set interests.backend to auto or numpy.")
        return backend
    if backend != "auto":
        raise ConfigError(f"The k-means backend must be auto, {', '.join((*BACKENDS, TWO_LEVEL))}, got {backend!r}; mend interests.backend.")
    installed = [name for name in ("faiss", "torch") if importlib.util.find_spec(name)]
    if "torch" in installed and device != "cpu":
        import torch

        if device != "auto" or torch.cuda.is_available():
            return "torch"
    return TWO_LEVEL if n_clusters > MANY_CLUSTERS else (installed + ["numpy"])[0]


def seed_centroids(vectors: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct vectors to start from, (n_clusters, d): greedy k-means++ on a sample for few clusters, a plain sample for many.

    k-means++ needs one pass over the sample per cluster, which is what makes it too slow at 10^5; with few clusters it is cheap, and there
    a bad start matters most, for a missed direction is rarely found again.
    """
    order = rng.permutation(len(vectors))
    if n_clusters <= MAX_GREEDY_CLUSTERS:
        sample = np.sort(order[: max(8_192, 16 * n_clusters)])
        chosen = sample[_greedy_rows(vectors[sample], n_clusters, rng)]
        order = np.concatenate([chosen, order])
    distinct: dict[bytes, int] = {}
    for row in order:
        distinct.setdefault(vectors[row].tobytes(), int(row))
        if len(distinct) == n_clusters:
            return np.array(vectors[list(distinct.values())], dtype=np.float32)
    raise InputError(
        f"K-means expects at least as many distinct vectors as clusters, got {len(distinct)} distinct among {len(vectors)} "
        f"for {n_clusters} clusters; lower interests.n_interests or give more items."
    )


def _greedy_rows(sample: np.ndarray, n_clusters: int, rng: np.random.Generator) -> list[int]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): each next row is the best of a few drawn with chance proportional to 1 - cosine.

    Returns fewer rows than asked when all that remain coincide with chosen ones.
    """
    n_candidates = max(2 + int(math.log(n_clusters)), min(32, 4_096 // n_clusters))  # the fewer clusters, the cheaper it is to look longer
    rows = [int(rng.integers(len(sample)))]
    distance = np.maximum(1.0 - sample @ sample[rows[0]], 0.0)
    while len(rows) < min(n_clusters, len(sample)):
        distance[distance < SAME] = 0.0
        mass = np.cumsum(distance, dtype=np.float64)
        if mass[-1] == 0.0:
            break
        candidates = np.searchsorted(mass, rng.random(n_candidates) * mass[-1], side="right")
        remaining = np.minimum(distance, 1.0 - sample[candidates] @ sample.T)
        best = int(np.maximum(remaining, 0.0).sum(axis=1, dtype=np.float64).argmin())
        rows.append(int(candidates[best]))
        distance = np.maximum(remaining[best], 0.0)
    return rows


def _search_in(vectors: np.ndarray, backend: str, device: str, each: Callable = map) -> Search:
    """The backend's search over these vectors, to be called with the centroids of the moment; `each` maps over tiles of the vectors."""
    n_rows, search_in = {"faiss": _search_faiss, "torch": _search_torch, "numpy": _search_numpy}[backend](vectors, device)

    def search(centroids: np.ndarray) -> Found:
        ids, cosine = np.empty(len(vectors), dtype=np.int32), np.empty(len(vectors), dtype=np.float32)
        starts = range(0, len(vectors), n_rows)
        for start, found in zip(starts, each(search_in(centroids), starts), strict=True):
            ids[start : start + n_rows], cosine[start : start + n_rows] = found
        return ids, cosine

    return search


# Each backend: how many rows a tile has, and for centroids a function from a tile's first row to what it finds.
TileSearch = tuple[int, Callable[[np.ndarray], Callable[[int], Found]]]


def _search_numpy(vectors: np.ndarray, device: str) -> TileSearch:
    def search_in(centroids: np.ndarray) -> Callable[[int], Found]:
        def one(start: int) -> Found:
            tile = vectors[start : start + _TILE_ROWS]
            ids, best = np.empty(len(tile), dtype=np.int32), np.full(len(tile), -np.inf, dtype=np.float32)
            for first in range(0, len(centroids), _TILE_CENTROIDS):
                product = tile @ centroids[first : first + _TILE_CENTROIDS].T
                nearest = product.argmax(axis=1)
                value = np.take_along_axis(product, nearest[:, None], axis=1)[:, 0]
                better = value > best  # strictly: of equal centroids the lowest number stays
                ids[better] = nearest[better] + first
                best[better] = value[better]
            return ids, best

        return one

    return _TILE_ROWS, search_in


def _search_torch(vectors: np.ndarray, device: str) -> TileSearch:
    import torch

    from lurm.training import choose_device

    chosen = torch.device(choose_device(device))
    on_cpu = chosen.type == "cpu"
    n_rows = _TILE_ROWS if on_cpu else _GPU_ROWS
    resident: dict[int, torch.Tensor] = {}  # the tiles that this process searches for, moved to its GPU once, for all iterations

    def tile_at(start: int) -> torch.Tensor:
        if start in resident:
            return resident[start]
        tile = torch.from_numpy(np.array(vectors[start : start + n_rows])).to(chosen)
        return tile if on_cpu else resident.setdefault(start, tile)

    def search_in(centroids: np.ndarray) -> Callable[[int], Found]:
        targets = torch.from_numpy(centroids).to(chosen)

        @torch.no_grad()
        def one(start: int) -> Found:
            tile = tile_at(start)
            best = torch.full((len(tile),), -torch.inf, device=chosen)
            nearest = torch.zeros(len(tile), dtype=torch.int64, device=chosen)
            for first in range(0, len(targets), _TILE_CENTROIDS):
                product = tile @ targets[first : first + _TILE_CENTROIDS].T
                here = product.argmax(dim=1)  # the first of equal ones, which max(dim=1) does not promise
                value = product.gather(1, here[:, None])[:, 0]
                better = value > best
                nearest = torch.where(better, here + first, nearest)
                best = torch.where(better, value, best)
            return nearest.int().cpu().numpy(), best.cpu().numpy()

        return one

    return n_rows, search_in


def _search_faiss(vectors: np.ndarray, device: str) -> TileSearch:
    import faiss

    def search_in(centroids: np.ndarray) -> Callable[[int], Found]:
        index = faiss.IndexFlatIP(centroids.shape[1])
        if device != "cpu" and faiss.get_num_gpus() > 0:
            own = int(os.environ.get("LOCAL_RANK", "0"))
            alone = processes()[1] == 1
            index = faiss.index_cpu_to_all_gpus(index) if alone else faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), own, index)
        index.add(centroids)

        def one(start: int) -> Found:
            value, nearest = index.search(np.ascontiguousarray(vectors[start : start + _FAISS_ROWS]), 1)
            return nearest[:, 0].astype(np.int32), value[:, 0]

        return one

    return _FAISS_ROWS, search_in


def _checked(vectors: np.ndarray, name: str) -> np.ndarray:
    """The same array as float32, after a look at every row."""
    vectors = np.asanyarray(vectors)
    if vectors.ndim != 2:
        raise InputError(f"K-means expects {name} as a table of rows (n, d), got an array of {vectors.ndim} dimensions; stack them first.")
    if vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        tile = vectors[start : start + BLOCK_ROWS]
        norms = np.sqrt(np.einsum("ij,ij->i", tile, tile))
        wrong = np.flatnonzero(~(np.abs(norms - 1.0) < 1e-3))  # written so that NaN is wrong too
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"K-means expects {name} of unit norm, got norm {norms[row]:.6g} in row {start + row}; "
                "drop rows of zeros (items without a known word) and rows with NaN, and divide the others by their norm."
            )
    return vectors
