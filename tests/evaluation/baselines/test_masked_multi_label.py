"""The masked multi-label UserBERT: what is hidden cannot be read off, and training fills it in."""

import numpy as np
import torch

from lurm.evaluation.baselines.day_words import word_batch
from lurm.evaluation.baselines.learning import seeded
from lurm.evaluation.baselines.masked_multi_label import MaskedMultiLabel, WordInputs, WordTransformer, masked_loss
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import title_sequences


def test_a_zeroed_word_keeps_its_place_and_loses_its_actions(tiny):
    sequences = title_sequences(tiny.history)
    batch = word_batch(sequences, np.array([3, 4]), 6)
    with seeded(0):
        inputs = WordInputs(sequences, 32)
    zeroed = torch.zeros_like(batch.mask)
    zeroed[0, 1] = True
    whole, _ = inputs(batch)
    hidden, profile = inputs(batch, zeroed)
    differs = (whole != hidden).any(2)
    assert differs.tolist() == zeroed.tolist() and profile.shape == (2, 2, 32)
    assert torch.allclose(hidden[0, 1], inputs.long.weight[batch.positions[0, 1]] + inputs.segments.weight[0])
    assert not whole[~batch.mask].any()


def test_a_word_is_the_mean_of_its_actions(tiny):
    sequences = title_sequences(tiny.history)
    batch = word_batch(sequences, np.array([3]), 6)
    with seeded(0):
        inputs = WordInputs(sequences, 32)
    token = int(torch.mode(batch.tokens).values)
    rows = []
    for action in torch.nonzero(batch.tokens == token).flatten():
        item = batch.items[action]
        words = batch.words[item]
        rows.append(torch.cat([inputs.categories(batch.categories[item]).flatten(), inputs.words(words[words > 0]).mean(0),
                               inputs.hours(batch.hours[action])]))  # fmt: skip
    place = inputs.long.weight[batch.positions[0, token]] + inputs.segments.weight[0] if token < 6 else (
        inputs.short.weight[batch.positions[0, token]] + inputs.segments.weight[1]
    )  # fmt: skip
    assert torch.allclose(inputs(batch)[0][0, token], torch.stack(rows).mean(0) + place, atol=1e-5)


def test_somebody_with_one_word_is_asked_for_it(tiny):
    sequences = title_sequences(tiny.history)
    batch = word_batch(sequences, np.array([3, 4]), 6)
    with seeded(0):
        model = WordTransformer(sequences, 32).eval()
    loss = masked_loss(model, batch, torch.ones(2, *batch.mask.shape), sequences.n_categories)  # no lot is low enough
    assert torch.isfinite(loss) and loss > 0


def test_it_learns(tiny):
    method = MaskedMultiLabel("userbert-ml", Budget(steps=12, batch_size=8, max_behaviours=6), 0)
    method.fit(tiny.history)
    assert method.details["held_out_loss"][-1] < method.details["held_out_loss"][0] - 0.5
