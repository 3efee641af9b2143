"""Tiles of rough products against numpy: in one step, as a processor with AVX-512 BF16 has it, and in two steps of float32."""

import numpy as np
import pytest
from numba import njit

from lurm import rough_tiles
from lurm.rough_tiles import LANES, ROWS, at_least, largest, lowest_bit, multiply, multiply_exactly


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 with the last 16 bits zero, the nearest."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def upper(values: np.ndarray) -> np.ndarray:
    return (rounded(values).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("one_step", [pytest.param(True, marks=pytest.mark.skipif(not rough_tiles.ONE_STEP, reason="needs AVX-512 BF16")), False])
@pytest.mark.parametrize("n_packs", [1, 2, 3])
def test_a_tile_is_the_product_of_rounded_numbers(monkeypatch, one_step, n_packs):
    monkeypatch.setattr(rough_tiles, "ONE_STEP", one_step)

    @njit
    def tile(rows, packs, n_packs, n_pairs, out):
        at = np.empty(ROWS, np.int64)
        for row in range(ROWS):
            at[row] = rows.ctypes.data + row * 4 * n_pairs
        multiply(n_packs, at.ctypes.data, packs.ctypes.data, n_pairs, out.ctypes.data, 4 * out.shape[1])
        return at[0]  # which keeps it

    rng, width = np.random.default_rng(0), 48
    rows, columns = (rng.standard_normal((n, width)).astype(np.float32) for n in (ROWS, n_packs * LANES))
    room = np.empty(columns.size + 32, np.uint16)
    packs = room[-room.ctypes.data % 64 // 2 :][: columns.size]
    packs[:] = upper(columns).reshape(n_packs, LANES, width // 2, 2).transpose(0, 2, 1, 3).ravel()
    out = np.full((ROWS, n_packs * LANES + 5), 7, np.float32)
    tile(upper(rows), packs, n_packs, width // 2, out)
    np.testing.assert_allclose(out[:, :-5], rounded(rows).astype(np.float64) @ rounded(columns).T, rtol=1e-5, atol=1e-5)
    assert (out[:, -5:] == 7).all()


def test_what_is_done_with_products():
    @njit
    def everything(values, limit, other):
        address = values.ctypes.data
        bits = at_least(address, limit)
        return largest(address, len(values) // LANES), bits, lowest_bit(bits), multiply_exactly(address, other.ctypes.data, len(values) // LANES)

    values = np.random.default_rng(1).standard_normal(3 * LANES).astype(np.float32)
    other = np.random.default_rng(2).standard_normal(3 * LANES).astype(np.float32)
    limit = np.sort(values[:LANES])[-4]
    top, bits, lowest, product = everything(values, limit, other)
    reached = np.flatnonzero(values[:LANES] >= limit)
    assert top == values.max() and bits == sum(1 << int(place) for place in reached) and lowest == reached[0]
    assert product == pytest.approx(values.astype(np.float64) @ other, abs=1e-5)
    assert everything(-np.abs(values), np.float32(0), other)[:2] == (-np.abs(values).min(), 0)
