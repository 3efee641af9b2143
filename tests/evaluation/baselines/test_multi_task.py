"""The tasks that the history makes of itself, and the towers over it."""

import numpy as np
import torch
from conftest import recovered

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.day_words import word_batch
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.multi_task import N_CATEGORIES, N_WORDS, MultiTask, Towers, own_labels
from lurm.evaluation.baselines.own_task import item_tags
from lurm.evaluation.baselines.sequences import title_sequences


def test_labels_by_hand(tiny):
    behaviours = behaviours_of(tiny.history)
    moment, users, done, volumes = own_labels(behaviours)
    assert moment == int(np.datetime64("2020-10-01", "us").astype(np.int64))
    names, tags = item_tags(behaviours.categories, behaviours.item_ids)
    assert done.shape == (len(users), len(names)) and volumes.shape == (len(users), 2) and set(volumes.ravel()) <= {0, 1, 2, 3}
    for row, user in list(enumerate(users))[::11]:
        events = np.arange(behaviours.offsets[user], behaviours.offsets[user + 1])
        late = events[behaviours.micros[events] >= moment]
        assert done[row].tolist() == (tags[behaviours.items[late]].toarray().sum(axis=0) > 0).tolist()
        assert (volumes[row, 0] > 0) == (len(late) > 0)
    assert (behaviours.micros[behaviours.offsets[users]] < moment).all()


def test_counts_by_hand(tiny):
    sequences = title_sequences(tiny.history)
    batch = word_batch(sequences, np.array([3, 4]), 50)
    counts = torch.expm1(Towers(sequences, "wide-deep").counts(batch)).round().long()
    assert counts.shape == (2, N_WORDS + N_CATEGORIES)
    behaviours = sequences.behaviours
    items = behaviours.items[behaviours.offsets[4] : behaviours.offsets[5]] + 1
    words = np.bincount(sequences.words[items].ravel(), minlength=N_WORDS + 1)[1:]
    categories = np.bincount(sequences.categories[items].ravel(), minlength=N_CATEGORIES + 1)[1:]
    assert counts[1].tolist() == [*words, *categories]


def test_it_learns_and_recovers_the_planted_preference(tiny):
    method = MultiTask("wide-deep-mtl", Budget(steps=30, batch_size=16, max_behaviours=12), 0, "wide-deep")
    method.fit(tiny.history)
    assert method.details["last_loss"] < method.details["first_loss"] - 1 and method.details["tasks"] == 8
    assert recovered(method.embed(tiny.users), tiny.labels) > 0.8
