"""The search among many columns as compiled loops: rough products choose, float32 decides.

Made of `lurm.rough_tiles` or, where the processor has a matrix unit, of `lurm.byte_tiles`, which give the same; `lurm.cells` takes them.

  pack_columns   vectors in the form that rows are multiplied with;
  search_cells   the nearest centroid of every row, among those of the cells whose middles are near;
  nearest_rough  the nearest of a few columns, by rough products alone;
  nearest_others the nearest other centroids of every centroid, likewise.

A rough product of two vectors of length 1 is off by at most `error_of` their width, so what `search_cells` finds is what float32 finds in the same
cells. A row's result depends on that row alone, and which are chosen on no processor.

numba lets go of an array after the last mention of its name. So an array whose address is used in a loop must be named in that loop.
"""

import numpy as np
from numba import types

from lurm import byte_tiles, matrix_unit, rough_tiles, vector_code
from lurm.byte_tiles import BLOCK, BYTE_ROWS, SUMS_BYTES, copy_lines, join_sums, multiply_bytes, to_bytes
from lurm.compiled_loops import compiled
from lurm.matrix_unit import ROW_BYTES, begin, end
from lurm.rough_tiles import (
    EXACT_LANES,
    FOUR_PACKS,
    LANES,
    PACKS,
    ROWS,
    SCALE,
    at_least,
    four_at_least,
    largest,
    lowest_bit,
    multiply,
    multiply_exactly,
    to_whole,
)
from lurm.vector_code import address_at, fetch

BLOCK_ROWS = 32_768  # whose whole numbers lie in the cache
FOUND_PER_ROW, AHEAD = 8, 8  # centroids that may be the nearest and are kept until they are compared; of which memory is asked for early
SQUARE, LEAST = SCALE**2, -(2**31)
LONGS, INTS = types.Array(types.int64, 1, "C", readonly=True), types.Array(types.int32, 1, "C", readonly=True)
MATRIX, OWN_INTS = types.Array(types.float32, 2, "C", readonly=True), types.int32[::1]
MADE_OF = (byte_tiles, rough_tiles, matrix_unit, vector_code)
MOST_ROWS = max(ROWS, BYTE_ROWS)  # that are multiplied at once


@compiled(types.float32, types.int64, made_of=MADE_OF)
def error_of(width):
    """How far a rough product of two vectors of length 1 and this width, a multiple of 16, can be from the one of float32.

    Rounding moves each number by half of 1 / SCALE, and the absolute numbers of such a vector have a sum of sqrt(width) at most. 2^-8 of that is for
    the products of what was moved and for moving in float32, 2^-15 for the sum in float32.
    """
    return np.float32(np.sqrt(width) / SCALE * (1 + 2.0**-8) + 2.0**-15)


