"""A step on the matrix unit against double precision, and what it is off by."""

import numpy as np
import pytest
import torch
from numba import njit

from lurm import matrix_unit
from lurm.smen import loops
from lurm.smen.split_tiles import BLOCK, split_block
from lurm.smen.weight_products import split_columns

needs_unit = pytest.mark.skipif(not matrix_unit.usable(), reason="this processor has no matrix unit")
NOTHING = np.empty((0, 0), np.float32)


def in_double(given, ranks, state, n_anchors, weights, bias):
    """reset, update, candidate, the state's part of it and the state after a step; silent users have products of zero."""
    dim, (of_input, of_state) = state.shape[1], (weight.double().T for weight in weights)
    inputs = torch.zeros(len(state) // n_anchors, n_anchors, 3 * dim, dtype=torch.double)
    inputs[ranks] = (given.double() @ of_input).view(-1, n_anchors, 3 * dim)
    reset_in, update_in, candidate_in = inputs.view(len(state), -1).chunk(3, dim=1)
    reset_of, update_of, candidate_of = (state.double() @ of_state).chunk(3, dim=1)
    biases = bias.double().chunk(4)
    reset, update = torch.sigmoid(reset_in + reset_of + biases[0]), torch.sigmoid(update_in + update_of + biases[1])
    proposed = candidate_of + biases[3]
    candidate = torch.tanh(candidate_in + biases[2] + reset * proposed)
    return reset, update, candidate, proposed, update * state + (1 - update) * candidate


@needs_unit
@pytest.mark.parametrize("ranks", [[0, 3, 5], list(range(12)), [], [11]])
@pytest.mark.parametrize(("dim", "n_anchors"), [(32, 3), (96, 1), (128, 9)])
def test_a_step_is_as_good_as_its_bound(dim, n_anchors, ranks):
    generator = torch.Generator().manual_seed(1)
    given, state, bias = (torch.randn(shape, generator=generator) for shape in ((len(ranks) * n_anchors, dim), (12 * n_anchors, dim), (4 * dim,)))
    weights = [torch.randn(3 * dim, dim, generator=generator) / dim**0.5 for _ in range(2)]
    expected = in_double(given, ranks, state, n_anchors, weights, bias)
    after, kept = state.clone(), tuple(torch.full((len(state), width * dim), 7.0) for width in (3, 1, 1))
    arguments = (given.numpy(), np.array(ranks, np.int64), n_anchors, split_columns(*weights), bias.numpy())
    loops.split_step(*arguments, after.numpy(), *(part.numpy() for part in kept))
    most = 3 * 2.0**-16 * float((state.abs() @ weights[1].abs().T).max()) + 1e-5
    assert (kept[1] - expected[3]).abs().max() < most / 5, "both signs of rounding nearly cancel"
    for ours, theirs in zip((*kept[0].chunk(3, dim=1), after), (*expected[:3], expected[4]), strict=True):
        assert (ours - theirs).abs().max() < 3e-5
    assert torch.equal(kept[2], state)
    again = state.clone()
    loops.split_step(*arguments, again.numpy(), NOTHING, NOTHING, NOTHING)
    assert torch.equal(again, after), "what is kept changes nothing"


@needs_unit
def test_a_sequence_hangs_on_itself_and_zero_is_silence():
    generator = torch.Generator().manual_seed(2)
    given, states, bias = (torch.randn(shape, generator=generator) for shape in ((270, 64), (270, 64), (256,)))
    columns = split_columns(*(torch.randn(192, 64, generator=generator) / 8 for _ in range(2)))
    given[: 9 * 4] = 0

    def after(users: slice, ranks: list[int]) -> torch.Tensor:
        some, speaking = states.view(30, 9, 64)[users].clone().flatten(0, 1), given.view(30, 9, 64)[users][ranks].flatten(0, 1)
        loops.split_step(speaking.numpy(), np.array(ranks, np.int64), 9, columns, bias.numpy(), some.numpy(), NOTHING, NOTHING, NOTHING)
        return some.view(-1, 9, 64)

    whole = after(slice(0, 30), list(range(30)))
    assert torch.equal(after(slice(0, 30), list(range(4, 30))), whole), "the first four had nothing but zeros"
    for users in (slice(0, 1), slice(3, 8), slice(29, 30)):
        assert torch.equal(after(users, list(range(users.stop - users.start))), whole[users])


def test_a_number_is_its_two_parts():
    @njit
    def split(numbers, high, low):
        split_block(numbers.ctypes.data, high.ctypes.data, low.ctypes.data)
        return numbers[0], high[0], low[0]  # which keeps them

    numbers = (np.random.default_rng(3).standard_normal(BLOCK) * 10.0 ** np.arange(-16, 16)).astype(np.float32)
    numbers[:4] = 0, 1, -1, 1 + 2.0**-9
    high, low = np.empty(BLOCK, np.uint16), np.empty(BLOCK, np.uint16)
    split(numbers, high, low)
    of_high, of_low = ((part.astype(np.uint32) << 16).view(np.float32) for part in (high, low))
    assert (np.abs(of_high - numbers) <= 2.0**-8 * np.abs(numbers)).all()
    assert (np.abs(of_high.astype(np.float64) + of_low - numbers) <= 2.0**-16 * np.abs(numbers)).all()
    assert (of_high[:4], of_low[:4]) == (pytest.approx([0, 1, -1, 1]), pytest.approx([0, 0, 0, 2.0**-9]))
