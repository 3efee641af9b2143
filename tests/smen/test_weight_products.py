"""Weights in the order in which loops read them, and when which loop is taken."""

import numpy as np
import pytest
import torch

from lurm.smen import loops
from lurm.smen.compiled import without_loops
from lurm.smen.weight_products import by_torch, loop_columns, split_columns, vector_columns


def test_split_weights_lie_as_they_are_read():
    """32 columns of a part, input or state, 32 numbers, high or low, 16 columns; and in a tile a pair of numbers, a column, which of both."""
    weights = [torch.randn(3 * 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    parts = split_columns(*weights).view(np.uint16).astype(np.uint32) << 16
    parts = parts.view(np.float32).reshape(2, 3, 2, 2, 2, 2, 16, 16, 2)
    sums = parts.astype(np.float64).sum(axis=4)
    assert np.abs(parts[:, :, :, :, 1]).max() < 2.0**-7 * np.abs(parts[:, :, :, :, 0]).max(), "low parts follow high ones"
    for group, part, side, block, half in np.ndindex(2, 3, 2, 2, 2):
        rows = weights[side][part * 64 + group * 32 + half * 16 :][:16, block * 32 : (block + 1) * 32].numpy()
        found = sums[group, part, side, block, half].transpose(1, 0, 2).reshape(16, 32)
        np.testing.assert_allclose(found, rows, atol=0, rtol=2.0**-16)


def test_weights_in_vectors_lie_as_they_are_read():
    weight = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
    found = vector_columns(weight, 8).view(np.float32).reshape(6, 16, 8)
    np.testing.assert_array_equal(found.transpose(0, 2, 1).reshape(48, 16), weight.numpy())


@pytest.mark.parametrize(("width", "unit", "vectors", "expected"), [(64, True, True, True), (48, True, True, False), (64, False, True, False),
                                                                     (64, True, False, None), (20, True, True, None)])  # fmt: skip
def test_which_loop_is_taken(width, unit, vectors, expected, monkeypatch):
    """Split on the unit, in registers where it has none or the width is not one of its own, by torch where those are short."""
    monkeypatch.setattr(loops, "SPLITS", unit)
    monkeypatch.setattr(loops, "MULTIPLIES", vectors)
    found = loop_columns(*(torch.randn(3 * width, width) for _ in range(2)))
    assert (found if found is None else found.split) == expected
    with without_loops():
        assert loop_columns(torch.randn(192, 64), torch.randn(192, 64)) is None


@pytest.mark.parametrize("n_rows", [0, 1, 6, 40])
def test_few_rows_are_what_they_are_among_many(n_rows):
    generator = torch.Generator().manual_seed(1)
    rows, weight = torch.randn(64, 128, generator=generator), torch.randn(128, 384, generator=generator)
    whole = by_torch(rows, weight, torch.empty(64, 384))
    assert torch.equal(by_torch(rows[:n_rows], weight, torch.empty(n_rows, 384)), whole[:n_rows])
