"""The nearest of very many centroids, found in the cells that are nearest: an inverted file (Jegou et al. 2011) over centroids.

In: unit centroids (K, d) float32, put into about 4 sqrt(K) cells, and unit vectors. Out: for each vector the nearest centroid among those of
its n_probes nearest cells, and its cosine. Where the processor is quick in bfloat16 (lurm/rough_products.py) a first pass in bfloat16 finds
the cells that can hold the nearest; what is told is always compared in float32.

Memory beyond the input: the centroids twice, and for each thread a block of vectors and at most about MOST_PAIRS pairs of a vector
and a cell. Vectors may be a memory map.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lurm.dealt_blocks import DealtPool, Pool
from lurm.lloyd import cluster_sums, directions
from lurm.rough_products import MARGIN, available, bits, one_thread_a_product, products, to_bits

CELLS_PER_ROOT = 4.0  # cells are this times sqrt(K): many small ones hold fewer centroids that are looked at in vain
ITERATIONS = 6
BLOCK_ROWS, TILE_ROWS = 131_072, 2_048  # vectors that are sorted by cell together, at most; rows of a product
MOST_PAIRS = 4_000_000  # of a vector and a cell in a block: with every cell looked into a block is smaller
COLUMNS, HEIGHTS = 32, (128, 256, 512, 1_024, TILE_ROWS)  # of products in bfloat16
FEWEST_PROBES = 4
NOTHING = np.int16(-32_768)


@dataclass(frozen=True)
class Cells:
    """Centroids sorted by cell: those of cell j are centroids[order[starts[j]:starts[j+1]]], numbers ascending within a cell."""

    middles: np.ndarray  # (L, d) unit norm
    order: np.ndarray  # (K,) int32
    starts: np.ndarray  # (L + 1,) int64
    sorted: np.ndarray  # (K, d) the centroids in that order
    rough: "RoughCells | None"  # where bfloat16 is quick


@dataclass(frozen=True)
class RoughCells:
    """Bits of bfloat16 (lurm.rough_products): of the middles, and of the centroids by cell. Cells are filled up with zeros to multiples of
    COLUMNS, because a library that makes its program for each shape of a product must not meet a new one in every cell."""

    middles: np.ndarray  # (L, d) int16
    centroids: np.ndarray  # (K and more, d) int16
    starts: np.ndarray  # (L + 1,) int64


def cells_of(centroids: np.ndarray, pool: Pool | None = None, middles: np.ndarray | None = None) -> Cells:
    """Put centroids into cells; a function of the centroids alone, or of where the middles were before."""
    n_cells = max(1, min(65_535, len(centroids) // 8, round(CELLS_PER_ROOT * len(centroids) ** 0.5)))
    each = map if pool is None else pool.map
    if middles is None or len(middles) != n_cells:
        first = np.linspace(0, len(centroids) - 1, n_cells).astype(np.int64)
        middles, where = flat_kmeans(centroids, centroids[first].copy(), ITERATIONS, each)
    else:
        middles, where = flat_kmeans(centroids, middles, 1, each)
    order = np.argsort(where, kind="stable").astype(np.int32)
    starts = np.searchsorted(where[order], np.arange(n_cells + 1))
    ordered = centroids[order]
    return Cells(middles, order, starts, ordered, _rough(middles, ordered, starts) if available() else None)


def _rough(middles: np.ndarray, ordered: np.ndarray, starts: np.ndarray) -> RoughCells:
    sizes = np.diff(starts)
    ends = np.cumsum(-(-sizes // COLUMNS) * COLUMNS)
    padded = np.concatenate([[0], ends])
    filled = np.zeros((padded[-1], ordered.shape[1]), np.int16)
    filled[np.repeat(padded[:-1] - starts[:-1], sizes) + np.arange(len(ordered))] = to_bits(ordered)
    return RoughCells(to_bits(middles), filled, padded)


def search(vectors: np.ndarray, cells: Cells, n_probes: int, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """ids (n,) int32 and cosine (n,) float32 of the nearest centroid in the n_probes nearest cells; of equal ones the lowest number wins."""
    ids, cosine = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
    n_probes = min(n_probes, len(cells.middles))
    n_rows = min(BLOCK_ROWS, max(TILE_ROWS, MOST_PAIRS // n_probes))
    starts = range(0, len(vectors), n_rows)
    found = pool.map(lambda start: _search_block(np.asarray(vectors[start : start + n_rows]), cells, n_probes), starts)
    for start, (own_ids, own_cosine) in zip(starts, found, strict=True):
        ids[start : start + n_rows], cosine[start : start + n_rows] = own_ids, own_cosine
    return ids, cosine


def probes_for(vectors: np.ndarray, centroids: np.ndarray, agreement: float = 0.995) -> int:
    """How many cells must be looked into so that this share of the vectors finds its nearest centroid; a fit's processes ask together."""
    with one_thread_a_product() as threads:
        pool = DealtPool(threads.map)
        cells = cells_of(centroids, pool)
        every = search(vectors, cells, len(cells.middles), pool)[1]
        n_probes = FEWEST_PROBES
        while n_probes < len(cells.middles) and np.mean(search(vectors, cells, n_probes, pool)[1] >= every) < agreement:
            n_probes += max(1, n_probes // 4)
    return min(n_probes, len(cells.middles))


def _search_block(block: np.ndarray, cells: Cells, n_probes: int) -> tuple[np.ndarray, np.ndarray]:
    if cells.rough is None:
        return _among(block, cells, *_nearest_cells(block, cells.middles, n_probes))
    rough = to_bits(block)
    return _among(block, cells, *_promising(rough, cells, *_roughly_nearest_cells(rough, cells.rough.middles, n_probes)))


def _nearest_cells(block: np.ndarray, middles: np.ndarray, n_probes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a row and a cell, ascending by row: (P,) int64 and (P,) uint16."""
    looked = np.empty((len(block), n_probes), np.uint16)
    for tile in tiles(len(block)):
        looked[tile] = np.argpartition(block[tile] @ middles.T, -n_probes, axis=1)[:, -n_probes:]
    return np.repeat(np.arange(len(block)), n_probes), looked.ravel()


def _roughly_nearest_cells(rough: np.ndarray, middles: np.ndarray, n_probes: int) -> tuple[np.ndarray, np.ndarray]:
    """The same from bits of bfloat16: of cells that are equally near by them, all."""
    rows, looked = [], []
    for tile in tiles(len(rough)):
        near = bits(rough[tile], middles)
        last = np.partition(near, -n_probes, axis=1)[:, -n_probes]
        row, cell = np.divmod(np.flatnonzero(near >= last[:, None]), len(middles))
        rows.append(row + tile.start)
        looked.append(cell.astype(np.uint16))
    return np.concatenate(rows), np.concatenate(looked)


def _promising(rough: np.ndarray, cells: Cells, rows: np.ndarray, looked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs (row, cell) those whose best product, by bits of bfloat16, is so near the row's best that float32 has to decide."""
    best = np.full(len(rows), NOTHING)
    for cell, pairs in _by_cell(looked, len(cells.middles)):
        columns = cells.rough.centroids[cells.rough.starts[cell] : cells.rough.starts[cell + 1]]
        for tile in tiles(len(pairs)) if len(columns) else ():
            some = pairs[tile]
            best[some] = bits(rough[_filled(rows[some])], columns).max(axis=1)[: len(some)]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))  # every row has a pair
    top = np.maximum.reduceat(best, starts)
    keep = best >= np.where(top > 0, top - MARGIN, NOTHING)[rows]  # bits of negative numbers are in no order: all are looked at
    return rows[keep], looked[keep]


