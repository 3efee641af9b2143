"""Rough products on a processor's matrix unit: a whole number of 16 bits is 256 times its high byte and its low one.

x y = 65,536 high high + 256 (low high + high low) + low low, where high bytes have a sign and low ones none. The unit makes products of bytes; their
three sums come together as one of 32 bits, so what comes out is what `lurm.rough_tiles` finds, to the last bit.

Rows and columns are taken BYTE_ROWS at a time, and their width is a multiple of BLOCK. A row is its high bytes, then its low ones; of a pack of
columns lie a tile of high bytes and one of low ones for every BLOCK numbers (`lurm.matrix_unit`).

All arguments are int64, addresses among them.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lurm import matrix_unit
from lurm.matrix_unit import BYTE_PRODUCTS, ROW_BYTES, TILE_BYTES
from lurm.rough_tiles import scaled
from lurm.vector_code import I64, LANES, WHOLE, load, pointer, repeat

BYTE_ROWS, BLOCK = matrix_unit.ROWS, ROW_BYTES
BLOCK_BYTES, SUMS_BYTES = 2 * TILE_BYTES, 3 * TILE_BYTES
HIGH_HIGH, MIXED, LOW_LOW = range(3)  # tiles of sums
PRODUCTS = ((HIGH_HIGH, 4, 6, (True, True)), (MIXED, 5, 6, (False, True)), (MIXED, 4, 7, (True, False)), (LOW_LOW, 5, 7, (False, False)))
LINE, BYTES_OF_NUMBERS = ir.VectorType(ir.IntType(32), 16), ir.VectorType(ir.IntType(8), LANES)


@intrinsic
def to_bytes(typing, row, n_parts, high, low):
    """The row's n_parts times LANES numbers, float32, as `lurm.rough_tiles.to_whole` makes them, in bytes."""

    def code(context, builder, signature, arguments):
        row, n_parts, high, low = arguments

        def step(place, values):
            number = scaled(builder, row, place)
            for address, bits in ((low, number), (high, builder.lshr(number, ir.Constant(WHOLE, [8] * LANES)))):
                to = pointer(builder, builder.add(address, builder.mul(place, ir.Constant(I64, LANES))), kind=BYTES_OF_NUMBERS)
                builder.store(builder.trunc(bits, BYTES_OF_NUMBERS), to, align=1)
            return values

        repeat(builder, n_parts, [], step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


@intrinsic
def copy_lines(typing, address, n_lines, out):
    """n_lines (1 or more) times 64 bytes."""

    def code(context, builder, signature, arguments):
        def step(line, values):
            source, to = (builder.add(arguments[side], builder.mul(line, ir.Constant(I64, ROW_BYTES))) for side in (0, 2))
            builder.store(load(builder, source, kind=LINE), pointer(builder, to, kind=LINE), align=4)
            return values

        repeat(builder, arguments[1], [], step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def multiply_bytes(typing, n_blocks, rows, pack, sums):
    """The three sums of BYTE_ROWS rows, which lie side by side, and a pack of columns, of n_blocks times BLOCK numbers; SUMS_BYTES at `sums`."""

    def code(context, builder, signature, arguments):
        n_blocks, rows, pack, sums = arguments
        side = builder.mul(n_blocks, ir.Constant(I64, BLOCK))

        def add_block(block, values):
            in_rows = builder.add(rows, builder.mul(block, ir.Constant(I64, BLOCK)))
            in_pack = builder.add(pack, builder.mul(block, ir.Constant(I64, BLOCK_BYTES)))
            row_bytes = builder.add(side, side)
            matrix_unit.load(builder, 4, in_rows, row_bytes)
            matrix_unit.load(builder, 6, in_pack)
            matrix_unit.load(builder, 5, builder.add(in_rows, side), row_bytes)
            matrix_unit.load(builder, 7, builder.add(in_pack, ir.Constant(I64, TILE_BYTES)))
            for to, of_rows, of_columns, signs in PRODUCTS:
                matrix_unit.multiply(builder, BYTE_PRODUCTS[signs], to, of_rows, of_columns)
            return values

        if matrix_unit.THERE:
            for number in (HIGH_HIGH, MIXED, LOW_LOW):
                matrix_unit.zero(builder, number)
            repeat(builder, n_blocks, [], add_block)
            for number in (HIGH_HIGH, MIXED, LOW_LOW):
                matrix_unit.store(builder, number, builder.add(sums, ir.Constant(I64, number * TILE_BYTES)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


@intrinsic
def join_sums(typing, sums, out, out_bytes):
    """Products, int32, from their three sums: BYTE_ROWS rows of 16, out_bytes apart."""

    def code(context, builder, signature, arguments):
        sums, out, out_bytes = arguments
        for row in range(BYTE_ROWS):
            high_high, mixed, low_low = (load(builder, sums, number * TILE_BYTES + row * ROW_BYTES, LINE) for number in (HIGH_HIGH, MIXED, LOW_LOW))
            raised = builder.shl(builder.add(builder.shl(high_high, ir.Constant(LINE, [8] * 16)), mixed), ir.Constant(LINE, [8] * 16))
            place = builder.add(out, builder.mul(out_bytes, ir.Constant(I64, row)))
            builder.store(builder.add(raised, low_low), pointer(builder, place, kind=LINE), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code