@compiled(types.void, types.int64, types.int64, types.int64, types.boolean, made_of=MADE_OF)
def _to_whole(row, width, out, in_bytes):
    if in_bytes:
        to_bytes(row, width // LANES, out, out + width)
    else:
        to_whole(row, width // LANES, out)


@compiled(types.void, MATRIX, LONGS, LONGS, types.boolean, OWN_INTS, made_of=MADE_OF)
def pack_columns(columns, starts, pack_starts, in_bytes, out):
    """columns[starts[c]:starts[c + 1]], of (K, d), into the packs pack_starts[c] to pack_starts[c + 1] of out.

    in_bytes: as `lurm.byte_tiles` reads them, whose d is a multiple of BLOCK; else as `lurm.rough_tiles` does. A pack that is not full is filled up
    with its last column: what is found there is found before in the column itself.
    """
    width = columns.shape[1]
    n_fours, half, whole = width // 2, width // 4, np.empty(width // 2, np.int32)
    for group in range(len(starts) - 1):
        for place in range(LANES * (pack_starts[group + 1] - pack_starts[group])):
            column = min(starts[group] + place, starts[group + 1] - 1)
            to = (pack_starts[group] + place // LANES) * n_fours * LANES + place % LANES
            _to_whole(columns.ctypes.data + 4 * width * column, width, whole.ctypes.data, in_bytes)
            for four in range(n_fours):
                at = four
                if in_bytes:  # 16 of the high bytes, 16 of the low ones, and so on
                    at = four % half // 16 * 32 + four // half * 16 + four % 16
                out[to + at * LANES] = whole[four]


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


@compiled(types.int64, types.boolean, made_of=MADE_OF)
def _rows_at_once(in_bytes):
    return BYTE_ROWS if in_bytes else ROWS


@compiled(types.int64, types.int64, types.boolean, made_of=MADE_OF)
def _room_for(width, in_bytes):
    """The bytes that `_multiply_all` needs."""
    return ROW_BYTES + (BYTE_ROWS * 2 * width + 2 * SUMS_BYTES if in_bytes else 0)


@compiled(
    types.void, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.boolean, types.int64, made_of=MADE_OF
)  # fmt: skip
def _multiply_all(rows, packs, n_packs, width, out, out_bytes, in_bytes, room):
    """The products of the ROWS (BYTE_ROWS) rows whose addresses lie at `rows` and any number of packs, as `multiply` leaves them."""
    row_bytes = 2 * width
    if not in_bytes:
        for pack in range(0, n_packs, PACKS):
            multiply(min(PACKS, n_packs - pack), rows, packs + pack * row_bytes * LANES, width // 2, out + pack * 4 * LANES, out_bytes)
        return
    side_by_side = (room + ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES
    sums, last_sums = side_by_side + BYTE_ROWS * row_bytes, side_by_side + BYTE_ROWS * row_bytes + SUMS_BYTES
    for row in range(BYTE_ROWS):
        copy_lines(address_at(rows + 8 * row), row_bytes // ROW_BYTES, side_by_side + row * row_bytes)
    for pack in range(n_packs):
        multiply_bytes(width // BLOCK, side_by_side, packs + pack * row_bytes * LANES, sums)
        if pack:  # of the pack before, because what was just written is not there to be read yet
            join_sums(last_sums, out + (pack - 1) * 4 * LANES, out_bytes)
        sums, last_sums = last_sums, sums
    join_sums(last_sums, out + (n_packs - 1) * 4 * LANES, out_bytes)


@compiled(
    types.UniTuple(types.int64, 2), MATRIX, types.int64, INTS, types.int64, types.float32, types.boolean, OWN_INTS, types.uint16[::1], OWN_INTS,
    made_of=MADE_OF,
)  # fmt: skip
def _near_cells(rows, first, middles, n_cells, look, in_bytes, whole, pair_cells, pair_rows):
    """(pairs of a row and a cell that it looks into, the row after the last): from row `first` on, as many rows as there is room for. Their whole
    numbers are left in `whole`."""
    n, width = rows.shape
    n_packs, n_fours, last = (n_cells + LANES - 1) // LANES, (n_cells + FOUR_PACKS - 1) // FOUR_PACKS, min(n, first + BLOCK_ROWS)
    n_rows, row_bytes, whole_row = _rows_at_once(in_bytes), n_fours * 4 * FOUR_PACKS, 2 * width
    near, at = np.full((n_rows, n_fours * FOUR_PACKS), LEAST, np.int32), np.empty(n_rows, np.int64)
    room, to_multiply = np.empty(np.int64(min(max(look, 1), n_cells)), np.int32), np.empty(_room_for(width, in_bytes), np.uint8)
    n_found, row = 0, first
    while row < last and n_found + n_rows * n_cells <= len(pair_cells):
        n_here = min(n_rows, last - row)
        for own in range(n_rows):
            at[own] = whole.ctypes.data + (row - first + min(own, n_here - 1)) * whole_row
            if own < n_here:
                _to_whole(rows.ctypes.data + 4 * width * (row + own), width, at[own], in_bytes)
        _multiply_all(at.ctypes.data, middles.ctypes.data, n_packs, width, near.ctypes.data, row_bytes, in_bytes, to_multiply.ctypes.data)
        for own in range(n_here):
            of_own, limit = near.ctypes.data + own * row_bytes, np.int64(LEAST)
            if look < 1:
                limit = largest(of_own, n_packs) - np.int64(look * SQUARE)
            elif look < n_cells:
                limit = _nth_largest(near[own], of_own, n_cells, room)
            for four in range(n_fours):
                found = four_at_least(of_own + four * 4 * FOUR_PACKS, limit)
                while found:
                    cell = four * FOUR_PACKS + lowest_bit(found)
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
    types.void, MATRIX, types.int64, INTS, MATRIX, OWN_INTS, OWN_INTS, OWN_INTS, OWN_INTS, types.int64, OWN_INTS, types.float32[::1],
    made_of=MADE_OF,
)  # fmt: skip
def _decide(rows, first, order, centroids, tops, found_rows, found_places, found_products, n_found, ids, best):
    """Which of the centroids that were found are the nearest, in float32: those whose rough product is near enough to the row's largest one."""
    width, least = rows.shape[1], 2 * np.int64(np.ceil(error_of(rows.shape[1]) * SQUARE))
    of_rows, of_centroids, n_kept = rows.ctypes.data, centroids.ctypes.data, 0
    for number in range(n_found):
        if found_products[number] >= tops[found_rows[number] - first] - least:
            found_rows[n_kept], found_places[n_kept] = found_rows[number], found_places[number]
            n_kept += 1
    for number in range(n_kept):
        later = min(number + AHEAD, n_kept - 1)
        for byte in range(0, 4 * width, 64):
            fetch(of_centroids + 4 * width * found_places[later] + byte)
            fetch(of_rows + 4 * width * found_rows[later] + byte)
        row, place = found_rows[number], found_places[number]
        value = multiply_exactly(of_rows + 4 * width * row, of_centroids + 4 * width * place, width // EXACT_LANES)
        if value > best[row] or (value == best[row] and order[place] < ids[row]):
            best[row], ids[row] = value, order[place]


@compiled(
    types.void, MATRIX, types.int64, OWN_INTS, OWN_INTS, types.int64[::1], INTS, LONGS, LONGS, INTS, MATRIX, types.boolean, OWN_INTS,
    types.float32[::1], made_of=MADE_OF,
)  # fmt: skip
def _search_pairs(rows, first, whole, sorted_rows, ends, packs, pack_starts, starts, order, centroids, in_bytes, ids, best):
    """The nearest centroid of each row in the cells it is paired with; whole are the rows from `first` on."""
    width, widest, n_rows = rows.shape[1], np.max(pack_starts[1:] - pack_starts[:-1]), _rows_at_once(in_bytes)
    whole_row, room = 2 * width, np.empty(_room_for(width, in_bytes), np.uint8)
    products, at, row_bytes = np.empty((n_rows, widest * LANES), np.int32), np.empty(n_rows, np.int64), widest * 4 * LANES
    of_whole, error = whole.ctypes.data - whole_row * first, np.int64(np.ceil(error_of(width) * SQUARE))
    tops = np.full(min(BLOCK_ROWS, len(rows) - first), LEAST, np.int32)
    most = max(FOUND_PER_ROW * len(tops), n_rows * widest * LANES)
    found_rows, found_places, found_products, n_found = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32), 0
    pair = 0
    for cell in range(len(starts) - 1):
        n_packs, of_packs = pack_starts[cell + 1] - pack_starts[cell], packs.ctypes.data + pack_starts[cell] * whole_row * LANES
        while pair < ends[cell]:
            n_here = min(n_rows, ends[cell] - pair)
            for own in range(n_rows):
                at[own] = of_whole + sorted_rows[pair + min(own, n_here - 1)] * whole_row
            for later in range(pair + n_rows, min(pair + 2 * n_rows, ends[cell])):
                for byte in range(0, whole_row, 64):
                    fetch(of_whole + sorted_rows[later] * whole_row + byte)
            _multiply_all(at.ctypes.data, of_packs, n_packs, width, products.ctypes.data, row_bytes, in_bytes, room.ctypes.data)
            if n_found + n_rows * widest * LANES > most:
                _decide(rows, first, order, centroids, tops, found_rows, found_places, found_products, n_found, ids, best)
                n_found = 0
            for own in range(n_here):
                row, of_own = sorted_rows[pair + own], products.ctypes.data + own * row_bytes
                top, limit = largest(of_own, n_packs), np.int64(tops[row - first]) - 2 * error
                if top < limit:
                    continue
                if top > tops[row - first]:
                    tops[row - first], limit = top, top - 2 * error
                for pack in range(n_packs):
                    found = at_least(of_own + pack * 4 * LANES, limit)
                    while found:
                        place = pack * LANES + lowest_bit(found)
                        found &= found - 1
                        if starts[cell] + place < starts[cell + 1]:
                            found_rows[n_found], found_places[n_found], found_products[n_found] = row, starts[cell] + place, products[own, place]
                            n_found += 1
            pair += n_here
    _decide(rows, first, order, centroids, tops, found_rows, found_places, found_products, n_found, ids, best)


@compiled(
    types.void, MATRIX, INTS, INTS, LONGS, LONGS, INTS, MATRIX, types.boolean, types.float32, types.int64, OWN_INTS, types.float32[::1],
    made_of=MADE_OF,
)  # fmt: skip
def search_cells(rows, middles, packs, pack_starts, starts, order, centroids, in_bytes, look, most, ids, best):
    """ids[r] and best[r] = number and product of the nearest centroid of rows[r] in the cells looked into; of equal ones the lowest number.

    rows (n, d) float32 of length 1; middles and packs as by pack_columns, of the L cells and of their centroids (K, d), cell after cell; cell c
    has centroids[starts[c]:starts[c + 1]], one or more, whose numbers are order[...]. `look` below 1: cells as near as the nearest, but for that
    much; else that many of the nearest, and all from L on. most: pairs of a row and a cell that are held at once, MOST_ROWS * L or more. ids is 0 and
    best minus infinity before.
    """
    n, n_cells, shape = len(rows), len(starts) - 1, np.empty(ROW_BYTES, np.uint8)
    whole, ends = np.empty(min(n, BLOCK_ROWS) * rows.shape[1] // 2, np.int32), np.empty(n_cells + 1, np.int64)
    pair_cells, pair_rows, sorted_rows = np.empty(most, np.uint16), np.empty(most, np.int32), np.empty(most, np.int32)
    first = 0
    if in_bytes:
        begin(shape.ctypes.data)
    while first < n:
        n_found, after = _near_cells(rows, first, middles, n_cells, look, in_bytes, whole, pair_cells, pair_rows)
        _sort_by_cell(pair_cells, pair_rows, n_found, ends, sorted_rows)
        _search_pairs(rows, first, whole, sorted_rows, ends, packs, pack_starts, starts, order, centroids, in_bytes, ids, best)
        first = after
    if in_bytes:
        end(shape.ctypes.data)


@compiled(types.void, MATRIX, INTS, types.int64, types.boolean, types.int64[::1], made_of=MADE_OF)
def nearest_rough(rows, packs, n_columns, in_bytes, ids):
    """ids[r] = number of the largest rough product of row r of (n, d) with one of n_columns columns; of equal ones the lowest."""
    n, width = rows.shape
    n_packs, n_rows, whole_row = (n_columns + LANES - 1) // LANES, _rows_at_once(in_bytes), 2 * width
    products, at, whole = np.empty((n_rows, n_packs * LANES), np.int32), np.empty(n_rows, np.int64), np.empty(n_rows * whole_row, np.uint8)
    row_bytes, room, shape = n_packs * 4 * LANES, np.empty(_room_for(width, in_bytes), np.uint8), np.empty(ROW_BYTES, np.uint8)
    if in_bytes:
        begin(shape.ctypes.data)
    for first in range(0, n, n_rows):
        for own in range(n_rows):
            at[own] = whole.ctypes.data + own * whole_row
            _to_whole(rows.ctypes.data + 4 * width * min(first + own, n - 1), width, at[own], in_bytes)
        _multiply_all(at.ctypes.data, packs.ctypes.data, n_packs, width, products.ctypes.data, row_bytes, in_bytes, room.ctypes.data)
        for own in range(min(n_rows, n - first)):
            of_own = products.ctypes.data + own * row_bytes
            top, pack, found = largest(of_own, n_packs), 0, 0
            while not found:
                found = at_least(of_own + pack * 4 * LANES, top)
                pack += 1
            ids[first + own] = (pack - 1) * LANES + lowest_bit(found)
    if in_bytes:
        end(shape.ctypes.data)


@compiled(
    types.void, MATRIX, INTS, LONGS, LONGS, types.Array(types.int64, 2, "C", readonly=True), types.int64, types.boolean, types.int64[:, ::1],
    types.float32[:, ::1], made_of=MADE_OF,
)  # fmt: skip
def nearest_others(centroids, packs, pack_starts, starts, beside, first_cell, in_bytes, places, cosines):
    """The nearest other centroids of those of the cells first_cell and following; `beside` (C, L) holds the cells that are looked into for each.

    centroids (K, d), packs and starts as for `search_cells`; places (n, N) are numbers in that order, the nearest first, cosines (n, N) their rough
    products, minus infinity where there are no more.
    """
    width, widest, n_rows, n_wanted = centroids.shape[1], np.max(pack_starts[1:] - pack_starts[:-1]), _rows_at_once(in_bytes), places.shape[1]
    products, at, whole = np.empty((n_rows, widest * LANES), np.int32), np.empty(n_rows, np.int64), np.empty(n_rows * 2 * width, np.uint8)
    row_bytes, room, shape = widest * 4 * LANES, np.empty(_room_for(width, in_bytes), np.uint8), np.empty(ROW_BYTES, np.uint8)
    tops, found_places, to = np.empty((n_rows, n_wanted), np.int32), np.empty((n_rows, n_wanted), np.int64), 0
    if in_bytes:
        begin(shape.ctypes.data)
    for cell in range(first_cell, first_cell + len(beside)):
        for start in range(starts[cell], starts[cell + 1], n_rows):
            n_here = min(n_rows, starts[cell + 1] - start)
            for own in range(n_rows):
                at[own] = whole.ctypes.data + own * 2 * width
                _to_whole(centroids.ctypes.data + 4 * width * (start + min(own, n_here - 1)), width, at[own], in_bytes)
            tops[:], found_places[:] = LEAST, 0
            for number in range(beside.shape[1]):
                other = beside[cell - first_cell, number]
                n_packs, of_packs = pack_starts[other + 1] - pack_starts[other], packs.ctypes.data + pack_starts[other] * 2 * width * LANES
                _multiply_all(at.ctypes.data, of_packs, n_packs, width, products.ctypes.data, row_bytes, in_bytes, room.ctypes.data)
                for own in range(n_here):
                    of_own = products.ctypes.data + own * row_bytes
                    if largest(of_own, n_packs) <= tops[own, n_wanted - 1]:
                        continue
                    for pack in range(n_packs):
                        found = at_least(of_own + pack * 4 * LANES, np.int64(tops[own, n_wanted - 1]) + 1)
                        while found:
                            column = pack * LANES + lowest_bit(found)
                            place, product, rank = starts[other] + column, products[own, column], n_wanted - 1
                            found &= found - 1
                            if place >= starts[other + 1] or place == start + own or product <= tops[own, rank]:
                                continue
                            while rank and tops[own, rank - 1] < product:
                                tops[own, rank], found_places[own, rank] = tops[own, rank - 1], found_places[own, rank - 1]
                                rank -= 1
                            tops[own, rank], found_places[own, rank] = product, place
            for own in range(n_here):
                for rank in range(n_wanted):
                    there = tops[own, rank] > LEAST
                    places[to, rank], cosines[to, rank] = found_places[own, rank], np.float32(tops[own, rank] / SQUARE) if there else -np.inf
                to += 1
    if in_bytes:
        end(shape.ctypes.data)
