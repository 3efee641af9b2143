"""The matrix unit of a processor (Intel's AMX, from Sapphire Rapids on), for loops that numba compiles: products of tiles in registers of its own.

A tile is 16 rows of 64 bytes, eight of them are registers. `multiply` adds to a tile of 16 x 16 sums the product of 16 rows and 16 columns, of
32 numbers of bfloat16 each or of 64 bytes. A tile of rows holds a row in a row; one of columns holds in its row i what the i-th four bytes of a row
are multiplied with, of all 16 columns.

The registers are of a thread, and have to be given their shape first: `begin`, which a loop calls before it touches one, and `end`, which leaves the
shape as it was found (torch's library has its own). Tile registers are named by number, and nothing keeps them for anybody: what is in them is
lost between two loops. Linux gives the unit to a process that asks for it, which `usable` does.

Helpers that take a `builder` are for writing other loops (`lurm.vector_code` says how); addresses are int64.
"""

import ctypes
import sys
from functools import cache

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lurm.vector_code import BYTES, I64, WIDE

THERE = WIDE and all(llvmlite.binding.get_host_cpu_features().get(name) for name in ("amx-tile", "amx-bf16", "amx-int8"))
ROWS, ROW_BYTES = 16, 64
TILE_BYTES = ROWS * ROW_BYTES
BFLOATS = "tdpbf16ps"
BYTE_PRODUCTS = {(True, True): "tdpbssd", (True, False): "tdpbsud", (False, True): "tdpbusd", (False, False): "tdpbuud"}  # rows, columns signed
I8 = ir.IntType(8)
SYSTEM_CALL, ASK, TILE_DATA = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
SHAPE = bytes([1, *[0] * 15, *[ROW_BYTES, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8])  # of all eight: palette, bytes of a row, rows


@cache
def usable() -> bool:
    """Whether this process may use a matrix unit; asks the system for it."""
    if not THERE or not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(SYSTEM_CALL, ASK, TILE_DATA) == 0


@intrinsic
def begin(typing, room):
    """Give the thread's tile registers their shape; what they had before is kept in the 64 bytes of `room`."""

    def code(context, builder, signature, arguments):
        if THERE:
            shape = cgutils.global_constant(builder, "lurm_tile_shape", cgutils.make_bytearray(SHAPE))
            _call(builder, "sttilecfg", builder.inttoptr(arguments[0], BYTES))
            _call(builder, "ldtilecfg", builder.bitcast(shape, BYTES))
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def end(typing, room):
    """Give them back the shape that `begin` left in `room`."""

    def code(context, builder, signature, arguments):
        if THERE:
            _call(builder, "ldtilecfg", builder.inttoptr(arguments[0], BYTES))
        return context.get_dummy_value()

    return types.void(types.int64), code


def zero(builder, tile: int) -> None:
    _call(builder, "tilezero", ir.Constant(I8, tile))


def load(builder, tile: int, address, row_bytes: int | ir.Value = ROW_BYTES) -> None:
    """From rows that are row_bytes apart."""
    _call(builder, "tileloadd64", ir.Constant(I8, tile), builder.inttoptr(address, BYTES), _long(row_bytes))


def store(builder, tile: int, address, row_bytes: int | ir.Value = ROW_BYTES) -> None:
    _call(builder, "tilestored64", ir.Constant(I8, tile), builder.inttoptr(address, BYTES), _long(row_bytes))


def multiply(builder, kind: str, sums: int, rows: int, columns: int) -> None:
    """Add to the tile `sums` (float32 for BFLOATS, else int32) the product of two others; float32 sums take numbers below 2^-126 for 0."""
    _call(builder, kind, *(ir.Constant(I8, tile) for tile in (sums, rows, columns)))


def _long(number: int | ir.Value):
    return ir.Constant(I64, number) if isinstance(number, int) else number


def _call(builder, name: str, *arguments) -> None:
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)
