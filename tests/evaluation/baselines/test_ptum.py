"""PTUM: what is hidden, what is next, and the losses by hand."""

import numpy as np
import torch
from conftest import recovered

from lurm.evaluation.baselines.behaviours import DAY
from lurm.evaluation.baselines.learning import seeded
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.ptum import NEXT, Ptum, draw, prediction_loss
from lurm.evaluation.baselines.sequence_models import SequenceModel
from lurm.evaluation.baselines.sequences import title_sequences


def test_the_first_candidate_is_the_true_one(tiny):
    sequences = title_sequences(tiny.history)
    batch = draw(sequences, np.arange(60), 10, np.random.default_rng(0))
    read, hidden = batch["read"], batch["hidden"]
    rows = torch.arange(60)
    assert read.extra.shape == (60, 1 + NEXT, 5)
    assert torch.equal(read.places[rows, hidden], read.extra[:, 0, 0])
    lengths = (read.places > 0).sum(1)
    assert (lengths >= 2).all() and (lengths <= 10).all() and (hidden < lengths).all()
    # The next behaviours are those that follow the window in the life: the last of the window and the next are neighbours there.
    behaviours = sequences.behaviours
    for user in (0, 9, 33):
        items = behaviours.items[behaviours.offsets[user] : behaviours.offsets[user + 1]]
        words = [read.words[place] for place in [*read.places[user, : lengths[user]], *read.extra[user, 1:, 0]]]
        whole = [torch.from_numpy(sequences.words[item + 1].astype(np.int64))[: read.words.shape[1]] for item in items]
        found = [all(torch.equal(a, b) for a, b in zip(words, whole[first:])) for first in range(len(items) - len(words) + 1)]
        assert any(found)
    assert (read.ages >= 0).all() and read.ages.max() < 420 * DAY


def test_losses_by_hand(tiny):
    sequences = title_sequences(tiny.history)
    with seeded(0):
        model = SequenceModel("mean", sequences, 10).eval()
    batch = draw(sequences, np.arange(6), 10, np.random.default_rng(1))
    read = batch["read"]
    with torch.no_grad():
        items = model.items(read)
        losses = {"mbp": [], "nbp": []}
        for row in range(6):
            events = items[read.places[row][read.places[row] > 0]]
            rest = torch.cat([events[: batch["hidden"][row]], events[batch["hidden"][row] + 1 :]])
            for column, (name, user) in enumerate([("mbp", rest.mean(0)), ("nbp", events.mean(0)), ("nbp", events.mean(0))]):
                candidates = read.extra[row, column]
                kept = torch.cat([candidates[:1], candidates[1:][candidates[1:] != candidates[0]]])
                losses[name].append(-torch.log_softmax(items[kept] @ user, 0)[0])
        expected = {name: torch.stack(values).mean() for name, values in losses.items()}
        assert torch.allclose(prediction_loss(model, batch, True, False), expected["mbp"], atol=1e-5)
        assert torch.allclose(prediction_loss(model, batch, False, True), expected["nbp"], atol=1e-5)
        assert torch.allclose(prediction_loss(model, batch, True, True), expected["mbp"] + expected["nbp"], atol=1e-5)


def test_it_learns_and_recovers_the_planted_preference(tiny):
    method = Ptum("ptum-hsa", Budget(steps=60, batch_size=16, max_behaviours=12), 0)
    method.fit(tiny.history)
    assert min(method.details["held_out_loss"]) < method.details["held_out_loss"][0] - 0.01
    assert recovered(method.embed(tiny.users), tiny.labels) > 0.65
