"""SUMN: the hops and the targets by hand, and that the later behaviours are learned."""

import numpy as np
import torch
from conftest import recovered

from lurm.evaluation.baselines.learning import seeded
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import last_windows, make_batch, title_sequences
from lurm.evaluation.baselines.sumn import N_HOPS, Sumn, SumnNetwork, consistency_loss, word_shares


def test_word_shares_by_hand(tiny):
    sequences = title_sequences(tiny.history)
    items = sequences.behaviours.items[2:4]
    words = np.concatenate([sequences.words[item + 1] for item in items])
    counts = np.bincount(words[words > 0], minlength=sequences.n_words)
    expected = np.log1p(counts) / np.log1p(counts).sum()
    shares = word_shares(sequences, np.array([2, 5]), np.array([4, 5])).numpy()
    assert np.allclose(shares[0], expected, atol=1e-6) and not shares[1].any()


def test_hops_by_hand(tiny):
    sequences = title_sequences(tiny.history)
    with seeded(0):
        network = SumnNetwork(sequences.n_words, "hops", 5, dim=4)
    batch = make_batch(sequences, np.array([0, 1]), *last_windows(sequences, np.array([0, 1]), 3))
    hops = network(batch)
    assert hops.shape == (N_HOPS, 2, 4)
    with torch.no_grad():
        events = []
        for place in batch.places[1]:
            words = batch.words[place]
            events.append(network.words(words[words > 0]).mean(0))
        events = torch.stack(events)
        keys, values = network.norms[0](network.key(events)), network.norms[1](network.value(events))
        memory = user = network.start
        for hop in range(N_HOPS):
            memory = memory + torch.softmax(keys @ user, 0) @ values
            user = network.norms[2](memory)
            assert torch.allclose(hops[hop, 1], user, atol=1e-5)


def test_the_loss_is_a_cross_entropy_averaged_over_hops(tiny):
    sequences = title_sequences(tiny.history)
    with seeded(0):
        network = SumnNetwork(sequences.n_words, "hops", 5, dim=4)
    batch = make_batch(sequences, np.array([0, 1]), *last_windows(sequences, np.array([0, 1]), 3))
    target = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0]])
    log_shares = torch.log_softmax(network.logits(network(batch)), -1)
    expected = -(log_shares[:, 0, 0] + (log_shares[:, 1, 1] + log_shares[:, 1, 2]) / 2).mean() / 2
    assert torch.allclose(consistency_loss(network, batch, target), expected)
    who = consistency_loss(network, batch, torch.tensor([3, 0]))
    assert torch.allclose(who, -(log_shares[:, 0, 3] + log_shares[:, 1, 0]).mean() / 2)


def test_the_target_lies_after_what_is_read(tiny):
    sequences = title_sequences(tiny.history)
    method = Sumn("sumn", Budget(max_behaviours=30), 0)
    users = np.arange(60)
    batch = method._batch(sequences, users, np.zeros(60, np.int64), np.random.default_rng(0))
    read = (batch["read"].places > 0).sum(1).numpy()
    assert (read >= 1).all() and (read <= 23).all()
    for user in (0, 17):
        start, stop = sequences.behaviours.offsets[user] + read[user], sequences.behaviours.offsets[user + 1]
        assert torch.equal(batch["target"][user], word_shares(sequences, np.array([start]), np.array([stop]))[0])


def test_it_learns_and_recovers_the_planted_preference(tiny):
    method = Sumn("sumn-mean", Budget(steps=40, batch_size=16, max_behaviours=12), 0, pooling="mean")
    method.fit(tiny.history)
    assert method.details["held_out_loss"][-1] < method.details["held_out_loss"][0] - 0.05
    assert recovered(method.embed(tiny.users), tiny.labels) > 0.8
