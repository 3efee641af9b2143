"""The nearest of very many centroids, found in the cells that are nearest: an inverted file (Jegou et al. 2011) over centroids.

In: unit centroids (K, d) float32, put into about 4 sqrt(K) cells, and unit vectors. Out: for each vector the nearest centroid among those of
its nearest cells, and its cosine. Where there are compiled loops (lurm/rough_products.py) products of whole numbers say which centroids can be
the nearest; what is told is always compared in float32.

Memory beyond the input: the centroids twice, and for each thread a block of vectors and at most about MOST_PAIRS pairs of a vector
and a cell. Vectors may be a memory map.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lurm.dealt_blocks import DealtPool, Pool
from lurm.lloyd import directions
from lurm.rough_products import Packed, available, one_thread_a_product, packed, takes_bytes
from lurm.row_sums import sums_by_number

CELLS_PER_ROOT = 4.0  # cells are this times sqrt(K): many small ones hold fewer centroids that are looked at in vain
ITERATIONS, MIDDLE_ROWS = 6, 24  # the last one of all centroids, those before of so many for each cell
BLOCK_ROWS, TILE_ROWS = 131_072, 2_048  # vectors that are sorted by cell together, at most; rows of a product
PARTS, FEWEST_ROWS = 8, 8_192  # of fewer vectors as many blocks, for threads and processes; but below so many rows a cell's product is too small
MOST_PAIRS = 1_000_000  # of a vector and a cell that are sorted together
TINY = 1e-30  # for centroids that are all the same
WIDTHS = 16  # the compiled loops take multiples of this


@dataclass(frozen=True)
class Cells:
    """Centroids sorted by cell: those of cell j, one or more, are centroids[order[starts[j]:starts[j+1]]], numbers ascending within a cell."""

    middles: np.ndarray  # (L, d) unit norm
    order: np.ndarray  # (K,) int32
    starts: np.ndarray  # (L + 1,) int64
    sorted: np.ndarray  # (K, d) the centroids in that order
    rough: "RoughCells | None"  # for the compiled loops


@dataclass(frozen=True)
class RoughCells:
    """Middles, and the centroids of each cell, as whole numbers."""

    middles: Packed
    centroids: Packed


def cells_of(centroids: np.ndarray, pool: Pool | None = None, middles: np.ndarray | None = None) -> Cells:
    """Put centroids into cells; a function of the centroids alone, or of where the middles were before."""
    n_cells = max(1, min(65_535, len(centroids) // 8, round(CELLS_PER_ROOT * len(centroids) ** 0.5)))
    each = map if pool is None else pool.map
    if middles is None or len(middles) != n_cells:
        first = np.linspace(0, len(centroids) - 1, n_cells).astype(np.int64)
        some = centroids[:: max(1, len(centroids) // (MIDDLE_ROWS * n_cells))]
        middles, _ = flat_kmeans(np.ascontiguousarray(some), centroids[first].copy(), ITERATIONS - 1, each)
    middles, where = flat_kmeans(centroids, middles, 1, each)
    filled, where = np.unique(where, return_inverse=True)  # a cell without a centroid is none
    order = np.argsort(where, kind="stable").astype(np.int32)
    return _around(middles[filled], order, np.searchsorted(where[order], np.arange(len(filled) + 1)), centroids[order])


def moved(cells: Cells, centroids: np.ndarray) -> Cells:
    """The same cells when their centroids have moved a little, to these (K, d): each stays in its cell."""
    ordered = centroids[cells.order]
    return _around(directions(np.add.reduceat(ordered, cells.starts[:-1]), cells.middles), cells.order, cells.starts, ordered)


def _around(middles: np.ndarray, order: np.ndarray, starts: np.ndarray, ordered: np.ndarray) -> Cells:
    return Cells(middles, order, starts, ordered, _rough(middles, ordered, starts) if _loops_take(ordered) else None)


def _rough(middles: np.ndarray, ordered: np.ndarray, starts: np.ndarray) -> RoughCells:
    return RoughCells(packed(middles, np.array([0, len(middles)])), packed(ordered, starts))


def _loops_take(vectors: np.ndarray) -> bool:
    return available() and vectors.shape[1] % WIDTHS == 0


def search(vectors: np.ndarray, cells: Cells, look: float, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """ids (n,) int32 and cosine (n,) float32 of the nearest centroid in the cells looked into; of equal ones the lowest number wins.

    `look` of 1 or more: that many nearest cells. Below 1: the nearest cell and all whose middle is less near by at most that much, which are
    fewer on average for the same agreement with exact search: a vector near one middle looks into one cell, one between many into many.
    """
    ids, cosine = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
    n_rows = max(FEWEST_ROWS, min(BLOCK_ROWS, len(vectors) // PARTS // TILE_ROWS * TILE_ROWS))
    starts = range(0, len(vectors), n_rows)
    found = pool.map(lambda start: _search_block(np.asarray(vectors[start : start + n_rows]), cells, look), starts)
    for start, (own_ids, own_cosine) in zip(starts, found, strict=True):
        ids[start : start + n_rows], cosine[start : start + n_rows] = own_ids, own_cosine
    return ids, cosine


def reach_of(vectors: np.ndarray, cells: Cells, n_probes: int) -> float:
    """The `look` below 1 with which these vectors look into n_probes cells on average."""
    near = vectors[:: max(1, len(vectors) // TILE_ROWS)] @ cells.middles.T
    gaps = (near.max(axis=1, keepdims=True) - near).ravel()
    place = min(n_probes * len(near), len(gaps)) - 1
    return _below_one(np.partition(gaps, place)[place])


def reach_for(vectors: np.ndarray, centroids: np.ndarray, agreement: float = 0.995) -> tuple[float, float]:
    """The `look` below 1 with which this share of the vectors finds its nearest centroid, and how many cells they look into on average; a
    fit's processes ask together."""
    with one_thread_a_product() as threads:
        pool = DealtPool(threads.map)
        cells = cells_of(centroids, pool)
        ids, _ = search(vectors, cells, len(cells.middles) + 1, pool)
        near = vectors @ cells.middles.T
    where = np.empty(len(centroids), np.int64)
    where[cells.order] = np.repeat(np.arange(len(cells.middles)), np.diff(cells.starts))
    gaps = near.max(axis=1) - near[np.arange(len(near)), where[ids]]
    place = min(len(gaps) - 1, math.ceil(agreement * len(gaps)))
    reach = _below_one(np.partition(gaps, place)[place])
    return reach, float((near >= near.max(axis=1, keepdims=True) - reach).sum() / len(near))


