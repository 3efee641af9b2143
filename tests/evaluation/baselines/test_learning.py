"""The one training: the best weights are kept, the same seed gives the same weights, and chance outside is left alone."""

import numpy as np
import torch

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.learning import held_out_batches, learn, seeded, train_and_held_out
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import Bundle


def trained(budget: Budget, held_out=(), **settings):
    with seeded(1):
        layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))

    def make(rng: np.random.Generator, step: int) -> Bundle:
        inputs = torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))
        return Bundle(inputs=inputs, target=inputs.sum(1, keepdim=True))

    facts = learn(layer, budget, 0, make, lambda batch: (layer(batch["inputs"]) - batch["target"]).square().mean(), held_out, **settings)
    return layer, facts


def test_the_same_seed_gives_the_same_weights_and_draws_nothing_from_outside():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    first, facts = trained(Budget(steps=60), [Bundle(inputs=inputs, target=inputs.sum(1, keepdim=True))])
    assert torch.equal(torch.rand(2), expected)
    second, _ = trained(Budget(steps=60))
    assert facts["best_step"] == 60 and all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert facts["held_out_loss"][-1] < facts["held_out_loss"][0] and not first.training


def test_weights_that_came_in_win_only_where_they_may():
    wrong = [Bundle(inputs=torch.ones(4, 3), target=torch.full((4, 1), -1e3))]  # learning the training task makes this worse
    _, facts = trained(Budget(steps=24), wrong)
    assert facts["best_step"] == 0 and facts["steps"] == 24
    _, facts = trained(Budget(steps=24), wrong, patience=2, untrained_counts=False)
    assert facts["best_step"] == 2 and facts["steps"] == 6 and len(facts["held_out_loss"]) == 3


def test_held_out_users_are_apart_and_the_same_for_all(tiny):
    behaviours = behaviours_of(tiny.history)
    training, held_out = train_and_held_out(behaviours, 2, Budget(), 7)
    assert len(training) + len(held_out) == 60 and not set(training) & set(held_out) and 0 < len(held_out) < 20
    again = train_and_held_out(behaviours, 4, Budget(), 7)
    assert np.array_equal(again[0], training) and np.array_equal(again[1], held_out)
    parts = held_out_batches(np.arange(9), Budget(batch_size=4), 0, lambda users, rng: (users.tolist(), rng.integers(1 << 30)))
    assert [users for users, _ in parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert parts == held_out_batches(np.arange(9), Budget(batch_size=4), 0, lambda users, rng: (users.tolist(), rng.integers(1 << 30)))
