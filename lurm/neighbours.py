"""The nearest other centroids of every centroid, looked for in the cells around its own: with whom k-means shares what it knows.

In: centroids in cells (lurm/cells.py). Out: their nearest others and the cosines. Where there are compiled loops, both are of rough products
(lurm/rough_products.py), which are off by less than neighbours differ.
"""

import numpy as np

from lurm.cells import Cells
from lurm.dealt_blocks import Pool

N_NEIGHBOURS, N_CELLS = 4, 12
CELLS_AT_A_TIME = 32


def neighbours(cells: Cells, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """(K, N_NEIGHBOURS) int64, the nearest first, and their cosines, float32: minus infinity where the cells around hold no more."""
    own = np.arange(len(cells.middles))
    beside = np.argsort(-(cells.middles @ cells.middles.T), axis=1, kind="stable")[:, :N_CELLS]
    alone = (beside != own[:, None]).all(axis=1)  # among equal middles its own need not be the nearest
    beside[alone, -1] = own[alone]
    starts = range(0, len(own), CELLS_AT_A_TIME)
    look = _by_products if cells.rough is None else _roughly
    found = list(pool.map(lambda start: look(cells, beside[start : start + CELLS_AT_A_TIME], start), starts))
    places, cosines = (np.concatenate(part) for part in zip(*found, strict=True))
    near, similar = (np.empty((len(cells.order), N_NEIGHBOURS), kind) for kind in (np.int64, np.float32))
    near[cells.order], similar[cells.order] = cells.order[places], cosines
    return near, similar


def _by_products(cells: Cells, beside: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Of cells `first` and following, one for each row of `beside`: places among the sorted centroids, and cosines."""
    found = []
    for cell, around in enumerate(beside, first):
        mine, spans = np.arange(*cells.starts[cell : cell + 2]), [np.arange(*cells.starts[other : other + 2]) for other in np.sort(around)]
        others = np.concatenate(spans)
        like = cells.sorted[mine] @ cells.sorted[others].T
        like[others == mine[:, None]] = -np.inf
        like = np.pad(like, ((0, 0), (0, max(0, N_NEIGHBOURS - len(others)))), constant_values=-np.inf)
        rows, places, cosines = np.arange(len(mine)), [], []
        for _ in range(N_NEIGHBOURS):  # a few maxima are quicker than a partition
            best = like.argmax(axis=1)
            places.append(others[np.minimum(best, len(others) - 1)])
            cosines.append(like[rows, best])
            like[rows, best] = -np.inf
        found.append((np.stack(places, axis=1), np.stack(cosines, axis=1)))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _roughly(cells: Cells, beside: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by the compiled loop."""
    from lurm.rough_loops import nearest_others

    inside = cells.rough.centroids
    start, stop = cells.starts[first], cells.starts[first + len(beside)]
    places, cosines = np.empty((stop - start, N_NEIGHBOURS), np.int64), np.empty((stop - start, N_NEIGHBOURS), np.float32)
    nearest_others(cells.sorted, inside.packs, inside.starts, cells.starts, np.ascontiguousarray(beside), first, inside.in_bytes, places, cosines)
    return places, cosines
