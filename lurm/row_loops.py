"""Sums of rows as compiled loops, in the order of the rows; `lurm.row_sums` takes them."""

from numba import types

from lurm.compiled_loops import compiled

MATRIX, LONGS = types.Array(types.float32, 2, "C", readonly=True), types.Array(types.int64, 1, "C", readonly=True)


@compiled(types.void, MATRIX, LONGS, types.float32[:, ::1], made_of=())
def add_rows(vectors, numbers, sums):
    """sums[numbers[r]] += vectors[r]; rows whose number is beyond the sums belong to nobody."""
    for row in range(len(numbers)):
        number = numbers[row]
        if number < len(sums):
            for column in range(vectors.shape[1]):
                sums[number, column] += vectors[row, column]


@compiled(types.void, MATRIX, types.Array(types.int64, 2, "C", readonly=True), MATRIX, types.float32[:, ::1], made_of=())
def add_weighted_rows(vectors, rows, weights, sums):
    """sums[k] += sum_r weights[k, r] vectors[rows[k, r]]."""
    for place in range(rows.shape[0]):
        for other in range(rows.shape[1]):
            row, weight = rows[place, other], weights[place, other]
            for column in range(vectors.shape[1]):
                sums[place, column] += weight * vectors[row, column]
