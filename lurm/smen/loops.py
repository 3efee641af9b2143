"""The loops of SMEN that torch has no single function for, compiled by numba for the processor that runs them.

  bags             equation 5 from frozen anchor weights: one gather of a row of We and of its weights for all anchors;
  multiply         rows times a weight that is kept in packs: where vectors have 16 numbers, twice as quick as torch on some processors;
  steps            a GRU from the first step to the last: such products and the gates;
  gates            what a step does between its products: two sigmoids, a tanh and the mean of candidate and state, in one pass;
  gate_gradients   the same on the way back, for training.

In and out: arrays, float32, written in place; widths are multiples of LANES. `lurm.smen.compiled` says when these are taken; the same in torch's
functions stands beside every use, and tests hold one to the other. No loop shares a sum between rows: a row's numbers hang on that row alone.
"""

from functools import partial

import numpy as np
from numba import types

from lurm import compiled_loops, matrix_unit, vector_code
from lurm.matrix_unit import ROW_BYTES, begin, end
from lurm.smen import register_tiles, split_tiles
from lurm.smen.register_tiles import ANCHORS, PACKS, ROWS, VECTORS, add_rows, gate_gradient_row, gate_row, gate_sums, multiply_rows
from lurm.smen.split_tiles import BLOCK, BLOCK_BYTES, LOW_BYTES, SPLIT_COLUMNS, SPLIT_ROWS, add_product, clear_sums, split_block, store_sums
from lurm.vector_code import LANES, WIDE, fetch

FLOATS, MATRIX, LONGS, COLUMNS = types.float32[::1], types.float32[:, ::1], types.int64[::1], types.int32[::1]
AHEAD = 2  # bags whose rows are asked for before they are needed
MADE_OF = (register_tiles, split_tiles, matrix_unit, vector_code)
MULTIPLIES = WIDE  # whether `multiply` is taken; with short vectors it is as quick as torch's (79 and 83 GFLOP/s on a Zen 3)
SPLITS = matrix_unit.usable()
compiled = partial(compiled_loops.compiled, types.void, made_of=MADE_OF)


def splits(width: int) -> bool:
    """Whether `split_step` is taken for states of that width."""
    return SPLITS and width % SPLIT_COLUMNS == 0


@compiled(MATRIX, MATRIX, LONGS, FLOATS, LONGS, LONGS, types.int64, MATRIX, types.float32[:, :, ::1])
def bags(weights, vectors, ids, values, offsets, places, past_cache, room, out):
    """out[places[r]] = ReLU of the sum over the cells j of row r of values[j] * outer(weights[ids[j]], vectors[ids[j]]); out (P, M, H).

    weights (D, M), vectors (D, H); room (longest row, M) is overwritten. Places that no row has are left as they are. past_cache: 1 where `out` is
    so large that it would push We out of the cache.
    """
    n_anchors, n_rows = weights.shape[1], len(offsets) - 1
    row_bytes, weight_bytes, tile_bytes = 4 * vectors.shape[1], 4 * n_anchors, 4 * LANES * VECTORS
    of_vectors, of_weights, of_ids, of_room, of_out = vectors.ctypes.data, weights.ctypes.data, ids.ctypes.data, room.ctypes.data, out.ctypes.data
    for row in range(n_rows):
        start, stop = offsets[row], offsets[row + 1]
        for cell in range(offsets[min(row + AHEAD, n_rows)], offsets[min(row + AHEAD + 1, n_rows)]):
            for byte in range(0, row_bytes, 64):
                fetch(of_vectors + ids[cell] * row_bytes + byte)
            fetch(of_weights + ids[cell] * weight_bytes)
        if start == stop:
            out[places[row]] = 0
            continue
        for cell in range(start, stop):
            for anchor in range(n_anchors):
                room[cell - start, anchor] = weights[ids[cell], anchor] * values[cell]
        for anchor in range(0, n_anchors, ANCHORS):
            for byte in range(0, row_bytes, tile_bytes):
                add_rows(
                    min(ANCHORS, n_anchors - anchor), VECTORS if byte + tile_bytes <= row_bytes else 1,
                    stop - start, of_ids + 8 * start, of_vectors + byte, row_bytes, of_room + 4 * anchor, weight_bytes,
                    of_out + (places[row] * n_anchors + anchor) * row_bytes + byte, row_bytes, past_cache,
                )  # fmt: skip


