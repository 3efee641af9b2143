"""The inner loops of SMEN on a processor, in registers: sums of weighted rows (equation 5) and the gates of a GRU.

A loop in Python's words, compiled by numba, keeps its sums in memory, and a store for every addition is what it waits for. These are
written in LLVM's own vectors (`lurm.vector_code`): a number of We is read once for all anchors, and nothing is written before the end.

All arguments are int64: numbers, and addresses of float32 numbers unless told otherwise. A sum is a chain of fused multiply-adds in the
order of the cells, whatever the tile: a result depends on its own cells alone.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lurm.vector_code import (
    FLOAT,
    I32,
    I64,
    LANES,
    VECTOR,
    WIDE,
    choose,
    constant,
    load,
    multiply_add,
    not_below_zero,
    pointer,
    repeat,
    sigmoid,
    spread,
    tanh,
)

ANCHORS, VECTORS = (10, 2) if WIDE else (5, 2)  # of a tile: 20 sums in 32 registers, 10 in 16
ROWS, PACKS = (8, 3) if WIDE else (4, 2)  # of a tile of a product: 24 sums, 8


@intrinsic
def add_rows(typing, n_anchors, n_vectors, n_cells, ids, table, row_bytes, weights, weight_bytes, out, out_bytes, past_cache):
    """One tile of out[i, c] = ReLU(sum over cells j of weights[j, i] * table[ids[j], c]): n_anchors (1 to ANCHORS), n_vectors (1 or VECTORS)
    times LANES columns, n_cells (1 or more).

    ids (n_cells,) int64; table, weights and out begin at the tile's first column, weight and sum; rows, weights of a cell, and sums of an anchor
    are row_bytes, weight_bytes and out_bytes apart. With past_cache (1) the sums go to memory and leave the cache to others; `out` must be a
    multiple of the size of a vector then.
    """

    def code(context, builder, signature, arguments):
        key = builder.add(builder.mul(arguments[0], ir.Constant(I64, VECTORS + 1)), arguments[1])
        keys = [anchors * (VECTORS + 1) + vectors for anchors in range(1, ANCHORS + 1) for vectors in sorted({1, VECTORS})]
        choose(builder, key, keys, lambda key: _tile(builder, *divmod(key, VECTORS + 1), *arguments[2:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), code


@intrinsic
def multiply_rows(typing, n_packs, n_numbers, rows, row_bytes, packs, out, out_bytes):
    """One tile of out = rows @ weight: ROWS rows of n_numbers numbers, n_packs (1 to PACKS) times LANES columns.

    Columns lie in packs of LANES, (n_numbers, LANES) each, one after the other from `packs` on; rows are row_bytes apart, rows of out out_bytes.
    """

    def code(context, builder, signature, arguments):
        choose(builder, arguments[0], range(1, PACKS + 1), lambda n_packs: _tile_of_product(builder, n_packs, *arguments[1:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), code


@intrinsic
def gate_row(typing, n_vectors, part_bytes, of_input, of_state, bias, state, gates, proposed, previous):
    """n_vectors (1 or more) times LANES numbers of a sequence through the gates; `state` becomes the state after the step.

    of_input and of_state: the products of input and state with their weights, as reset, update, candidate; bias: of reset, of update, of the
    candidate, of the state's part in it. All parts are part_bytes apart. Where `gates` is not 0 a backward pass is to come: reset, update and
    candidate, as far apart, the state's part of the candidate and the state before are written to the last three.
    """

    def code(context, builder, signature, arguments):
        n_vectors, part_bytes, of_input, of_state, *others = arguments

        def sums(column, kind):
            def at(address, part):
                return load(builder, _part(builder, builder.add(address, column), part_bytes, part), kind=kind)

            both = (builder.fadd(at(of_input, part), at(of_state, part)) for part in range(2))
            return *both, at(of_input, 2), at(of_state, 2)

        _through_gates(builder, n_vectors, sums, part_bytes, *others)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), code


@intrinsic
def gate_sums(typing, n_vectors, sum_bytes, part_bytes, sums, bias, state, gates, proposed, previous):
    """The same from sums, sum_bytes apart: of input and state for reset and for update, of the input for the candidate, of the state for it."""

    def code(context, builder, signature, arguments):
        n_vectors, sum_bytes, part_bytes, sums, *others = arguments

        def of_column(column, kind):
            return [load(builder, _part(builder, builder.add(sums, column), sum_bytes, part), kind=kind) for part in range(4)]

        _through_gates(builder, n_vectors, of_column, part_bytes, *others)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), code


@intrinsic
def gate_gradient_row(typing, n_vectors, d_state, gates, proposed, previous, parts):
    """The way back through `gate_row`: d_state (H) is the gradient of the state after the step, and becomes what of it goes straight to the state
    before; parts (4H) takes the gradients of candidate, reset, update and the state's part of the candidate."""

    def code(context, builder, signature, arguments):
        n_vectors, d_state, gates, proposed, previous, parts = arguments
        width, one = builder.mul(n_vectors, ir.Constant(I64, 4 * LANES)), constant(1.0)
        with cgutils.for_range(builder, n_vectors, intp=I64) as loop:
            column = builder.mul(loop.index, ir.Constant(I64, 4 * LANES))

            def place(address, part=0):
                return builder.add(builder.add(address, column), builder.mul(width, ir.Constant(I64, part)))

            def product(*factors):
                result = factors[0]
                for factor in factors[1:]:
                    result = builder.fmul(result, factor)
                return result

            d = load(builder, place(d_state))
            reset, update, candidate = (load(builder, place(gates, part)) for part in range(3))
            of_candidate, before = load(builder, place(proposed)), load(builder, place(previous))
            squared = builder.fsub(one, product(candidate, candidate))
            d_candidate = product(d, builder.fsub(one, update), squared)
            d_reset = product(d_candidate, of_candidate, reset, builder.fsub(one, reset))
            d_update = product(d, builder.fsub(before, candidate), update, builder.fsub(one, update))
            written = (d_candidate, d_reset, d_update, product(d_candidate, reset))
            for part, value in enumerate(written):
                builder.store(value, pointer(builder, place(parts, part)), align=4)
            builder.store(product(d, update), pointer(builder, place(d_state)), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), code


