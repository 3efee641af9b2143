"""CP's operations, one by one."""

import numpy as np
import pytest
import torch
from conftest import recovered

from lurm.evaluation.baselines.augmentation import Augmented, augment, draw
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import title_sequences


@pytest.mark.parametrize("operation", ["crop", "mask", "reorder"])
def test_an_operation_does_what_it_says(operation):
    sequence, rng = np.arange(1, 11), np.random.default_rng(0)
    for _ in range(20):
        view, hidden = augment(sequence, (operation,), rng)
        assert len(view) == len(hidden)
        if operation == "crop":
            assert len(view) == 6 and (np.diff(view) == 1).all() and not hidden.any()
        elif operation == "mask":
            assert np.array_equal(view, sequence) and hidden.sum() == 3
        else:
            moved = np.flatnonzero(view != sequence)
            assert sorted(view) == list(sequence) and not hidden.any() and (len(moved) == 0 or moved[-1] - moved[0] < 6)


def test_one_behaviour_has_views_too():
    for operation in ("crop", "mask", "reorder"):
        assert augment(np.array([5]), (operation,), np.random.default_rng(0))[0].tolist() == [5]


def test_the_two_views_are_of_one_window(tiny):
    sequences = title_sequences(tiny.history)
    batch = draw(sequences, np.arange(8), 10, ("mask", "reorder"), np.random.default_rng(0))
    left, right = batch["places"].chunk(2)
    assert torch.equal(left.sort(1).values, right.sort(1).values) and torch.equal(left.sort(1).values, batch["read"].places.sort(1).values)
    assert not torch.equal(left, right) or batch["hidden"].any()


def test_it_learns_and_recovers_the_planted_preference(tiny):
    method = Augmented("cp", Budget(steps=60, batch_size=16, max_behaviours=12), 0)
    method.fit(tiny.history)
    assert min(method.details["held_out_loss"]) < method.details["held_out_loss"][0] - 0.1
    assert recovered(method.embed(tiny.users), tiny.labels) > 0.8