def _below_one(gap: float) -> float:
    """Rounded up a little, because rough products are rounded too; what is 1 would be a number of cells."""
    return min(math.ceil(float(gap) * 1_000 + 1) / 1_000, 0.999)


def _search_block(block: np.ndarray, cells: Cells, look: float) -> tuple[np.ndarray, np.ndarray]:
    if cells.rough is not None:
        return _search_roughly(block, cells, look)
    found, rows, looked, n_pairs, first = [], [], [], 0, 0
    for tile in tiles(len(block)):
        mask = _near_cells(block[tile], cells.middles, look)
        n_looked = np.count_nonzero(mask, axis=1)
        row = np.repeat(np.arange(len(mask)), n_looked)
        looked.append((np.flatnonzero(mask) - row * len(cells.middles)).astype(np.uint16))
        rows.append((row + (tile.start - first)).astype(np.int32))
        n_pairs += len(row)
        if n_pairs >= MOST_PAIRS or tile.stop == len(block):
            found.append(_among(block[first : tile.stop], cells, np.concatenate(rows), np.concatenate(looked)))
            rows, looked, n_pairs, first = [], [], 0, tile.stop
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _search_roughly(block: np.ndarray, cells: Cells, look: float) -> tuple[np.ndarray, np.ndarray]:
    """The same by the compiled loops."""
    from lurm.rough_loops import MOST_ROWS, search_cells

    ids, best = np.zeros(len(block), np.int32), np.full(len(block), -np.inf, np.float32)
    most, rough = max(MOST_PAIRS, MOST_ROWS * len(cells.middles)), cells.rough
    search_cells(
        block, rough.middles.packs, rough.centroids.packs, rough.centroids.starts, cells.starts, cells.order, cells.sorted,
        rough.middles.in_bytes, look, most, ids, best,
    )  # fmt: skip
    return ids, best


def _near_cells(block: np.ndarray, middles: np.ndarray, look: float) -> np.ndarray:
    """Which cells each row looks into, (n, L) bool."""
    near = block @ middles.T
    if look < 1:
        return near >= near.max(axis=1, keepdims=True) - np.float32(look)
    mask = np.zeros(near.shape, bool)
    np.put_along_axis(mask, np.argpartition(near, -min(int(look), len(middles)), axis=1)[:, -min(int(look), len(middles)) :], True, axis=1)
    return mask


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
    """Plain spherical k-means from given centroids, for what fits in the cache: (centroids, nearest of each vector).

    `each` maps over parts of the vectors; without one, and where there are loops, all of it is one of them.
    """
    if each is map and _loops_take(centroids):
        return _flat_in_loops(vectors, centroids, n_iterations)
    for iteration in range(n_iterations + 1):
        ids = roughly_nearest(vectors, centroids, each)
        if iteration == n_iterations:
            break
        centroids = directions(sums_by_number(vectors, ids, len(centroids)), centroids)
        empty = np.flatnonzero(np.bincount(ids, minlength=len(centroids)) == 0)
        if len(empty):
            cosine = np.einsum("ij,ij->i", vectors, centroids[ids])
            centroids[empty] = vectors[np.argpartition(cosine, min(len(empty), len(cosine) - 1))[: len(empty)]]
    return centroids, ids


def _flat_in_loops(vectors: np.ndarray, centroids: np.ndarray, n_iterations: int) -> tuple[np.ndarray, np.ndarray]:
    from lurm.flat_loops import flat_kmeans as in_loops

    found, ids = np.array(centroids, np.float32, order="C"), np.empty(len(vectors), np.int64)
    in_loops(np.ascontiguousarray(vectors), found, n_iterations, takes_bytes(found.shape[1]), ids)
    return found, ids


def roughly_nearest(vectors: np.ndarray, centroids: np.ndarray, each: Callable = map) -> np.ndarray:
    """The nearest of a few centroids, (n,) int64, by products that may be rough.

    What all centroids have in common is taken off them: it says nothing about which is nearest, and what is left may be small, so that it is made
    as long as whole numbers allow.
    """
    if not _loops_take(centroids):
        return np.concatenate(list(each(lambda tile: (vectors[tile] @ centroids.T).argmax(axis=1), tiles(len(vectors)))))
    from lurm.rough_loops import nearest_rough

    apart = centroids - centroids.mean(axis=0)
    own = packed(apart / max(float(np.linalg.norm(apart, axis=1).max()), TINY), np.array([0, len(centroids)]))

    def one(tile: slice) -> np.ndarray:
        ids = np.empty(tile.stop - tile.start, np.int64)
        nearest_rough(vectors[tile], own.packs, len(centroids), own.in_bytes, ids)
        return ids

    return np.concatenate(list(each(one, tiles(len(vectors)))))


def tiles(n_rows: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE_ROWS, n_rows)) for start in range(0, n_rows, TILE_ROWS))
