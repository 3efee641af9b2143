"""Every architecture: a user's vector depends on that user alone, and on the order where it should."""

import numpy as np
import pytest
import torch

from lurm.evaluation.baselines.learning import seeded
from lurm.evaluation.baselines.sequence_models import ARCHITECTURES, SequenceModel
from lurm.evaluation.baselines.sequences import last_windows, make_batch, title_sequences


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_user_is_the_same_in_any_company(architecture, tiny):
    sequences = title_sequences(tiny.history)
    with seeded(0):
        model = SequenceModel(architecture, sequences, 10).eval()
    users = np.array([3, 8, 1])
    starts, stops = last_windows(sequences, users, 10)
    starts[0] += 6  # a shorter one
    starts[2] = stops[2]  # and one of nothing
    with torch.no_grad():
        together = model(make_batch(sequences, users, starts, stops))
        alone = model(make_batch(sequences, users[:1], starts[:1], stops[:1]))
        items = make_batch(sequences, users, starts, stops)
        hidden, vectors = model.users(items, model.items(items))
    assert together.shape == (3, model.dim) and hidden.shape == (3, 10, model.dim) and torch.equal(vectors, together)
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert not together[2].any() and together[0].any()
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize(("architecture", "ordered"), [("hsa", True), ("bert4rec", True), ("gru4rec", True), ("naml", False), ("textcnn", False)])
def test_who_minds_the_order(architecture, ordered, tiny):
    sequences = title_sequences(tiny.history)
    with seeded(0):
        model = SequenceModel(architecture, sequences, 10).eval()
    batch = make_batch(sequences, np.array([3]), *last_windows(sequences, np.array([3]), 10))
    turned = type(batch)(batch.words, batch.categories, batch.places.flip(1), batch.ages, batch.users, batch.extra)
    with torch.no_grad():
        assert torch.allclose(model(batch), model(turned), atol=1e-6) != ordered


def test_hidden_and_absent_behaviours_are_two_things(tiny):
    sequences = title_sequences(tiny.history)
    with seeded(0):
        model = SequenceModel("hsa", sequences, 4).eval()
    batch = make_batch(sequences, np.array([3]), *last_windows(sequences, np.array([3]), 4))
    first = torch.tensor([[True, False, False, False]])
    with torch.no_grad():
        items = model.items(batch)
        whole, hidden, absent = (model.users(batch, items, **how)[1] for how in ({}, {"hidden": first}, {"shown": ~first}))
    assert not any(torch.allclose(a, b, atol=1e-5) for a, b in ((whole, hidden), (whole, absent), (hidden, absent)))
