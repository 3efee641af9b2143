"""K-means with many clusters: seconds, memory and held-out cosine, ours beside what one would take instead, in one run.

    python benchmarks/kmeans.py --vectors 1000000 --clusters 100000 [--peers superkmeans superkmeans-refined faiss]
    python benchmarks/kmeans.py --file vectors.npy | --warehouse W --clusters 20000
    python benchmarks/kmeans.py --vectors 200000 --clusters 20000 --scale

Vectors are drawn around vectors/50 random directions (noise of length 0.6), or read from a .npy file of unit vectors (n, d) or from the
item_embeddings of a warehouse. 20,000 more (of fewer than 200,000 a tenth) are held out: the mean cosine to their nearest centroid, by exact
search, is what a clustering is worth. CPU seconds are those of all threads: on a machine that does other work too they say more. Memory is the
peak above what was there before, 20 looks a second. Then: how often the two-level search of the centroids agrees with the exact one, and how
many vectors it assigns a second. superkmeans is not one of lurm's pins: `pip install superkmeans` to have it measured; faiss runs one
iteration, which is what its seconds are. --scale instead fits half of everything, one after the other: vectors, clusters, dimensions.
"""

import argparse
import platform
import threading
import time
from importlib.util import find_spec

import numpy as np
import psutil

from lurm.cells import cells_of, reach_for
from lurm.kmeans import assign
from lurm.two_level import fit_two_level, search_two_level

HELD_OUT = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--file", help=".npy of unit vectors, float32 (n, d); the first --vectors of a seeded order are taken")
    parser.add_argument("--warehouse", help="whose item_embeddings are taken, likewise")
    parser.add_argument("--iterations", type=int, default=20, help="at most; ours ends when held-out vectors gain next to nothing")
    parser.add_argument("--peers", nargs="*", choices=("superkmeans", "superkmeans-refined", "faiss"), default=["superkmeans"])
    parser.add_argument("--scale", action="store_true", help="ours alone, at half of the vectors, clusters and dimensions in turn")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores")
    if options.scale:
        _scale(options)
        return
    vectors, held_out = _vectors(options)
    print(f"{len(vectors):,} x {vectors.shape[1]}, K = {options.clusters:,}, {len(held_out):,} held out\n\n"
          f"{'program':<34}{'seconds':>10}{'CPU seconds':>13}{'MB':>8}{'held-out cosine':>18}{'ratio of seconds':>18}")
    ours = None
    fit_two_level(vectors[:4_000], 200, seed=0, n_iterations=1)  # libraries are loaded before anything is measured
    for name, fit in _programs(options).items():
        centroids, seconds, cpu, megabytes = _measured(fit, vectors)
        if centroids is None:
            print(f"{name:<34}{'not installed':>10}")
            continue
        ours = ours or (seconds, centroids)
        cosine = assign(held_out, _unit(centroids), backend="faiss", device="cpu")[1].mean()
        print(f"{name:<34}{seconds:>10.1f}{cpu:>13.1f}{megabytes:>8,.0f}{cosine:>18.4f}{seconds / ours[0]:>18.2f}", flush=True)
    _assignment(held_out, vectors, ours[1])


def _programs(options) -> dict:
    k, iterations = options.clusters, options.iterations
    peer = _superkmeans if find_spec("superkmeans") and __import__("superkmeans") else lambda *_: None
    found = {
        "lurm two-level": lambda vectors: fit_two_level(vectors, k, seed=0, n_iterations=iterations).centroids,
        "lurm two-level, no iterations": lambda vectors: fit_two_level(vectors, k, seed=0, n_iterations=0).centroids,
    }
    if "superkmeans" in options.peers:
        found["superkmeans hierarchical"] = lambda vectors: peer(vectors, k, 0)
    if "superkmeans-refined" in options.peers:
        found["superkmeans, one refinement"] = lambda vectors: peer(vectors, k, 1)
    if "faiss" in options.peers:
        found["faiss spherical, one iteration"] = lambda vectors: _faiss(vectors, k)
    return found


def _measured(fit, vectors: np.ndarray) -> tuple[np.ndarray | None, float, float, float]:
    """What a fit returns, its seconds, the CPU seconds of all threads, and the peak of memory in MB."""
    process, ended = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def look() -> None:
        nonlocal highest
        while not ended.wait(0.05):
            highest = max(highest, process.memory_info().rss)

    looking = threading.Thread(target=look)
    looking.start()
    started, cpu = time.perf_counter(), time.process_time()
    try:
        centroids = fit(vectors)
        return centroids, time.perf_counter() - started, time.process_time() - cpu, (highest - before) / 1e6
    finally:
        ended.set()
        looking.join()


