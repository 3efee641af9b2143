"""CoLES: the loss by hand, the slices, and that slices of one user come together."""

import numpy as np
import torch
from conftest import recovered

from lurm.evaluation.baselines.coles import HARDEST, N_SLICES, Coles, slice_loss, slices
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import title_sequences


def test_slices_lie_inside_the_window_of_a_life(tiny):
    sequences = title_sequences(tiny.history)
    batch = slices(sequences, np.array([4, 9]), 10, np.random.default_rng(0))
    lengths = (batch.places > 0).sum(1)
    assert batch.users.tolist() == [4] * N_SLICES + [9] * N_SLICES and (lengths >= 1).all() and (lengths <= 10).all() and len(set(lengths)) > 1


def test_the_loss_by_hand():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(15, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    users = np.repeat([0, 1, 2], 5)
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    positive = [distance[a, b] ** 2 for a in range(15) for b in range(15) if a != b and users[a] == users[b]]
    hardest = [np.sort(distance[a, users != users[a]])[:HARDEST] for a in range(15)]
    expected = np.mean(positive) + np.mean(np.maximum(0, 0.5 - np.concatenate(hardest)) ** 2)
    assert np.isclose(float(slice_loss(torch.from_numpy(vectors), torch.from_numpy(users))), expected, atol=1e-6)


def test_it_learns_and_recovers_the_planted_preference(tiny):
    method = Coles("coles", Budget(steps=40, batch_size=16, max_behaviours=12), 0)
    method.fit(tiny.history)
    assert method.details["held_out_loss"][-1] < 0.7 * method.details["held_out_loss"][0]
    rows = method.embed(tiny.users)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5) and recovered(rows, tiny.labels) > 0.8
