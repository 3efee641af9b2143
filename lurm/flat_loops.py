"""Plain spherical k-means of vectors that fit into the cache, as one compiled loop.

It does what `lurm.cells.flat_kmeans` does in numpy's steps, which take longer to call than to run. Made of `lurm.rough_loops`.
"""

import numpy as np
from numba import types

from lurm import byte_tiles, matrix_unit, rough_loops, rough_tiles, vector_code
from lurm.compiled_loops import compiled
from lurm.matrix_unit import ROW_BYTES
from lurm.rough_loops import MATRIX, OWN_INTS, nearest_rough, pack_columns
from lurm.rough_tiles import LANES

TINY, SAME = np.float32(1e-30), np.float32(1e-6)  # as in lurm.cells and lurm.lloyd
MADE_OF = (rough_loops, byte_tiles, rough_tiles, matrix_unit, vector_code)
OWN = types.float32[:, ::1]


@compiled(types.void, MATRIX, OWN, types.boolean, OWN_INTS, types.int64[::1], made_of=MADE_OF)
def _find(vectors, centroids, in_bytes, packs, ids):
    """The nearest centroid of each vector, by rough products with what centroids do not have in common."""
    n, width = centroids.shape
    common, longest, apart = np.zeros(width, np.float64), np.float64(0), np.empty((n, width), np.float32)
    for row in range(n):
        for column in range(width):
            common[column] += centroids[row, column]
    for row in range(n):
        squares = np.float64(0)
        for column in range(width):
            apart[row, column] = centroids[row, column] - np.float32(common[column] / n)
            squares += apart[row, column] * apart[row, column]
        longest = max(longest, squares)
    factor = np.float32(1 / max(np.sqrt(longest), np.float64(TINY)))
    for row in range(n):
        for column in range(width):
            apart[row, column] *= factor
    starts, pack_starts = np.array([0, n]), np.array([0, (n + LANES - 1) // LANES])
    pack_columns(apart, starts, pack_starts, in_bytes, packs)
    nearest_rough(vectors, packs, n, in_bytes, ids)


@compiled(types.void, MATRIX, OWN, types.int64[::1], made_of=MADE_OF)
def _move(vectors, centroids, ids):
    """Centroids to the directions of their vectors' sums; an empty one becomes the vector that is served worst, one that cancels out stays."""
    n, width = centroids.shape
    sums, sizes = np.zeros((n, width), np.float32), np.zeros(n, np.int64)
    for row in range(len(vectors)):
        sizes[ids[row]] += 1
        for column in range(width):
            sums[ids[row], column] += vectors[row, column]
    n_empty = 0
    for row in range(n):
        n_empty += sizes[row] == 0
        squares = np.float32(0)
        for column in range(width):
            squares += sums[row, column] * sums[row, column]
        if np.sqrt(squares) > SAME:
            for column in range(width):
                centroids[row, column] = sums[row, column] / np.sqrt(squares)
    if not n_empty:
        return
    cosines = np.empty(len(vectors), np.float32)
    for row in range(len(vectors)):
        product = np.float32(0)
        for column in range(width):
            product += vectors[row, column] * centroids[ids[row], column]
        cosines[row] = product
    for row in range(n):
        if sizes[row] == 0:
            worst = 0
            for other in range(1, len(vectors)):
                if cosines[other] < cosines[worst]:
                    worst = other
            cosines[worst] = np.inf
            for column in range(width):
                centroids[row, column] = vectors[worst, column]


@compiled(types.void, MATRIX, OWN, types.int64, types.boolean, types.int64[::1], made_of=MADE_OF)
def flat_kmeans(vectors, centroids, n_iterations, in_bytes, ids):
    """n_iterations of vectors (n, d) float32 from centroids (k, d), which are overwritten; ids (n,) are the nearest then. d: a multiple of 16."""
    n, width = centroids.shape
    room = np.empty((n + LANES - 1) // LANES * LANES * width // 2 + ROW_BYTES // 4, np.int32)
    first = -room.ctypes.data % ROW_BYTES // 4
    packs = room[first : len(room) - ROW_BYTES // 4 + first]
    for _ in range(n_iterations):
        _find(vectors, centroids, in_bytes, packs, ids)
        _move(vectors, centroids, ids)
    _find(vectors, centroids, in_bytes, packs, ids)
    room[0] = 0  # which keeps it