@compiled(MATRIX, COLUMNS, MATRIX)
def multiply(rows, columns, out):
    """out[:S] = rows (S, H) @ weight (H, W); columns as by `vector_columns`.

    A number is one chain of fused multiply-adds in the order of H: it is the same in whatever company a row comes.
    """
    n, width = rows.shape
    n_packs, pack_bytes, row_bytes, out_bytes = out.shape[1] // LANES, 4 * LANES * width, 4 * width, 4 * out.shape[1]
    whole, to = rows, out
    if n < ROWS:
        whole, to = np.zeros((ROWS, width), np.float32), np.empty((ROWS, out.shape[1]), np.float32)
        for row in range(n):
            for column in range(width):
                whole[row, column] = rows[row, column]
    for start in range(0, len(whole), ROWS):
        row = min(start, len(whole) - ROWS)  # the last tile goes back over rows that are there already, to the same bits
        for pack in range(0, n_packs, PACKS):
            multiply_rows(
                min(PACKS, n_packs - pack), width, whole.ctypes.data + row * row_bytes, row_bytes, columns.ctypes.data + pack * pack_bytes,
                to.ctypes.data + row * out_bytes + 4 * LANES * pack, out_bytes,
            )  # fmt: skip
    if n < ROWS:
        for row in range(n):
            for column in range(out.shape[1]):
                out[row, column] = to[row, column]


