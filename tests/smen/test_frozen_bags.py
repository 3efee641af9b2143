"""Equation 5 without a gradient: the compiled loop against torch's own sums, in all widths and numbers of anchors."""

import numpy as np
import pytest
import torch

from lurm.smen import frozen_bags
from lurm.smen.compiled import without_loops


def random_bags(n_rows: int, n_interests: int, seed: int = 0):
    """interests, values and offsets of rows of 0 to 39 cells."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 40, n_rows))]).astype(np.int64)
    values = np.log1p(rng.integers(1, 9, offsets[-1])).astype(np.float32)
    return torch.from_numpy(rng.integers(0, n_interests, offsets[-1])), torch.from_numpy(values), torch.from_numpy(offsets)


def model(n_interests: int, n_anchors: int, dim: int):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n_interests, n_anchors, generator=generator), torch.randn(n_interests, dim, generator=generator)


@pytest.mark.parametrize("n_anchors", [1, 3, 9, 10, 11, 21])
@pytest.mark.parametrize("dim", [16, 24, 32, 48, 128])  # 24 is torch's, if vectors have 16 numbers
def test_the_loop_gives_what_torch_gives(n_anchors, dim):
    bags, (weights, vectors) = random_bags(200, 60), model(60, n_anchors, dim)
    places = torch.from_numpy(np.random.default_rng(1).permutation(200))
    found = frozen_bags.frozen_bags(weights, vectors, *bags, places)
    with without_loops():
        expected = frozen_bags.frozen_bags(weights, vectors, *bags, places)
    assert found.shape == (200, n_anchors, dim) and found.dtype == torch.float32 and float(found.min()) == 0
    assert torch.allclose(found, expected, atol=1e-5) and float(found.max()) > 1
    dense = torch.zeros(200, 60)
    dense.index_put_((torch.arange(200).repeat_interleave(bags[2].diff()), bags[0]), bags[1], accumulate=True)
    assert torch.allclose(found[places], torch.relu(torch.einsum("rd,dm,dh->rmh", dense, weights, vectors)), atol=1e-4)


def test_a_row_hangs_on_its_own_cells_alone_wherever_it_is_written(monkeypatch):
    (interests, values, offsets), (weights, vectors) = random_bags(300, 50), model(50, 9, 128)
    whole = frozen_bags.frozen_bags(weights, vectors, interests, values, offsets)
    monkeypatch.setattr(frozen_bags, "BEYOND_THE_CACHE", 0)
    assert torch.equal(frozen_bags.frozen_bags(weights, vectors, interests, values, offsets), whole), "past the cache"
    for row in (0, 7, 299):
        cells = slice(int(offsets[row]), int(offsets[row + 1]))
        alone = frozen_bags.frozen_bags(weights, vectors, interests[cells], values[cells], torch.tensor([0, cells.stop - cells.start]))
        assert torch.equal(alone[0], whole[row])


@pytest.mark.parametrize("n_threads", [2, 3, 16])
def test_threads_change_nothing(n_threads, monkeypatch):
    bags, (weights, vectors) = random_bags(100, 50), model(50, 9, 32)
    alone = frozen_bags.frozen_bags(weights, vectors, *bags)
    monkeypatch.setattr(frozen_bags, "CELLS_OF_A_THREAD", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert torch.equal(frozen_bags.frozen_bags(weights, vectors, *bags), alone)


def test_no_rows_and_empty_rows():
    weights, vectors = model(5, 9, 32)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert frozen_bags.frozen_bags(weights, vectors, nothing, nothing.float(), torch.zeros(1, dtype=torch.int64)).shape == (0, 9, 32)
    assert not frozen_bags.frozen_bags(weights, vectors, nothing, nothing.float(), torch.zeros(4, dtype=torch.int64)).any()


@pytest.mark.parametrize("interest", [-1, 5])
def test_an_interest_of_another_space_is_refused(interest):
    weights, vectors = model(5, 9, 32)
    with pytest.raises(IndexError, match=f"Expected interests from 0 to 4, got {interest} to {interest}; embed bags with the model"):
        frozen_bags.frozen_bags(weights, vectors, torch.tensor([interest]), torch.ones(1), torch.tensor([0, 1]))


def test_elsewhere_than_on_a_cpu_it_is_left_to_the_path_of_training():
    weights, vectors = (part.to("meta") for part in model(5, 9, 32))
    assert frozen_bags.frozen_bags(weights, vectors, torch.zeros(1, dtype=torch.int64), torch.ones(1), torch.tensor([0, 1])) is None
