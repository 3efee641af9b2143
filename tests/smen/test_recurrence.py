"""The recurrence with compiled passes against the one in torch's functions, forwards and back, and in pieces of any size."""

import numpy as np
import pytest
import torch

from lurm.smen import loops, recurrence
from lurm.smen.batches import SparseBags
from lurm.smen.compiled import without_loops
from lurm.smen.recurrence import last_states, next_states, states_of_silence, step_weights


def gru_and_bags(dim: int, seed: int = 0, n_users: int = 30) -> tuple[torch.nn.GRU, SparseBags]:
    """Users with leading, inner and trailing silence; the first has no row at all."""
    generator = torch.Generator().manual_seed(seed)
    gru = torch.nn.GRU(dim, dim, batch_first=True)
    with torch.no_grad():
        for weight in gru.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / dim**0.5)
    active = torch.rand(n_users, 20, generator=generator) < torch.rand(n_users, 1, generator=generator)
    active[0] = False
    active[1] = True
    return gru, SparseBags.from_dense(active.long()[:, :, None])


def both_ways(dim: int, n_anchors: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    gru, bags = gru_and_bags(dim)
    generator = torch.Generator().manual_seed(4)
    inputs = torch.relu(torch.randn(len(bags.users), n_anchors, dim, generator=generator)).requires_grad_(True)
    states = last_states(gru, inputs, bags)
    states.backward(torch.randn(states.shape, generator=generator))
    return states.detach(), [inputs.grad, *(weight.grad for weight in gru.parameters())]


@pytest.mark.parametrize(("dim", "n_anchors"), [(16, 3), (64, 9), (128, 10)])
def test_states_and_gradients_are_those_of_torch(dim, n_anchors):
    states, gradients = both_ways(dim, n_anchors)
    with without_loops():
        expected, wanted = both_ways(dim, n_anchors)
    bound = 3e-5 if loops.splits(dim) else 1e-5  # of a life of twenty periods: products of split numbers are rounded to 2^-16
    assert (states - expected).abs().max() < bound
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert (ours - theirs).abs().max() < bound * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("split", [True, False])
def test_each_kind_of_product_gives_them(split, monkeypatch):
    """On the matrix unit, and in registers where there is one too."""
    if split and not loops.SPLITS:
        pytest.skip("this processor has no matrix unit")
    monkeypatch.setattr(loops, "SPLITS", split)
    monkeypatch.setattr(loops, "MULTIPLIES", True)
    states, gradients = both_ways(64, 9)
    with without_loops():
        expected, wanted = both_ways(64, 9)
    bound = 3e-5 if split else 1e-5
    assert 0 < (states - expected).abs().max() < bound
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert (ours - theirs).abs().max() < bound * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("rows", [1, 20, 100])
def test_a_state_does_not_depend_on_the_pieces(rows, monkeypatch):
    whole, gradients = both_ways(32, 9)
    monkeypatch.setattr(recurrence, "ROWS_AT_A_TIME", rows)
    in_pieces, others = both_ways(32, 9)
    assert torch.equal(whole, in_pieces)
    assert all(torch.allclose(ours, theirs, atol=1e-4) for ours, theirs in zip(gradients, others, strict=True)), "sums over rows are cut"


@pytest.mark.parametrize(("n_threads", "rows"), [(3, 40), (3, 640), (20, 640), (64, 640)])
def test_threads_change_no_state(n_threads, rows, monkeypatch):
    """Users go through their lives side by side, with and without a gradient, however few they are. Where torch multiplies, its threads may take so
    few rows each that they round otherwise."""
    alone, _ = both_ways(32, 9)
    monkeypatch.setattr(recurrence, "ROWS_AT_A_TIME", rows)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        together, gradients = both_ways(32, 9)
        with torch.no_grad():
            gru, bags = gru_and_bags(32)
            inputs = torch.relu(torch.randn(len(bags.users), 9, 32, generator=torch.Generator().manual_seed(4)))
            frozen = last_states(gru, inputs, bags)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together) if loops.MULTIPLIES else torch.allclose(alone, together, atol=1e-6)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert torch.allclose(alone, frozen, atol=1e-6)  # whose leading silence is computed step by step


@pytest.mark.parametrize("switch", ["loops", "torch"])
def test_silence_is_a_zero_input_to_the_bit(switch):
    """A user who is silent has no input; one whose input is zero has the same state."""
    gru, _ = gru_and_bags(32)
    generator = torch.Generator().manual_seed(5)
    states, inputs, users = torch.randn(40, 9, 32, generator=generator), torch.randn(40, 9, 32, generator=generator), torch.arange(0, 40, 3)
    inputs[np.setdiff1d(np.arange(40), users.numpy())] = 0
    with torch.no_grad():
        weights = step_weights(gru)
        if switch == "torch":
            with without_loops():
                few, all_of_them = next_states(weights, inputs[users], users, states), next_states(weights, inputs, torch.arange(40), states)
        else:
            few, all_of_them = next_states(weights, inputs[users], users, states), next_states(weights, inputs, torch.arange(40), states)
    assert torch.equal(few, all_of_them) and not torch.equal(few, states)


def test_the_states_of_silence_are_steps_without_an_input():
    gru, _ = gru_and_bags(16)
    with torch.no_grad():
        table, longer = states_of_silence(gru, 5), states_of_silence(gru, 9)
        expected = gru(torch.zeros(1, 5, 16))[0][0]
    assert torch.equal(table, longer[:6]) and not table[0].any() and torch.allclose(table[1:], expected, atol=1e-6)