@compiled(MATRIX, FLOATS, LONGS, types.int64, MATRIX, FLOATS, MATRIX, MATRIX, MATRIX, MATRIX)
def gates(of_inputs, silence, ranks, n_anchors, of_states, bias, states, kept_gates, kept_proposed, kept_states):
    """One step of the sequences of B users with n_anchors each, states (B x M, H) before and after it.

    of_states (B x M, 3H): product of every state; of_inputs (len(ranks) x M, 3H): product of every input, of the users `ranks` alone (ascending): the
    others were silent, and have the product of a zero input, silence (3H). bias (4H) as in `gate_row`; the kept ones have B x M rows, or none.
    """
    n_vectors, n_filled, filled, keep = states.shape[1] // LANES, len(ranks), 0, len(kept_gates) > 0
    row_bytes = 4 * states.shape[1]
    given, nothing, of_gates, of_proposed, of_kept = 0, silence.ctypes.data, 0, 0, 0
    for user in range(len(states) // n_anchors):
        speaks = filled < n_filled and ranks[filled] == user
        for row in range(user * n_anchors, (user + 1) * n_anchors):
            given = of_inputs.ctypes.data + 3 * row_bytes * (filled * n_anchors + row - user * n_anchors) if speaks else nothing
            if keep:
                of_gates = kept_gates.ctypes.data + 3 * row_bytes * row
                of_proposed, of_kept = kept_proposed.ctypes.data + row_bytes * row, kept_states.ctypes.data + row_bytes * row
            of_state, state = of_states.ctypes.data + 3 * row_bytes * row, states.ctypes.data + row_bytes * row
            gate_row(n_vectors, row_bytes, given, of_state, bias.ctypes.data, state, of_gates, of_proposed, of_kept)
        filled += speaks


@compiled(types.int64, types.int64, types.int64)
def _split_row(numbers, n_blocks, parts):
    """A row's numbers to where `add_product` reads them, of which `parts` is the first."""
    for block in range(n_blocks):
        high = parts + block * BLOCK_BYTES
        split_block(numbers + 4 * BLOCK * block, high, high + LOW_BYTES)


@compiled(MATRIX, LONGS, types.int64, COLUMNS, FLOATS, MATRIX, MATRIX, MATRIX, MATRIX)
def split_step(inputs, ranks, n_anchors, columns, bias, states, kept_gates, kept_proposed, kept_states):
    """One step as `gates` makes it, with its products, by `lurm.smen.split_tiles`; H is a multiple of 32.

    inputs (len(ranks) x M, H) are those of the users `ranks`; columns as by `split_columns`. SPLIT_ROWS sequences at a time, whose sums stay in the
    cache until they go through the gates.
    """
    n, width = states.shape
    row_bytes, n_blocks, n_filled, filled, keep = 4 * width, width // BLOCK, len(ranks), 0, len(kept_gates) > 0
    silence, of_block = np.zeros(width, np.float32), n_blocks * BLOCK_BYTES
    room = np.empty(2 * of_block + 4 * row_bytes * SPLIT_ROWS + 2 * ROW_BYTES, np.uint8)
    begin(room.ctypes.data)
    given = (room.ctypes.data + 2 * ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES
    before, sums = given + of_block, given + 2 * of_block
    of_gates, of_proposed, of_kept = 0, 0, 0
    for start in range(0, n, SPLIT_ROWS):
        n_here, spoken = min(SPLIT_ROWS, n - start), False
        for own in range(SPLIT_ROWS):
            sequence = start + min(own, n_here - 1)
            user, numbers = sequence // n_anchors, silence.ctypes.data
            while filled < n_filled and ranks[filled] < user:
                filled += 1
            if filled < n_filled and ranks[filled] == user:
                spoken, numbers = True, inputs.ctypes.data + (filled * n_anchors + sequence % n_anchors) * row_bytes
            _split_row(numbers, n_blocks, given + own * ROW_BYTES)
            _split_row(states.ctypes.data + sequence * row_bytes, n_blocks, before + own * ROW_BYTES)
        of_columns = columns.ctypes.data
        for column in range(0, width, SPLIT_COLUMNS):
            for part in range(3):
                out = sums + part * row_bytes + 4 * column
                clear_sums()
                if spoken:
                    add_product(n_blocks, given, of_columns)
                if part == 2:  # the state's part of the candidate stands by itself
                    store_sums(out, 4 * row_bytes)
                    clear_sums()
                    out += row_bytes
                add_product(n_blocks, before, of_columns + of_block)
                store_sums(out, 4 * row_bytes)
                of_columns += 2 * of_block
        for own in range(n_here):
            at = (start + own) * row_bytes
            if keep:
                of_gates, of_proposed, of_kept = kept_gates.ctypes.data + 3 * at, kept_proposed.ctypes.data + at, kept_states.ctypes.data + at
            of_sums = sums + 4 * row_bytes * own
            gate_sums(width // LANES, row_bytes, row_bytes, of_sums, bias.ctypes.data, states.ctypes.data + at, of_gates, of_proposed, of_kept)
    end(room.ctypes.data)


@compiled(
    MATRIX, LONGS, LONGS, LONGS, LONGS, types.int64, types.int64, types.int64, COLUMNS, COLUMNS, types.boolean, FLOATS, MATRIX,
    MATRIX, MATRIX, MATRIX,
)  # fmt: skip
def steps(
    inputs, ranks, starts, stops, running, begin, size, n_anchors, of_input, of_state, split, bias, states,
    kept_gates, kept_proposed, kept_states,
):  # fmt: skip
    """All steps of the sequences of users `begin` to begin + size, with n_anchors each: states (B x M, H) before the first and after the last.

    At time t the first running[t] of all B users go on, and of these here inputs[starts[t] x M : stops[t] x M] are there, of the users ranks[...]
    (ascending). Weights as by `loop_columns`, bias (4H) as in `gate_row`; the kept ones hold the rows of all times, one after the other, or none.
    """
    width, keep, first, most = states.shape[1], len(kept_gates) > 0, 0, np.max(stops - starts)
    room = (0, 0) if split else (most * n_anchors, size * n_anchors)
    given, before = np.empty((room[0], 3 * width), np.float32), np.empty((room[1], 3 * width), np.float32)
    silence, own = np.zeros(3 * width, np.float32), np.empty(most, np.int64)
    for time in range(len(running)):
        users = min(size, running[time] - begin)
        if users <= 0:
            break
        start, stop, now = starts[time], stops[time], states[begin * n_anchors : (begin + users) * n_anchors]
        for place in range(start, stop):
            own[place - start] = ranks[place] - begin
        some = inputs[start * n_anchors : stop * n_anchors]
        since = (first + begin) * n_anchors if keep else 0
        until = since + users * n_anchors if keep else 0
        kept = kept_gates[since:until], kept_proposed[since:until], kept_states[since:until]
        if split:
            split_step(some, own[: stop - start], n_anchors, of_input, bias, now, *kept)
        else:
            multiply(some, of_input, given)
            multiply(now, of_state, before)
            gates(given, silence, own[: stop - start], n_anchors, before, bias, now, *kept)
        first += running[time]


@compiled(MATRIX, MATRIX, MATRIX, MATRIX, MATRIX)
def gate_gradients(d_states, gates, proposed, previous, parts):
    """`gate_gradient_row` for S sequences: d_states, proposed and previous (S, H), gates (S, 3H), parts (S, 4H)."""
    width = d_states.shape[1]
    d, g, p, b, to = d_states.ctypes.data, gates.ctypes.data, proposed.ctypes.data, previous.ctypes.data, parts.ctypes.data
    for row in range(len(d_states)):
        at = 4 * width * row
        gate_gradient_row(width // LANES, d + at, g + 3 * at, p + at, b + at, to + 4 * at)
