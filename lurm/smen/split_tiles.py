"""Products of float32 on a processor's matrix unit, which multiplies bfloat16: each number is the sum of two of those.

x = high + low to 2^-16 of x, and x y = high high + low high + high low to three times that; all is added up in float32. So a product of H numbers
is off by at most 3 x 2^-16 of the sum of its absolute products, beside the rounding of a float32 sum; errors of both signs nearly cancel. The unit
makes these three products several times as quickly as the processor's other registers make the one.

SPLIT_ROWS rows and SPLIT_COLUMNS columns are taken at a time, two tiles of `lurm.matrix_unit` each. For every BLOCK numbers lie the high parts of the
first and second tile, then their low ones, of rows as of columns. The sums are in the first four tiles of the thread, and stay there from one call
to the next.

All arguments are int64, addresses among them.
"""

from itertools import islice

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lurm import matrix_unit
from lurm.matrix_unit import BFLOATS, ROW_BYTES, TILE_BYTES
from lurm.vector_code import I32, I64, VECTOR, WHOLE, load, pointer, prefetch, repeat

SPLIT_ROWS, SPLIT_COLUMNS, BLOCK = 2 * matrix_unit.ROWS, 2 * matrix_unit.ROWS, 32
BLOCK_BYTES, LOW_BYTES = 4 * TILE_BYTES, 2 * TILE_BYTES  # of a block, and how far its low parts are from the high ones
HIGH, LOW = 0, 1
ORDER = ((LOW, HIGH, (0, 1, 2, 3)), (HIGH, HIGH, (0, 1, 2, 3)), (HIGH, LOW, (0, 2, 1, 3)))  # parts of rows and columns, sums: eight loads
ROW_TILES, COLUMN_TILES = (4, 5), (6, 7)  # the sums are 0 to 3
LINES_A_PRODUCT = 6
PAIRS, HALVES = ir.VectorType(I32, 2 * WHOLE.count), ir.VectorType(ir.IntType(16), 2 * WHOLE.count)


@intrinsic
def split_block(typing, numbers, high, low):
    """BLOCK numbers, float32, as high and low parts of 16 bits each, rounded to the nearest."""

    def code(context, builder, signature, arguments):
        numbers, high, low = arguments
        values = [load(builder, numbers, 4 * VECTOR.count * part) for part in range(BLOCK // VECTOR.count)]
        rounded = [_rounded(builder, value) for value in values]
        highs = [builder.bitcast(builder.and_(bits, ir.Constant(WHOLE, [-(2**16)] * WHOLE.count)), VECTOR) for bits in rounded]
        rests = [_rounded(builder, builder.fsub(value, of_high)) for value, of_high in zip(values, highs, strict=True)]
        upper = ir.Constant(PAIRS, list(range(1, 2 * HALVES.count, 2)))
        for parts, address in ((rounded, high), (rests, low)):
            for part in range(0, len(parts), 2):
                halves = builder.shuffle_vector(*(builder.bitcast(bits, HALVES) for bits in parts[part : part + 2]), upper)
                builder.store(halves, pointer(builder, address, 2 * VECTOR.count * part, HALVES), align=2)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def clear_sums(typing):
    """Set the sums to zero."""

    def code(context, builder, signature, arguments):
        if matrix_unit.THERE:
            for sums in range(4):
                matrix_unit.zero(builder, sums)
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def add_product(typing, n_blocks, rows, columns):
    """Add to them rows @ columns, of n_blocks (1 or more) times BLOCK numbers; asks for the block of columns that lies after these."""

    def code(context, builder, signature, arguments):
        n_blocks, rows, columns = arguments

        def step(block, values):
            of_block = builder.mul(block, ir.Constant(I64, BLOCK_BYTES))
            _add_block(builder, builder.add(rows, of_block), builder.add(columns, of_block))
            return values

        if matrix_unit.THERE:
            repeat(builder, n_blocks, [], step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def store_sums(typing, out, out_bytes):
    """The sums, (SPLIT_ROWS, SPLIT_COLUMNS) float32, to rows that are out_bytes apart."""

    def code(context, builder, signature, arguments):
        if matrix_unit.THERE:
            out, out_bytes = arguments
            for sums in range(4):
                rows = builder.add(out, builder.mul(out_bytes, ir.Constant(I64, matrix_unit.ROWS * (sums // 2))))
                matrix_unit.store(builder, sums, _moved(builder, rows, ROW_BYTES * (sums % 2)), out_bytes)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


def _rounded(builder, value):
    return builder.add(builder.bitcast(value, WHOLE), ir.Constant(WHOLE, [2**15] * WHOLE.count))


def _moved(builder, address, n_bytes: int):
    return builder.add(address, ir.Constant(I64, n_bytes)) if n_bytes else address


def _add_block(builder, rows, columns) -> None:
    held, lines = {}, iter(range(0, BLOCK_BYTES, ROW_BYTES))
    for rows_part, columns_part, order in ORDER:
        for sums in order:
            of_rows, of_columns = ROW_TILES[sums // 2], COLUMN_TILES[sums % 2]
            for tile, part, number, address in ((of_rows, rows_part, sums // 2, rows), (of_columns, columns_part, sums % 2, columns)):
                if held.get(tile) != part:
                    matrix_unit.load(builder, tile, _moved(builder, address, part * LOW_BYTES + number * TILE_BYTES))
                    held[tile] = part
            matrix_unit.multiply(builder, BFLOATS, sums, of_rows, of_columns)
            for line in islice(lines, LINES_A_PRODUCT):  # columns come from the second cache, twice as quickly when they are asked for
                prefetch(builder, _moved(builder, columns, BLOCK_BYTES + line))