def _scale(options) -> None:
    n, k, d = options.vectors, options.clusters, options.dim
    print(f"\n{'vectors':>10}{'clusters':>10}{'d':>6}{'seconds':>10}{'CPU seconds':>13}{'MB':>8}{'no iterations':>15}{'CPU seconds':>13}")
    for vectors, clusters, dim in ((n, k, d), (n // 2, k, d), (n, k // 2, d), (n, k, d // 2)):
        drawn, _ = _vectors(argparse.Namespace(**vars(options) | {"vectors": vectors, "dim": dim, "file": None, "warehouse": None}))
        told = []
        for iterations in (options.iterations, 0):
            told += _measured(lambda given, k=clusters, i=iterations: fit_two_level(given, k, seed=0, n_iterations=i).centroids, drawn)[1:]
        print(f"{vectors:>10,}{clusters:>10,}{dim:>6}{told[0]:>10.1f}{told[1]:>13.1f}{told[2]:>8,.0f}{told[3]:>15.1f}{told[4]:>13.1f}", flush=True)


def _superkmeans(vectors: np.ndarray, k: int, n_refinements: int) -> np.ndarray:
    from superkmeans import SuperKMeans

    return SuperKMeans(k, vectors.shape[1], hierarchical=True, angular=True, iters_refinement=n_refinements, seed=0).train(vectors)


def _faiss(vectors: np.ndarray, k: int) -> np.ndarray:
    import faiss

    found = faiss.Kmeans(vectors.shape[1], k, niter=1, spherical=True, seed=0, max_points_per_centroid=len(vectors))
    found.train(vectors)
    return found.centroids


def _assignment(held_out: np.ndarray, vectors: np.ndarray, centroids: np.ndarray) -> None:
    exact = assign(held_out, centroids, backend="faiss", device="cpu")[0]
    reach, n_cells = reach_for(held_out[:4_096], centroids)
    cells, many = cells_of(centroids), vectors[:200_000]
    print(f"\nassignment, {len(cells.middles)} cells\n{'cells looked into':<34}{'vectors/s':>12}{'a CPU second':>14}{'agreement':>12}")
    for name, look in (("8", 8), ("16", 16), ("32", 32), (f"{n_cells:.1f} on average, for 99.5 %", reach)):
        started, cpu = time.perf_counter(), time.process_time()
        search_two_level(many, centroids, look, cells=cells)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        agreement = np.mean(search_two_level(held_out, centroids, look, cells=cells)[0] == exact)
        print(f"{name:<34}{len(many) / seconds:>12,.0f}{len(many) / cpu:>14,.0f}{agreement:>12.4f}", flush=True)
    started, cpu = time.perf_counter(), time.process_time()
    assign(held_out, centroids, backend="faiss", device="cpu")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"{'all, faiss exact':<34}{len(held_out) / seconds:>12,.0f}{len(held_out) / cpu:>14,.0f}{1:>12.4f}")


def _vectors(options) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    if options.file or options.warehouse:
        every = np.load(options.file, mmap_mode="r", allow_pickle=False) if options.file else _item_embeddings(options.warehouse)
        rows, n_held_out = rng.permutation(len(every)), min(HELD_OUT, len(every) // 10)
        return np.array(every[np.sort(rows[n_held_out : n_held_out + options.vectors])]), np.array(every[np.sort(rows[:n_held_out])])
    centres = _unit(rng.standard_normal((max(1, options.vectors // 50), options.dim), dtype=np.float32))
    noise = np.float32(0.6 / options.dim**0.5)

    def drawn(n: int) -> np.ndarray:
        return _unit(centres[rng.integers(0, len(centres), n)] + noise * rng.standard_normal((n, options.dim), dtype=np.float32))

    return drawn(options.vectors), drawn(HELD_OUT)


def _item_embeddings(warehouse: str) -> np.ndarray:
    """Those of the items with known words, in the order of the items' hash."""
    from lurm.staging import read_files
    from lurm.store import Store

    store, hashes, vectors = Store(warehouse), [], []
    for batch in read_files(store, store.snapshot("item_embeddings").uris(), ["item_hash", "embedding"]):
        hashes.append(batch.column("item_hash").to_numpy())
        vectors.append(batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1))
    matrix = np.concatenate(vectors)[np.argsort(np.concatenate(hashes), kind="stable")]
    return matrix[np.any(matrix != 0, axis=1)]


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
