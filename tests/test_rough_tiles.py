"""Tiles of rough products against numpy, to the last bit: whole numbers have one sum on every processor."""

import numpy as np
import pytest
from numba import njit

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


def test_numbers_become_the_nearest_whole_ones():
    @njit
    def whole(row, out):
        to_whole(row.ctypes.data, len(row) // LANES, out.ctypes.data)
        return row[0], out[0]  # which keeps them

    row = np.random.default_rng(0).uniform(-1, 1, 64).astype(np.float32)
    row[:9] = 0, -0.0, 1, -1, 1.00002, 3, -np.inf, 2.5 / SCALE, -0.5 / SCALE
    out = np.full(65, 7, np.int16)
    whole(row, out)
    np.testing.assert_array_equal(out[:9], [0, 0, SCALE, -SCALE, SCALE, SCALE, -SCALE, 2, 0])
    np.testing.assert_array_equal(out[9:64], np.rint(row[9:] * np.float32(SCALE)))
    assert out[64] == 7


@pytest.mark.parametrize("n_packs", range(1, PACKS + 1))
@pytest.mark.parametrize("span", [3, 7_000])
def test_a_tile_is_the_product_of_whole_numbers(n_packs, span):
    @njit
    def tile(rows, packs, n_packs, n_pairs, out):
        at = np.empty(ROWS, np.int64)
        for row in range(ROWS):
            at[row] = rows.ctypes.data + row * 4 * n_pairs
        multiply(n_packs, at.ctypes.data, packs.ctypes.data, n_pairs, out.ctypes.data, 4 * out.shape[1])
        return at[0]  # which keeps it

    rng, width = np.random.default_rng(0), 48
    rows, columns = (rng.integers(-span, span + 1, (n, width)).astype(np.int16) for n in (ROWS, n_packs * LANES))
    rows[0, 0], columns[1, 0] = SCALE, -SCALE
    room = np.empty(columns.size + 32, np.int16)
    packs = room[-room.ctypes.data % 64 // 2 :][: columns.size]
    packs[:] = columns.reshape(n_packs, LANES, width // 2, 2).transpose(0, 2, 1, 3).ravel()
    out = np.full((ROWS, n_packs * LANES + 5), 7, np.int32)
    tile(rows, packs, n_packs, width // 2, out)
    np.testing.assert_array_equal(out[:, :-5], rows.astype(np.int64) @ columns.T.astype(np.int64))
    assert (out[:, -5:] == 7).all()


def test_what_is_done_with_products():
    @njit
    def everything(values, limit):
        address = values.ctypes.data
        bits = at_least(address, limit)
        return largest(address, len(values) // LANES), bits, lowest_bit(bits), values[0]

    values = np.random.default_rng(1).integers(-(2**30), 2**30, 3 * LANES).astype(np.int32)
    limit = int(np.sort(values[:LANES])[-4])
    top, bits, lowest, _ = everything(values, limit)
    reached = np.flatnonzero(values[:LANES] >= limit)
    assert top == values.max() and bits == sum(1 << int(place) for place in reached) and lowest == reached[0]
    assert everything(-np.abs(values), 0)[:2] == (-np.abs(values).min(), 0) and everything(values, -(2**31))[1] == 2**LANES - 1


def test_four_packs_are_compared_together():
    @njit
    def compared(values, limit):
        return four_at_least(values.ctypes.data, limit), values[0]

    values = np.random.default_rng(3).integers(-(2**30), 2**30, FOUR_PACKS).astype(np.int32)
    values[-1] = 2**30  # the highest bit of 64
    for limit in (0, int(values[5]), 2**30, -(2**31)):
        bits, _ = compared(values, limit)
        assert bits & (2**FOUR_PACKS - 1) == sum(1 << int(place) for place in np.flatnonzero(values >= limit))


def test_an_exact_product_has_one_order_of_sums():
    @njit
    def product(one, other):
        return multiply_exactly(one.ctypes.data, other.ctypes.data, len(one) // EXACT_LANES), one[0], other[0]

    one, other = np.random.default_rng(2).standard_normal((2, 3 * EXACT_LANES)).astype(np.float32)
    chains = np.zeros(EXACT_LANES, np.float32)
    for part in range(0, len(one), EXACT_LANES):  # a float64 holds a product of two float32, so only the sum is rounded
        parts = (side[part : part + EXACT_LANES].astype(np.float64) for side in (one, other))
        chains = (next(parts) * next(parts) + chains).astype(np.float32)
    while len(chains) > 1:
        chains = chains[: len(chains) // 2] + chains[len(chains) // 2 :]
    assert product(one, other)[0] == chains[0] == pytest.approx(one.astype(np.float64) @ other, abs=1e-5)
