"""The loops of SMEN that torch has no single function for, compiled by numba for the processor that runs them.

  bags             equation 5 from frozen anchor weights: one gather of a row of We and of its weights for all anchors;
  multiply         rows times a weight that is kept in packs: where vectors have 16 numbers, twice as quick as torch on some processors;
  gates            what a step of a GRU does between its products: two sigmoids, a tanh and the mean of candidate and state, in one pass;
  gate_gradients   the same on the way back, for training.

In and out: arrays, float32, written in place; widths are multiples of LANES. `lurm.smen.compiled` says when these are taken; the same in torch's
functions stands beside every use, and tests hold one to the other. No loop shares a sum between rows: a row's numbers hang on that row alone.
"""

from functools import partial

from numba import types

from lurm import compiled_loops, vector_code
from lurm.smen import register_tiles
from lurm.smen.register_tiles import ANCHORS, PACKS, ROWS, VECTORS, add_rows, gate_gradient_row, gate_row, multiply_rows
from lurm.vector_code import LANES, WIDE, fetch

FLOATS, MATRIX, LONGS = types.float32[::1], types.float32[:, ::1], types.int64[::1]
AHEAD = 2  # bags whose rows are asked for before they are needed
MADE_OF = (register_tiles, vector_code)
MULTIPLIES = WIDE  # whether `multiply` is taken; with short vectors it is as quick as torch's (79 and 83 GFLOP/s on a Zen 3)
compiled = partial(compiled_loops.compiled, types.void, made_of=MADE_OF)


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


@compiled(MATRIX, types.float32[:, :, ::1], MATRIX)
def multiply(rows, packs, out):
    """out (S, W) = rows (S, H) @ weight, ROWS rows or more; packs (W / LANES, H, LANES) are the columns of the weight (H, W).

    A number is one chain of fused multiply-adds in the order of H: it is the same in whatever company a row comes.
    """
    n, width, n_packs = rows.shape[0], rows.shape[1], packs.shape[0]
    pack_bytes, row_bytes, out_bytes = 4 * LANES * width, 4 * width, 4 * out.shape[1]
    for start in range(0, n, ROWS):
        row = min(start, n - ROWS)  # the last tile goes back over rows that are there already, to the same bits
        for pack in range(0, n_packs, PACKS):
            multiply_rows(
                min(PACKS, n_packs - pack), width, rows.ctypes.data + row * row_bytes, row_bytes, packs.ctypes.data + pack * pack_bytes,
                out.ctypes.data + row * out_bytes + 4 * LANES * pack, out_bytes,
            )  # fmt: skip


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
            gate_row(n_vectors, given, of_state, bias.ctypes.data, state, of_gates, of_proposed, of_kept)
        filled += speaks


@compiled(MATRIX, MATRIX, MATRIX, MATRIX, MATRIX)
def gate_gradients(d_states, gates, proposed, previous, parts):
    """`gate_gradient_row` for S sequences: d_states, proposed and previous (S, H), gates (S, 3H), parts (S, 4H)."""
    width = d_states.shape[1]
    d, g, p, b, to = d_states.ctypes.data, gates.ctypes.data, proposed.ctypes.data, previous.ctypes.data, parts.ctypes.data
    for row in range(len(d_states)):
        at = 4 * width * row
        gate_gradient_row(width // LANES, d + at, g + 3 * at, p + at, b + at, to + 4 * at)
