"""The search among many columns as compiled loops: rough products choose, float32 decides. Made of `lurm.rough_tiles`; `lurm.cells` takes them.

  pack_columns   vectors in the form that rows are multiplied with;
  search_cells   the nearest centroid of every row, among those of the cells whose middles are near;
  nearest_rough  the nearest of a few columns, by rough products alone.

A rough product of two vectors of length 1 is off by at most `error_of` their width, so what `search_cells` finds is what float32 finds in the same
cells. A row's result depends on that row alone, and which are chosen on no processor.

numba lets go of an array after the last mention of its name. So an array whose address is used in a loop must be named in that loop.
"""

import numpy as np
from numba import types

from lurm import rough_tiles, vector_code
from lurm.compiled_loops import compiled
from lurm.rough_tiles import EXACT_LANES, LANES, PACKS, ROWS, SCALE, at_least, largest, lowest_bit, multiply, multiply_exactly, to_whole
from lurm.vector_code import fetch

BLOCK_ROWS = 32_768  # whose whole numbers lie in the cache
SQUARE, LEAST = SCALE**2, -(2**31)
LONGS, INTS = types.Array(types.int64, 1, "C", readonly=True), types.Array(types.int32, 1, "C", readonly=True)
MATRIX, OWN_INTS = types.Array(types.float32, 2, "C", readonly=True), types.int32[::1]
MADE_OF = (rough_tiles, vector_code)


@compiled(types.float32, types.int64, made_of=MADE_OF)
def error_of(width):
    """How far a rough product of two vectors of length 1 and this width, a multiple of 16, can be from the one of float32.

    Rounding moves each number by half of 1 / SCALE, and the absolute numbers of such a vector have a sum of sqrt(width) at most. 2^-8 of that is for
    the products of what was moved and for moving in float32, 2^-15 for the sum in float32.
    """
    return np.float32(np.sqrt(width) / SCALE * (1 + 2.0**-8) + 2.0**-15)


