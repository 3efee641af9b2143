"""The compiled loops against torch's functions and against numbers in double precision."""

import numpy as np
import pytest
import torch

from lurm.smen import loops
from lurm.smen.recurrence import StepWeights, _gate_gradients, _step
from lurm.smen.weight_products import vector_columns

NOTHING = np.empty((0, 0), np.float32)


def nonlinearities(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sigmoid and tanh of (n, H) float32, as `gates` keeps them: where the state's products are zero, reset is sigmoid(x), the candidate tanh(x)."""
    n_rows, width = values.shape
    of_inputs, states = np.tile(values, (1, 3)), np.zeros_like(values)
    kept = np.empty((n_rows, 3 * width), np.float32), np.empty_like(values), np.empty_like(values)
    silence, bias, of_states = np.zeros(3 * width, np.float32), np.zeros(4 * width, np.float32), np.zeros_like(of_inputs)
    loops.gates(of_inputs, silence, np.arange(n_rows), 1, of_states, bias, states, *kept)
    assert np.array_equal(kept[0][:, :width], kept[0][:, width : 2 * width], equal_nan=True), "reset and update are the same function"
    return kept[0][:, :width], kept[0][:, 2 * width :]


def test_sigmoid_and_tanh_are_off_by_no_more_than_they_say():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.linspace(-60, 60, 320_000), rng.standard_normal(320_000) * 3, rng.standard_normal(32_000) * 1e-3, [0.0] * 32])
    values = values.astype(np.float32).reshape(-1, 32)
    sigmoid, tanh = nonlinearities(values)
    exact = values.astype(np.float64)
    assert np.abs(sigmoid - 1 / (1 + np.exp(-exact))).max() <= 1e-7
    assert np.abs(tanh - np.tanh(exact)).max() <= 2e-7
    assert np.abs(tanh - torch.tanh(torch.from_numpy(values)).numpy()).max() <= 2e-7
    assert sigmoid.min() >= 0 and sigmoid.max() <= 1 and np.abs(tanh).max() <= 1 and not tanh[-1].any()


def test_what_is_not_finite_stays_so():
    values = np.full((1, 16), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    sigmoid, tanh = nonlinearities(values)
    assert np.isnan(sigmoid[0, 0]) and np.isnan(tanh[0, 0]) and np.isfinite(tanh[0, 1:]).all()
    assert sigmoid[0, 1:3].tolist() == pytest.approx([1, 0], abs=1e-7) and tanh[0, 1:3].tolist() == [1, -1]


def step_of_few(dim: int, n_anchors: int, ranks: list[int]):
    """What `_step` and `gates` take for 6 users, of whom `ranks` speak."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    given, state, bias = random(len(ranks) * n_anchors, dim), random(6 * n_anchors, dim), random(4 * dim)
    kept = tuple(torch.empty(len(state), width * dim) for width in (3, 1, 1))
    return given, torch.tensor(ranks, dtype=torch.int64), state, random(dim, 3 * dim) / 4, random(dim, 3 * dim) / 4, bias, kept


@pytest.mark.parametrize("n_rows", [8, 9, 23, 64])
@pytest.mark.parametrize("dim", [16, 48, 128])
def test_a_product_is_that_of_torch_and_a_row_hangs_on_itself(dim, n_rows):
    generator = torch.Generator().manual_seed(3)
    rows, weight = torch.randn(n_rows, dim, generator=generator), torch.randn(3 * dim, dim, generator=generator)
    packs, out, few = vector_columns(weight, loops.LANES), torch.empty(n_rows, 3 * dim), torch.empty(8, 3 * dim)
    loops.multiply(rows.numpy(), packs, out.numpy())
    torch.testing.assert_close(out, (rows.double() @ weight.double().T).float(), atol=3e-5, rtol=1e-5)
    loops.multiply(rows[-8:].contiguous().numpy(), packs, few.numpy())
    assert torch.equal(few, out[-8:])


@pytest.mark.parametrize("ranks", [[0, 1, 2, 3, 4, 5], [0, 3, 5], [5], []])
@pytest.mark.parametrize(("dim", "n_anchors"), [(16, 3), (48, 9), (128, 10)])
def test_the_gates_are_a_step_in_torch(dim, n_anchors, ranks):
    given, ranks, state, weight_in, weight_state, bias, kept = step_of_few(dim, n_anchors, ranks)
    ours, our_kept = state.clone(), tuple(torch.empty_like(part) for part in kept)
    rooms = tuple(torch.empty(len(state), 3 * dim) for _ in range(2))
    products, silence = (given @ weight_in, state @ weight_state), np.zeros(3 * dim, np.float32)
    _step(given, ranks, state, n_anchors, StepWeights(weight_in, weight_state, bias, None), rooms, kept)
    arguments = (products[0].numpy(), silence, ranks.numpy(), n_anchors, products[1].numpy(), bias.numpy())
    loops.gates(*arguments, ours.numpy(), *(part.numpy() for part in our_kept))
    assert torch.allclose(ours, state, atol=2e-6)
    assert all(torch.allclose(mine, theirs, atol=2e-6) for mine, theirs in zip(our_kept, kept, strict=True))
    again = our_kept[2].clone()
    loops.gates(*arguments, again.numpy(), NOTHING, NOTHING, NOTHING)
    assert torch.equal(again, ours), "what is kept changes nothing"


@pytest.mark.parametrize("dim", [16, 48, 128])
def test_the_way_back_is_that_of_torch(dim):
    generator = torch.Generator().manual_seed(2)
    d, proposed, previous = (torch.randn(30, dim, generator=generator) for _ in range(3))
    gates = torch.rand(30, 3 * dim, generator=generator)
    theirs, mine = (_gate_gradients(which, d.clone(), gates, proposed, previous, torch.empty(30, 4 * dim)) for which in (None, loops))
    assert torch.allclose(theirs, mine, atol=1e-6) and theirs.abs().max() > 0.1
    ours = d.clone()
    _gate_gradients(loops, ours, gates, proposed, previous, torch.empty(30, 4 * dim))
    assert torch.allclose(ours, d * gates[:, dim : 2 * dim], atol=1e-6)