def _filled(rows: np.ndarray) -> np.ndarray:
    """Rows, the last of them again until their number is one of a few."""
    return np.pad(rows, (0, next(height for height in HEIGHTS if height >= len(rows)) - len(rows)), mode="edge")


def _among(block: np.ndarray, cells: Cells, rows: np.ndarray, looked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of every row among the cells it is paired with, in float32."""
    ids, best = np.zeros(len(block), np.int32), np.full(len(block), -np.inf, np.float32)
    for cell, pairs in _by_cell(looked, len(cells.middles)):
        first, last = cells.starts[cell], cells.starts[cell + 1]
        for tile in tiles(len(pairs)) if last > first else ():
            row = rows[pairs[tile]]
            near = block[row] @ cells.sorted[first:last].T
            found = near.argmax(axis=1)
            value, number = near[np.arange(len(row)), found], cells.order[first:last][found]
            better = (value > best[row]) | ((value == best[row]) & (number < ids[row]))
            row = row[better]
            ids[row], best[row] = number[better], value[better]
    return ids, best


def _by_cell(looked: np.ndarray, n_cells: int) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs by the cell they look into, so that a cell is one product."""
    order = np.argsort(looked, kind="stable")  # of 16 bits: a radix sort
    ends = np.cumsum(np.bincount(looked, minlength=n_cells))
    for cell, end in enumerate(ends):
        first = ends[cell - 1] if cell else 0
        if end > first:
            yield cell, order[first:end]


def flat_kmeans(vectors: np.ndarray, centroids: np.ndarray, n_iterations: int, each: Callable = map) -> tuple[np.ndarray, np.ndarray]:
    """Plain spherical k-means from given centroids, for what fits in the cache: (centroids, nearest of each vector)."""
    for iteration in range(n_iterations + 1):
        ids, cosine = roughly_nearest(vectors, centroids, each)
        if iteration == n_iterations:
            break
        centroids = directions(cluster_sums(vectors, ids, len(centroids)), centroids)
        empty = np.flatnonzero(np.bincount(ids, minlength=len(centroids)) == 0)
        if len(empty):
            centroids[empty] = vectors[np.argpartition(cosine, min(len(empty), len(cosine) - 1))[: len(empty)]]
    return centroids, ids


def roughly_nearest(vectors: np.ndarray, centroids: np.ndarray, each: Callable = map) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of a few centroids, by products that may be rough: ids (n,) int64 and cosine (n,) float32."""

    def one(tile: slice) -> tuple[np.ndarray, np.ndarray]:
        near = products(vectors[tile], centroids)
        found = near.argmax(axis=1)
        return found, near[np.arange(len(found)), found]

    ids, cosine = zip(*each(one, tiles(len(vectors))), strict=True)
    return np.concatenate(ids), np.concatenate(cosine)


def tiles(n_rows: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE_ROWS, n_rows)) for start in range(0, n_rows, TILE_ROWS))