@compiled(types.void, MATRIX, LONGS, LONGS, OWN_INTS, made_of=MADE_OF)
def pack_columns(columns, starts, pack_starts, out):
    """columns[starts[c]:starts[c + 1]], of (K, d), into the packs pack_starts[c] to pack_starts[c + 1] of out.

    A pack that is not full is filled up with its last column: what is found there is found before in the column itself.
    """
    width = columns.shape[1]
    n_pairs, whole = width // 2, np.empty(width // 2, np.int32)
    for group in range(len(starts) - 1):
        for place in range(LANES * (pack_starts[group + 1] - pack_starts[group])):
            column = min(starts[group] + place, starts[group + 1] - 1)
            to = (pack_starts[group] + place // LANES) * n_pairs * LANES + place % LANES
            to_whole(columns.ctypes.data + 4 * width * column, width // LANES, whole.ctypes.data)
            for pair in range(n_pairs):
                out[to + pair * LANES] = whole[pair]


@compiled(types.int64, OWN_INTS, types.int64, types.int64, OWN_INTS, made_of=MADE_OF)
def _nth_largest(values, of_values, n_values, room):
    """The n-th largest of the first n_values, n = len(room), which is overwritten."""
    room[:] = LEAST
    for pack in range((n_values + LANES - 1) // LANES):
        found = at_least(of_values + pack * 4 * LANES, room[0])
        while found:
            place = pack * LANES + lowest_bit(found)
            found &= found - 1
            if place >= n_values or values[place] <= room[0]:
                continue
            rank = 1
            while rank < len(room) and room[rank] < values[place]:
                room[rank - 1] = room[rank]
                rank += 1
            room[rank - 1] = values[place]
    return room[0]


@compiled(types.void, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, made_of=MADE_OF)
def _multiply_all(rows, packs, n_packs, n_pairs, out, out_bytes):
    """`multiply` for any number of packs."""
    for pack in range(0, n_packs, PACKS):
        multiply(min(PACKS, n_packs - pack), rows, packs + pack * n_pairs * 4 * LANES, n_pairs, out + pack * 4 * LANES, out_bytes)


@compiled(
    types.UniTuple(types.int64, 2), MATRIX, types.int64, INTS, types.int64, types.float32, OWN_INTS, types.uint16[::1], OWN_INTS, made_of=MADE_OF
)  # fmt: skip
def _near_cells(rows, first, middles, n_cells, look, whole, pair_cells, pair_rows):
    """(pairs of a row and a cell that it looks into, the row after the last): from row `first` on, as many rows as there is room for. Their whole
    numbers are left in `whole`."""
    n, width = rows.shape
    n_packs, last = (n_cells + LANES - 1) // LANES, min(n, first + BLOCK_ROWS)
    near, at = np.empty((ROWS, n_packs * LANES), np.int32), np.empty(ROWS, np.int64)
    room, row_bytes = np.empty(np.int64(min(max(look, 1), n_cells)), np.int32), n_packs * 4 * LANES
    n_found, row = 0, first
    while row < last and n_found + ROWS * n_cells <= len(pair_cells):
        n_here = min(ROWS, last - row)
        for own in range(ROWS):
            at[own] = whole.ctypes.data + (row - first + min(own, n_here - 1)) * 2 * width
            if own < n_here:
                to_whole(rows.ctypes.data + 4 * width * (row + own), width // LANES, at[own])
        _multiply_all(at.ctypes.data, middles.ctypes.data, n_packs, width // 2, near.ctypes.data, row_bytes)
        for own in range(n_here):
            of_own, limit = near.ctypes.data + own * row_bytes, np.int64(LEAST)
            if look < 1:
                limit = largest(of_own, n_packs) - np.int64(look * SQUARE)
            elif look < n_cells:
                limit = _nth_largest(near[own], of_own, n_cells, room)
            for pack in range(n_packs):
                found = at_least(of_own + pack * 4 * LANES, limit)
                while found:
                    cell = pack * LANES + lowest_bit(found)
                    found &= found - 1
                    if cell < n_cells:
                        pair_cells[n_found], pair_rows[n_found] = cell, row + own
                        n_found += 1
        row += n_here
    return n_found, row


@compiled(types.void, types.uint16[::1], OWN_INTS, types.int64, types.int64[::1], OWN_INTS, made_of=MADE_OF)
def _sort_by_cell(pair_cells, pair_rows, n_found, ends, sorted_rows):
    """Rows in the order of their cells; those of cell c end before ends[c]."""
    ends[:] = 0
    for pair in range(n_found):
        ends[pair_cells[pair] + 1] += 1
    for cell in range(1, len(ends)):
        ends[cell] += ends[cell - 1]
    for pair in range(n_found):  # ends[c] goes from where a cell begins to where it ends
        cell = pair_cells[pair]
        sorted_rows[ends[cell]] = pair_rows[pair]
        ends[cell] += 1


@compiled(
    types.void, MATRIX, types.int64, OWN_INTS, OWN_INTS, types.int64[::1], INTS, LONGS, LONGS, INTS, MATRIX, OWN_INTS, types.float32[::1],
    made_of=MADE_OF,
)  # fmt: skip
def _search_pairs(rows, first, whole, sorted_rows, ends, packs, pack_starts, starts, order, centroids, ids, best):
    """The nearest centroid of each row in the cells it is paired with; whole are the rows from `first` on."""
    width, widest = rows.shape[1], np.max(pack_starts[1:] - pack_starts[:-1])
    products, at, row_bytes = np.empty((ROWS, widest * LANES), np.int32), np.empty(ROWS, np.int64), widest * 4 * LANES
    of_whole, of_rows, of_centroids = whole.ctypes.data - 2 * width * first, rows.ctypes.data, centroids.ctypes.data
    error = np.int64(np.ceil(error_of(width) * SQUARE))
    pair = 0
    for cell in range(len(starts) - 1):
        n_packs, of_packs = pack_starts[cell + 1] - pack_starts[cell], packs.ctypes.data + pack_starts[cell] * width * 2 * LANES
        while pair < ends[cell]:
            n_here = min(ROWS, ends[cell] - pair)
            for own in range(ROWS):
                at[own] = of_whole + sorted_rows[pair + min(own, n_here - 1)] * 2 * width
            for later in range(pair + ROWS, min(pair + 2 * ROWS, ends[cell])):
                for byte in range(0, 2 * width, 64):
                    fetch(of_whole + sorted_rows[later] * 2 * width + byte)
            _multiply_all(at.ctypes.data, of_packs, n_packs, width // 2, products.ctypes.data, row_bytes)
            for own in range(n_here):
                row, of_own = sorted_rows[pair + own], products.ctypes.data + own * row_bytes
                top, seen = largest(of_own, n_packs), np.int64(max(best[row], -2) * SQUARE) - error
                if top < seen:
                    continue
                limit = max(seen, top - 2 * error)
                for pack in range(n_packs):
                    found = at_least(of_own + pack * 4 * LANES, limit)
                    while found:
                        place = starts[cell] + pack * LANES + lowest_bit(found)
                        found &= found - 1
                        if place < starts[cell + 1]:
                            value = multiply_exactly(of_rows + 4 * width * row, of_centroids + 4 * width * place, width // EXACT_LANES)
                            if value > best[row] or (value == best[row] and order[place] < ids[row]):
                                best[row], ids[row] = value, order[place]
            pair += n_here


@compiled(
    types.void, MATRIX, INTS, INTS, LONGS, LONGS, INTS, MATRIX, types.float32, types.int64, OWN_INTS, types.float32[::1], made_of=MADE_OF
)  # fmt: skip
def search_cells(rows, middles, packs, pack_starts, starts, order, centroids, look, most, ids, best):
    """ids[r] and best[r] = number and product of the nearest centroid of rows[r] in the cells looked into; of equal ones the lowest number.

    rows (n, d) float32 of length 1; middles and packs as by pack_columns, of the L cells and of their centroids (K, d), cell after cell; cell c
    has centroids[starts[c]:starts[c + 1]], one or more, whose numbers are order[...]. `look` below 1: cells as near as the nearest, but for that
    much; else that many of the nearest, and all from L on. most: pairs of a row and a cell that are held at once, ROWS * L or more. ids is 0 and best
    minus infinity before.
    """
    n, n_cells = len(rows), len(starts) - 1
    whole, ends = np.empty(min(n, BLOCK_ROWS) * rows.shape[1] // 2, np.int32), np.empty(n_cells + 1, np.int64)
    pair_cells, pair_rows, sorted_rows = np.empty(most, np.uint16), np.empty(most, np.int32), np.empty(most, np.int32)
    first = 0
    while first < n:
        n_found, after = _near_cells(rows, first, middles, n_cells, look, whole, pair_cells, pair_rows)
        _sort_by_cell(pair_cells, pair_rows, n_found, ends, sorted_rows)
        _search_pairs(rows, first, whole, sorted_rows, ends, packs, pack_starts, starts, order, centroids, ids, best)
        first = after


@compiled(types.void, MATRIX, INTS, types.int64, types.int64[::1], made_of=MADE_OF)
def nearest_rough(rows, packs, n_columns, ids):
    """ids[r] = number of the largest rough product of row r of (n, d) with one of n_columns columns; of equal ones the lowest."""
    n, width = rows.shape
    n_packs = (n_columns + LANES - 1) // LANES
    products, at, whole = np.empty((ROWS, n_packs * LANES), np.int32), np.empty(ROWS, np.int64), np.empty(ROWS * width // 2, np.int32)
    row_bytes = n_packs * 4 * LANES
    for first in range(0, n, ROWS):
        for own in range(ROWS):
            at[own] = whole.ctypes.data + own * 2 * width
            to_whole(rows.ctypes.data + 4 * width * min(first + own, n - 1), width // LANES, at[own])
        _multiply_all(at.ctypes.data, packs.ctypes.data, n_packs, width // 2, products.ctypes.data, row_bytes)
        for own in range(min(ROWS, n - first)):
            of_own = products.ctypes.data + own * row_bytes
            top, pack, found = largest(of_own, n_packs), 0, 0
            while not found:
                found = at_least(of_own + pack * 4 * LANES, top)
                pack += 1
            ids[first + own] = (pack - 1) * LANES + lowest_bit(found)
