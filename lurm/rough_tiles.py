"""The inner loops of a search among many vectors, in registers: rough products of a few rows with many columns, and what is done with them.

Rough are products of bfloat16, float32 without its last 16 bits: a processor with AVX-512 BF16 multiplies two of them and adds both in one
instruction for every number of a sum. Others do the same in two steps of float32, as quick as in float32.

A *column* is a vector that rows are multiplied with. Columns lie in packs of LANES = 16: the first two numbers of all sixteen, the next two, and so
on, so that one instruction reads what it needs; a pack of width d is 32 d bytes, at an address that is a multiple of 64. A row lies in one piece.

All arguments are int64, addresses among them, unless told otherwise.
"""

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lurm.vector_code import FLOAT, I32, I64, choose, multiply_add, pointer, repeat, spread

ROWS, PACKS, LANES = 8, 3, 16  # of a tile: 24 sums of 16 columns each, in 32 registers
ONE_STEP = bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))
SUMS, PAIRS = ir.VectorType(FLOAT, LANES), ir.VectorType(I32, LANES)
NOTHING = ir.Constant(SUMS, [0.0] * LANES)
UPPER_HALF = ir.Constant(PAIRS, [-65_536] * LANES)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


@intrinsic
def multiply(typing, n_packs, rows, packs, n_pairs, out, out_bytes):
    """out[r, c] = sum of row r times column c, rough, for ROWS rows and the columns of n_packs packs (1 to PACKS), float32.

    `rows` is where ROWS addresses of rows lie; n_pairs is half of the width; rows of out are out_bytes apart.
    """

    def code(context, builder, signature, arguments):
        choose(builder, arguments[0], range(1, PACKS + 1), lambda n_packs: _tile(builder, n_packs, *arguments[1:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), code


@intrinsic
def largest(typing, address, n_packs):
    """The largest of n_packs (1 or more) times LANES numbers, float32."""

    def code(context, builder, signature, arguments):
        address, n_packs = arguments

        def larger(one, other):
            return builder.select(builder.fcmp_ordered(">", one, other), one, other)

        def step(place, found):
            return [larger(_at(builder, address, place), found[0])]

        return _across(builder, *repeat(builder, n_packs, [_at(builder, address, ir.Constant(I64, 0))], step), larger)

    return types.float32(types.int64, types.int64), code


@intrinsic
def at_least(typing, address, limit):
    """Which of LANES numbers are `limit` (float32) or more: a bit for each, the first the lowest."""

    def code(context, builder, signature, arguments):
        found = builder.fcmp_ordered(">=", _at(builder, arguments[0], ir.Constant(I64, 0)), spread(builder, arguments[1], SUMS))
        return builder.zext(builder.bitcast(found, ir.IntType(LANES)), I64)

    return types.int64(types.int64, types.float32), code


@intrinsic
def lowest_bit(typing, bits):
    """The number of the lowest bit that is set, of some."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), code


@intrinsic
def multiply_exactly(typing, row, column, n_parts):
    """The product of two vectors of n_parts times LANES numbers, float32: LANES chains of fused multiply-adds, added in pairs."""

    def code(context, builder, signature, arguments):
        row, column, n_parts = arguments

        def step(place, sums):
            return [multiply_add(builder, _at(builder, row, place), _at(builder, column, place), sums[0])]

        return _across(builder, *repeat(builder, n_parts, [NOTHING], step), builder.fadd)

    return types.float32(types.int64, types.int64, types.int64), code


def _tile(builder, n_packs, rows, packs, n_pairs, out, out_bytes) -> None:
    own = [builder.load(pointer(builder, rows, 8 * row, I64), align=8) for row in range(ROWS)]
    own_packs = [builder.add(packs, builder.mul(n_pairs, ir.Constant(I64, 64 * pack))) for pack in range(n_packs)]

    def add_pair(pair, sums):
        in_row, in_pack, added = builder.mul(pair, ir.Constant(I64, 4)), builder.mul(pair, ir.Constant(I64, 64)), []
        columns = [_operand(builder, builder.load(pointer(builder, builder.add(pack, in_pack), kind=PAIRS), align=64)) for pack in own_packs]
        for row in range(ROWS):
            two = builder.load(pointer(builder, builder.add(own[row], in_row), kind=I32), align=4)
            operand = _operand(builder, spread(builder, two, PAIRS))
            added += [_add_products(builder, sums[row * n_packs + pack], operand, columns[pack]) for pack in range(n_packs)]
        return added

    added = repeat(builder, n_pairs, [NOTHING] * (ROWS * n_packs), add_pair)
    for number, total in enumerate(added):
        place = builder.add(out, builder.mul(out_bytes, ir.Constant(I64, number // n_packs)))
        builder.store(total, pointer(builder, place, 4 * LANES * (number % n_packs), SUMS), align=4)


def _operand(builder, pairs):
    """What _add_products takes of LANES pairs of bfloat16."""
    if ONE_STEP:
        return builder.bitcast(pairs, ir.VectorType(_BFloat(), 2 * LANES))
    upper = builder.bitcast(builder.and_(pairs, UPPER_HALF), SUMS)
    return builder.bitcast(builder.shl(pairs, ir.Constant(PAIRS, [16] * LANES)), SUMS), upper


def _add_products(builder, sums, left, right):
    """sums + left[0] * right[0] + left[1] * right[1], in every lane."""
    if not ONE_STEP:
        return multiply_add(builder, left[1], right[1], multiply_add(builder, left[0], right[0], sums))
    kind = ir.FunctionType(SUMS, [SUMS, left.type, right.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512"), [sums, left, right])


def _across(builder, values, join):
    """One number of LANES: halves joined, and their halves."""
    for apart in (8, 4, 2, 1):
        turned = ir.Constant(PAIRS, [(lane + apart) % LANES for lane in range(LANES)])
        values = join(values, builder.shuffle_vector(values, ir.Constant(SUMS, ir.Undefined), turned))
    return builder.extract_element(values, ir.Constant(I32, 0))


def _at(builder, address, place):
    return builder.load(pointer(builder, builder.add(address, builder.mul(place, ir.Constant(I64, 4 * LANES))), kind=SUMS), align=4)
