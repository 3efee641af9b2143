"""Products of 16 bits from products of bytes, against numpy, to the last bit."""

import numpy as np
import pytest
from numba import njit

from lurm import matrix_unit
from lurm.byte_tiles import BYTE_ROWS, SUMS_BYTES, copy_lines, join_sums, multiply_bytes, to_bytes
from lurm.matrix_unit import begin, end
from lurm.rough_tiles import LANES, SCALE, to_whole


def test_two_bytes_are_the_whole_number():
    @njit
    def both(row, whole, high, low):
        to_whole(row.ctypes.data, len(row) // LANES, whole.ctypes.data)
        to_bytes(row.ctypes.data, len(row) // LANES, high.ctypes.data, low.ctypes.data)
        return row[0], whole[0], high[0], low[0]  # which keeps them

    row = np.random.default_rng(0).uniform(-1.01, 1.01, 192).astype(np.float32)
    row[:6] = 0, 1, -1, 1 / SCALE, -1 / SCALE, np.inf
    whole, high, low = np.empty(192, np.int16), np.empty(192, np.int8), np.empty(192, np.uint8)
    both(row, whole, high, low)
    np.testing.assert_array_equal(256 * high.astype(np.int32) + low, whole)


def test_lines_are_copied():
    @njit
    def copy(numbers, n_lines, out):
        copy_lines(numbers.ctypes.data, n_lines, out.ctypes.data)
        return numbers[0], out[0]

    numbers, out = np.arange(200, dtype=np.uint8), np.zeros(200, np.uint8)
    copy(numbers, 2, out)
    assert out[:128].tolist() == list(range(128)) and not out[128:].any()


@pytest.mark.skipif(not matrix_unit.usable(), reason="this processor has no matrix unit")
@pytest.mark.parametrize("width", [64, 128, 320])
@pytest.mark.parametrize("span", [3, SCALE])
def test_a_tile_is_the_product_of_whole_numbers(width, span):
    """Modulo 2^32, as registers of 32 bits add up."""

    @njit
    def tile(rows, pack, sums, out, shape):
        begin(shape.ctypes.data)
        multiply_bytes(rows.shape[1] // 128, rows.ctypes.data, pack.ctypes.data, sums.ctypes.data)
        end(shape.ctypes.data)
        join_sums(sums.ctypes.data, out.ctypes.data, 4 * out.shape[1])
        return rows[0, 0], pack[0], sums[0], shape[0]

    rng = np.random.default_rng(1)
    rows, columns = rng.integers(-span, span + 1, (2, BYTE_ROWS, width)).astype(np.int16)
    rows[0, 0], columns[1, 0] = SCALE, -SCALE
    high, low = (rows >> 8).astype(np.uint8), (rows & 255).astype(np.uint8)
    of_columns = np.stack([(columns >> 8) & 255, columns & 255]).astype(np.uint8).reshape(2, BYTE_ROWS, width // 64, 16, 4)
    out, pack = np.full((BYTE_ROWS, 20), 7, np.int32), np.ascontiguousarray(of_columns.transpose(2, 0, 3, 1, 4)).ravel()
    tile(np.concatenate([high, low], axis=1), pack, np.empty(SUMS_BYTES, np.uint8), out, np.empty(64, np.uint8))
    expected = (rows.astype(np.int64) @ columns.T.astype(np.int64)).astype(np.int32)
    np.testing.assert_array_equal(out[:, :16], expected)
    assert (out[:, 16:] == 7).all()