def _part(builder, address, part_bytes, part: int):
    return builder.add(address, builder.mul(part_bytes, ir.Constant(I64, part))) if part else address


def _through_gates(builder, n_vectors, sums, part_bytes, bias, state, gates, proposed, previous) -> None:
    """sums(column, kind) are those of reset, of update, and the input's and the state's for the candidate, `column` bytes after the first.

    Two vectors at a time, because one alone is a long chain of steps that wait for each other.
    """
    pairs, lanes = builder.sdiv(n_vectors, ir.Constant(I64, 2)), ir.Constant(I64, 4 * LANES)
    keep = builder.icmp_signed("!=", gates, ir.Constant(I64, 0))

    def through(column, kind) -> None:
        biases = [load(builder, _part(builder, builder.add(bias, column), part_bytes, part), kind=kind) for part in range(4)]
        summed = [builder.fadd(value, of_bias) for value, of_bias in zip(sums(column, kind), biases, strict=True)]
        reset, update = (sigmoid(builder, value) for value in summed[:2])
        before = load(builder, builder.add(state, column), kind=kind)
        candidate = tanh(builder, multiply_add(builder, reset, summed[3], summed[2]))
        with builder.if_then(keep):
            kept = ((reset, gates, 0), (update, gates, 1), (candidate, gates, 2), (summed[3], proposed, 0), (before, previous, 0))
            for value, address, part in kept:
                builder.store(value, pointer(builder, _part(builder, builder.add(address, column), part_bytes, part), kind=kind), align=4)
        after = multiply_add(builder, update, builder.fsub(before, candidate), candidate)
        builder.store(after, pointer(builder, builder.add(state, column), kind=kind), align=4)

    with cgutils.for_range(builder, pairs, intp=I64) as loop:
        through(builder.mul(loop.index, builder.add(lanes, lanes)), ir.VectorType(FLOAT, 2 * LANES))
    done = builder.mul(pairs, ir.Constant(I64, 2))
    with builder.if_then(builder.icmp_signed("<", done, n_vectors)):
        through(builder.mul(done, lanes), VECTOR)


def _tile(builder, n_anchors, n_vectors, n_cells, ids, table, row_bytes, weights, weight_bytes, out, out_bytes, past_cache) -> None:
    def add_cell(cell, sums):
        row = load(builder, builder.add(ids, builder.mul(cell, ir.Constant(I64, 8))), kind=I64)
        row, weight = builder.add(table, builder.mul(row, row_bytes)), builder.add(weights, builder.mul(cell, weight_bytes))
        numbers, added = [load(builder, row, 4 * LANES * vector) for vector in range(n_vectors)], []
        for anchor in range(n_anchors):
            factor = spread(builder, load(builder, weight, 4 * anchor, FLOAT))
            added += [multiply_add(builder, factor, numbers[vector], sums[anchor * n_vectors + vector]) for vector in range(n_vectors)]
        return added

    added = repeat(builder, n_cells, [constant(0.0)] * (n_anchors * n_vectors), add_cell)
    kept = [not_below_zero(builder, total) for total in added]
    with builder.if_else(builder.icmp_signed("==", past_cache, ir.Constant(I64, 0))) as branches:
        for branch, straight in zip(branches, (False, True), strict=True):
            with branch:
                for number, total in enumerate(kept):
                    place = builder.add(out, builder.mul(out_bytes, ir.Constant(I64, number // n_vectors)))
                    written = builder.store(total, pointer(builder, place, 4 * LANES * (number % n_vectors)), align=4 * LANES if straight else 4)
                    if straight:
                        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def _tile_of_product(builder, n_packs, n_numbers, rows, row_bytes, packs, out, out_bytes) -> None:
    own_rows = [builder.add(rows, builder.mul(row_bytes, ir.Constant(I64, row))) for row in range(ROWS)]
    own_packs = [builder.add(packs, builder.mul(n_numbers, ir.Constant(I64, 4 * LANES * pack))) for pack in range(n_packs)]

    def add_number(number, sums):
        in_row, in_pack, added = builder.mul(number, ir.Constant(I64, 4)), builder.mul(number, ir.Constant(I64, 4 * LANES)), []
        columns = [load(builder, builder.add(pack, in_pack)) for pack in own_packs]
        for row in range(ROWS):
            factor = spread(builder, load(builder, builder.add(own_rows[row], in_row), kind=FLOAT))
            added += [multiply_add(builder, factor, columns[pack], sums[row * n_packs + pack]) for pack in range(n_packs)]
        return added

    added = repeat(builder, n_numbers, [constant(0.0)] * (ROWS * n_packs), add_number)
    for place, total in enumerate(added):
        to = builder.add(out, builder.mul(out_bytes, ir.Constant(I64, place // n_packs)))
        builder.store(total, pointer(builder, to, 4 * LANES * (place % n_packs)), align=4)
