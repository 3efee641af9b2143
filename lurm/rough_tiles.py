"""The inner loops of a search among many vectors, in registers: rough products of a few rows with many columns, and what is done with them.

Rough are products of whole numbers of 16 bits: a vector of length 1, times SCALE and rounded. One instruction multiplies two pairs of them and adds
both products, for every column of a register (`vpmaddwd`; with AVX-512 VNNI it adds them to the sum too), where float32 needs two of half the
length. Sums of whole numbers are exact, so every processor finds the same.

A *column* is a vector that rows are multiplied with. Columns lie in packs of LANES: the first two numbers of each, the next two, and so on, so that
one instruction reads what it needs; a pack of width d is 2 d LANES bytes, at an address that is a multiple of 64. A row lies in one piece.

All arguments are int64, addresses among them, unless told otherwise.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lurm.vector_code import FLOAT, I32, I64, LANES, ROUNDER, WHOLE, WIDE, choose, constant, load, multiply_add, pointer, repeat, spread

SCALE = 32_767  # the largest whole number of 16 bits: products of vectors of length 1 stay below 2^30
ROWS, PACKS = (8, 3) if WIDE else (6, 2)  # of a tile: 24 sums of LANES columns each in 32 registers, 12 in 16
FOUR_PACKS = 4 * LANES
EXACT_LANES = 16  # sums of an exact product, on every processor
SUMS = ir.VectorType(FLOAT, EXACT_LANES)
HALF = ir.IntType(16)
HALVES = ir.VectorType(HALF, 2 * LANES)
MULTIPLY_PAIRS = "llvm.x86.avx512.pmaddw.d.512" if WIDE else "llvm.x86.avx2.pmadd.wd"


@intrinsic
def to_whole(typing, row, n_parts, out):
    """The row's n_parts times LANES numbers, float32, as rough products take them: times SCALE, rounded, no further from zero than SCALE; 16 bits."""

    def code(context, builder, signature, arguments):
        row, n_parts, out = arguments

        def step(place, values):
            to = pointer(builder, builder.add(out, builder.mul(place, ir.Constant(I64, 2 * LANES))), kind=ir.VectorType(HALF, LANES))
            builder.store(builder.trunc(scaled(builder, row, place), ir.VectorType(HALF, LANES)), to, align=2)
            return values

        repeat(builder, n_parts, [], step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def multiply(typing, n_packs, rows, packs, n_pairs, out, out_bytes):
    """out[r, c] = sum of row r times column c, int32, for ROWS rows and the columns of n_packs packs (1 to PACKS).

    `rows` is where ROWS addresses of rows lie; n_pairs is half of the width; rows of out are out_bytes apart.
    """

    def code(context, builder, signature, arguments):
        choose(builder, arguments[0], range(1, PACKS + 1), lambda n_packs: _tile(builder, n_packs, *arguments[1:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), code


@intrinsic
def largest(typing, address, n_packs):
    """The largest of n_packs (1 or more) times LANES numbers, int32."""

    def code(context, builder, signature, arguments):
        address, n_packs = arguments

        def larger(one, other):
            return builder.select(builder.icmp_signed(">", one, other), one, other)

        def step(place, found):
            return [larger(_at(builder, address, place, WHOLE), found[0])]

        found = repeat(builder, n_packs, [_at(builder, address, ir.Constant(I64, 0), WHOLE)], step)
        return builder.sext(_across(builder, *found, larger), I64)

    return types.int64(types.int64, types.int64), code


@intrinsic
def at_least(typing, address, limit):
    """Which of LANES numbers, int32, are `limit` (of 32 bits too) or more: a bit for each, the first the lowest."""
    return types.int64(types.int64, types.int64), _compare(LANES)


@intrinsic
def four_at_least(typing, address, limit):
    """The same of FOUR_PACKS numbers, which are looked at together."""
    return types.int64(types.int64, types.int64), _compare(FOUR_PACKS)


def _compare(n: int):
    def code(context, builder, signature, arguments):
        kind = ir.VectorType(I32, n)
        limit = spread(builder, builder.trunc(arguments[1], I32), kind)
        found = builder.bitcast(builder.icmp_signed(">=", load(builder, arguments[0], kind=kind), limit), ir.IntType(n))
        return found if n == 64 else builder.zext(found, I64)

    return code


@intrinsic
def lowest_bit(typing, bits):
    """The number of the lowest bit that is set, of some."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), code


@intrinsic
def multiply_exactly(typing, row, column, n_parts):
    """The product of two vectors of n_parts times EXACT_LANES numbers, float32: that many chains of fused multiply-adds, added in pairs."""

    def code(context, builder, signature, arguments):
        row, column, n_parts = arguments

        def step(place, sums):
            return [multiply_add(builder, _at(builder, row, place, SUMS), _at(builder, column, place, SUMS), sums[0])]

        nothing = ir.Constant(SUMS, [0.0] * EXACT_LANES)
        return _across(builder, *repeat(builder, n_parts, [nothing], step), builder.fadd)

    return types.float32(types.int64, types.int64, types.int64), code


def scaled(builder, row, place):
    """A row's part number `place` of LANES numbers as whole ones, in the lower 16 bits of 32."""
    value = builder.fmul(load(builder, builder.add(row, builder.mul(place, ir.Constant(I64, 4 * LANES)))), constant(float(SCALE)))
    for bound, sign in ((float(SCALE), ">"), (float(-SCALE), "<")):
        value = builder.select(builder.fcmp_ordered(sign, value, constant(bound)), constant(bound), value)
    return builder.bitcast(builder.fadd(value, constant(ROUNDER)), WHOLE)


def _tile(builder, n_packs, rows, packs, n_pairs, out, out_bytes) -> None:
    own = [builder.load(pointer(builder, rows, 8 * row, I64), align=8) for row in range(ROWS)]
    own_packs = [builder.add(packs, builder.mul(n_pairs, ir.Constant(I64, 4 * LANES * pack))) for pack in range(n_packs)]
    kind = ir.FunctionType(WHOLE, [HALVES, HALVES])
    multiply_pairs = cgutils.get_or_insert_function(builder.module, kind, MULTIPLY_PAIRS)

    def add_pair(pair, sums):
        in_row, in_pack, added = builder.mul(pair, ir.Constant(I64, 4)), builder.mul(pair, ir.Constant(I64, 4 * LANES)), []
        columns = [builder.load(pointer(builder, builder.add(pack, in_pack), kind=HALVES), align=4 * LANES) for pack in own_packs]
        for row in range(ROWS):
            two = builder.load(pointer(builder, builder.add(own[row], in_row), kind=I32), align=4)
            of_row = builder.bitcast(spread(builder, two, WHOLE), HALVES)
            products = [builder.call(multiply_pairs, [of_row, columns[pack]]) for pack in range(n_packs)]
            added += [builder.add(sums[row * n_packs + pack], products[pack]) for pack in range(n_packs)]
        return added

    nothing = ir.Constant(WHOLE, [0] * LANES)
    for number, total in enumerate(repeat(builder, n_pairs, [nothing] * (ROWS * n_packs), add_pair)):
        place = builder.add(out, builder.mul(out_bytes, ir.Constant(I64, number // n_packs)))
        builder.store(total, pointer(builder, place, 4 * LANES * (number % n_packs), WHOLE), align=4)


def _across(builder, values, join):
    """One number of all lanes: halves joined, and their halves."""
    n_lanes = values.type.count
    apart = n_lanes // 2
    while apart:
        turned = ir.Constant(ir.VectorType(I32, n_lanes), [(lane + apart) % n_lanes for lane in range(n_lanes)])
        values = join(values, builder.shuffle_vector(values, ir.Constant(values.type, ir.Undefined), turned))
        apart //= 2
    return builder.extract_element(values, ir.Constant(I32, 0))


def _at(builder, address, place, kind):
    return builder.load(pointer(builder, builder.add(address, builder.mul(place, ir.Constant(I64, 4 * kind.count))), kind=kind), align=4)
