"""K-means with many clusters: seconds and held-out cosine, ours beside what one would take instead, in one run.

    python benchmarks/kmeans.py --vectors 1000000 --clusters 100000 [--file vectors.npy] [--peers superkmeans superkmeans-refined faiss]

Vectors are drawn around vectors/50 random directions (noise of length 0.6), or read from a .npy file of unit vectors (n, d). 20,000 more are
held out: the mean cosine to their nearest centroid, by exact search, is what a clustering is worth. Then: how often the two-level search of
the centroids agrees with the exact one, and how many vectors it assigns a second. superkmeans is not one of lurm's pins: `pip install
superkmeans` to have it measured; faiss runs one iteration, which is what its seconds are.
"""

import argparse
import platform
import time
from importlib.util import find_spec

import numpy as np
import psutil

from lurm.cells import cells_of, probes_for
from lurm.kmeans import assign
from lurm.two_level import fit_two_level, search_two_level

HELD_OUT = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--file", help=".npy of unit vectors, float32 (n, d); the first --vectors of a seeded order are taken")
    parser.add_argument("--iterations", type=int, default=20, help="at most; ours ends when held-out vectors gain nothing")
    parser.add_argument("--peers", nargs="*", choices=("superkmeans", "superkmeans-refined", "faiss"), default=["superkmeans"])
    options = parser.parse_args()
    vectors, held_out = _vectors(options)
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {len(vectors):,} x {vectors.shape[1]}, "
          f"K = {options.clusters:,}, {len(held_out):,} held out\n\n{'program':<34}{'seconds':>10}{'held-out cosine':>18}{'ratio of seconds':>18}")
    ours = None
    for name, fit in _programs(options).items():
        started = time.perf_counter()
        centroids = fit(vectors)
        seconds = time.perf_counter() - started
        if centroids is None:
            print(f"{name:<34}{'not installed':>10}")
            continue
        ours = ours or (seconds, centroids)
        cosine = assign(held_out, _unit(centroids), backend="faiss", device="cpu")[1].mean()
        print(f"{name:<34}{seconds:>10.1f}{cosine:>18.4f}{seconds / ours[0]:>18.2f}", flush=True)
    _assignment(held_out, vectors, ours[1])


def _programs(options) -> dict:
    k, iterations = options.clusters, options.iterations
    found = {
        "lurm two-level": lambda vectors: fit_two_level(vectors, k, seed=0, n_iterations=iterations).centroids,
        "lurm two-level, the start alone": lambda vectors: fit_two_level(vectors, k, seed=0, n_iterations=0).centroids,
    }
    if "superkmeans" in options.peers:
        found["superkmeans hierarchical"] = lambda vectors: _superkmeans(vectors, k, 0)
    if "superkmeans-refined" in options.peers:
        found["superkmeans, one refinement"] = lambda vectors: _superkmeans(vectors, k, 1)
    if "faiss" in options.peers:
        found["faiss spherical, one iteration"] = lambda vectors: _faiss(vectors, k)
    return found


def _superkmeans(vectors: np.ndarray, k: int, n_refinements: int) -> np.ndarray | None:
    if find_spec("superkmeans") is None:
        return None
    from superkmeans import SuperKMeans

    return SuperKMeans(k, vectors.shape[1], hierarchical=True, angular=True, iters_refinement=n_refinements, seed=0).train(vectors)


def _faiss(vectors: np.ndarray, k: int) -> np.ndarray:
    import faiss

    found = faiss.Kmeans(vectors.shape[1], k, niter=1, spherical=True, seed=0, max_points_per_centroid=len(vectors))
    found.train(vectors)
    return found.centroids


def _assignment(held_out: np.ndarray, vectors: np.ndarray, centroids: np.ndarray) -> None:
    exact = assign(held_out, centroids, backend="faiss", device="cpu")[0]
    chosen = probes_for(held_out[:4_096], centroids)
    cells, many = cells_of(centroids), vectors[:200_000]
    print(f"\nassignment, {len(cells.middles)} cells\n{'cells looked into':<34}{'vectors/s':>10}{'agreement':>18}")
    for n_probes in sorted({8, 16, 32, chosen}):
        started = time.perf_counter()
        search_two_level(many, centroids, n_probes, cells=cells)
        rate = len(many) / (time.perf_counter() - started)
        agreement = np.mean(search_two_level(held_out, centroids, n_probes, cells=cells)[0] == exact)
        print(f"{f'{n_probes}, chosen for 99.5 %' if n_probes == chosen else n_probes:<34}{rate:>10,.0f}{agreement:>18.4f}", flush=True)
    started = time.perf_counter()
    assign(held_out, centroids, backend="faiss", device="cpu")
    print(f"{'all, faiss exact':<34}{len(held_out) / (time.perf_counter() - started):>10,.0f}{1:>18.4f}")


def _vectors(options) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    if options.file:
        every = np.load(options.file, mmap_mode="r", allow_pickle=False)
        rows = rng.permutation(len(every))
        return np.array(every[np.sort(rows[HELD_OUT : HELD_OUT + options.vectors])]), np.array(every[np.sort(rows[:HELD_OUT])])
    centres = _unit(rng.standard_normal((max(1, options.vectors // 50), options.dim), dtype=np.float32))
    noise = np.float32(0.6 / options.dim**0.5)

    def drawn(n: int) -> np.ndarray:
        return _unit(centres[rng.integers(0, len(centres), n)] + noise * rng.standard_normal((n, options.dim), dtype=np.float32))

    return drawn(options.vectors), drawn(HELD_OUT)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
