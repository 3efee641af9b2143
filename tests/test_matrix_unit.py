"""The matrix unit: products of bytes and of bfloat16, its shape given back, and a process that is not given it."""

import ctypes

import numpy as np
import pytest
import torch
from numba import njit, types
from numba.extending import intrinsic

from lurm import matrix_unit
from lurm.matrix_unit import BFLOATS, BYTE_PRODUCTS, begin, end

needs_unit = pytest.mark.skipif(not matrix_unit.usable(), reason="this processor has no matrix unit")


def product_of(kind: str):
    @intrinsic
    def product(typing, rows, columns, out):
        def code(context, builder, signature, arguments):
            rows, columns, out = arguments
            matrix_unit.zero(builder, 0)
            matrix_unit.load(builder, 1, rows)
            matrix_unit.load(builder, 2, columns)
            matrix_unit.multiply(builder, kind, 0, 1, 2)
            matrix_unit.store(builder, 0, out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), code

    @njit
    def run(rows, columns, out, shape):
        begin(shape.ctypes.data)
        product(rows.ctypes.data, columns.ctypes.data, out.ctypes.data)
        end(shape.ctypes.data)
        return rows[0, 0], columns[0, 0], out[0, 0], shape[0]  # which keeps them

    return run


@needs_unit
@pytest.mark.parametrize("signs", sorted(BYTE_PRODUCTS))
def test_products_of_bytes_are_exact(signs):
    rng, kinds = np.random.default_rng(0), [np.int8 if signed else np.uint8 for signed in signs]
    rows, columns = (rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, (16, 64)).astype(kind) for kind in kinds)
    out, shape = np.empty((16, 16), np.int32), np.full(64, 7, np.uint8)
    tile = np.ascontiguousarray(columns.reshape(16, 16, 4).transpose(1, 0, 2).reshape(16, 64))
    product_of(BYTE_PRODUCTS[signs])(rows.view(np.int8), tile.view(np.int8), out, shape)
    np.testing.assert_array_equal(out, rows.astype(np.int64) @ columns.astype(np.int64).T)
    assert not shape.any(), "the thread's registers had no shape before"


@needs_unit
def test_products_of_bfloat16():
    rows, columns = np.random.default_rng(1).integers(-8, 9, (2, 16, 32)).astype(np.float32)
    tile = columns.reshape(16, 16, 2).transpose(1, 0, 2).reshape(16, 32)
    out = np.empty((16, 16), np.float32)
    halves = [np.ascontiguousarray(part).view(np.uint32) >> 16 for part in (rows, tile)]
    product_of(BFLOATS)(*(part.astype(np.uint16) for part in halves), out, np.empty(64, np.uint8))
    np.testing.assert_array_equal(out, rows @ columns.T)


@needs_unit
def test_a_shape_that_somebody_had_is_given_back():
    """As torch's library has, which is asked first and again afterwards."""

    @njit
    def twice(outer, inner):
        begin(outer.ctypes.data)
        begin(inner.ctypes.data)
        end(inner.ctypes.data)
        end(outer.ctypes.data)
        return outer[0], inner[0]

    outer, inner = np.empty(64, np.uint8), np.empty(64, np.uint8)
    twice(outer, inner)
    assert bytes(inner) == matrix_unit.SHAPE and not outer.any()


@needs_unit
def test_torch_and_ours_take_turns():
    """Both shape the registers of one thread."""
    left, right = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(2)).bfloat16()
    before, numbers = left @ right, np.zeros((16, 32), np.uint16)
    product_of(BFLOATS)(numbers, numbers, np.empty((16, 16), np.float32), np.empty(64, np.uint8))
    assert torch.equal(left @ right, before)


@pytest.mark.parametrize(("platform", "answer", "there"), [("linux", -1, True), ("darwin", 0, True), ("linux", 0, False)])
def test_it_may_be_refused(platform, answer, there, monkeypatch):
    """By a system that does not know it, by one that says no; and where there is none nobody is asked."""

    class Refusing:
        def syscall(self, *_):
            return answer

    matrix_unit.usable.cache_clear()
    monkeypatch.setattr(matrix_unit, "THERE", there)
    monkeypatch.setattr(matrix_unit.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing())
    try:
        assert not matrix_unit.usable()
    finally:
        matrix_unit.usable.cache_clear()
