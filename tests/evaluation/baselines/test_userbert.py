"""UserBERT: which negatives are chosen, what does not overlap, and the loss by hand."""

import numpy as np
import pytest
import torch

from lurm.evaluation.baselines.learning import seeded
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequence_models import SequenceModel
from lurm.evaluation.baselines.sequences import title_sequences
from lurm.evaluation.baselines.userbert import NEGATIVES, REFRESH, Pools, UserBert, choose, draw, random_windows, task_loss


@pytest.fixture(scope="module")
def sequences(tiny):
    return title_sequences(tiny.history)


def pools_of(sequences, kind: str) -> Pools:
    with seeded(0):
        model = SequenceModel("mean", sequences, 10)
    return Pools(sequences, model, np.arange(60), 10, 0, kind)


def batch_of(sequences, kind: str):
    from lurm.evaluation.baselines.sequences import Bundle

    return Bundle(draw(sequences, np.arange(12), np.arange(60), 10, np.random.default_rng(2), kind), step=torch.tensor(0))


def test_the_loss_by_hand():
    queries, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 5.0]])
    negatives, barred = torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]), torch.tensor([[False, True]])
    assert torch.allclose(choose(queries, positives, negatives, barred), torch.log1p(torch.exp(torch.tensor(1.0 - 2.0))))


def test_a_tenth_is_hidden_and_it_is_what_must_be_found(sequences):
    batch = batch_of(sequences, "random")
    lengths = (batch["left"].places > 0).sum(1)
    assert torch.equal(batch["real"].sum(1), (0.1 * lengths).floor().long().clamp_min(1))
    found = batch["left"].places.gather(1, batch["place"])
    assert torch.equal(found[batch["real"]], batch["mbp"][batch["real"]])


def test_the_two_sequences_of_a_user_follow_each_other(sequences):
    batch = batch_of(sequences, "random")
    first = sequences.behaviours.micros[sequences.behaviours.offsets[:12]]
    assert (batch["spans"][:, 0].numpy() >= first).all() and (batch["right"].places > 0).any(1).all()
    assert torch.equal(batch["left"].users, batch["right"].users)
    assert (batch["others"].users[batch["chosen"]] != batch["users"][:, None]).all()


def test_medium_hard_behaviours_are_the_nearest_of_the_pool(sequences):
    pools, batch = pools_of(sequences, "medium"), batch_of(sequences, "medium")
    with torch.no_grad():
        items = pools.model.eval().items(batch["left"])
        true = batch["mbp"][batch["real"]]
        _, barred = pools.behaviours(batch, items, items[true], batch["items"][batch["real"]], 0)
        pool = items[batch["pool"]]
        cosine = torch.nn.functional.normalize(items[true], dim=1) @ torch.nn.functional.normalize(pool, dim=1).T
        cosine[batch["pool"][None] == true[:, None]] = -2
        wrong, _ = pools.behaviours(batch, items, items[true], batch["items"][batch["real"]], 0)
        nearest = torch.nn.functional.cosine_similarity(wrong, items[true][:, None], dim=2)
    assert not barred.any() and wrong.shape[1] == NEGATIVES
    assert torch.allclose(nearest.sort(1).values, cosine.topk(NEGATIVES, 1).values.sort(1).values, atol=1e-5)


@pytest.mark.parametrize("kind", ["medium", "hardest"])
def test_pools_are_kept_until_they_are_refreshed_and_hold_no_sequence_of_the_user(kind, sequences):
    pools, batch = pools_of(sequences, kind), batch_of(sequences, kind)
    with torch.no_grad():
        ours = pools.model(batch["left"])
        _, barred = pools.sequences_of_others(batch, ours, 0)
        kept = pools.kept["sequences"]
        pools.sequences_of_others(batch, ours, REFRESH - 1)
        assert pools.kept["sequences"] is kept
        pools.sequences_of_others(batch, ours, REFRESH)
        assert pools.kept["sequences"] is not kept and not barred.any()


@pytest.mark.parametrize("kind", ["random", "medium", "hardest"])
def test_every_task_moves_the_weights(kind, sequences):
    pools, batch = pools_of(sequences, kind), batch_of(sequences, kind)
    pools.model.train()
    losses = {task: task_loss(pools.model, batch, (task,), pools) for task in ("mbp", "bsm", "nbp")}
    for loss in losses.values():
        pools.model.zero_grad()
        loss.backward()
        assert torch.isfinite(loss) and pools.model.titles.words.weight.grad.any()


def test_windows_lie_inside_lives(sequences):
    users, starts, stops = random_windows(sequences, np.array([4, 9]), 7, 200, np.random.default_rng(0))
    offsets = sequences.behaviours.offsets
    assert set(users) == {4, 9} and (stops - starts >= 1).all() and (stops - starts <= 7).all()
    assert (starts >= offsets[users]).all() and (stops <= offsets[users + 1]).all()


def test_it_learns(tiny):
    method = UserBert("userbert-random", Budget(steps=150, batch_size=16, max_behaviours=12), 0, tasks=("mbp",), negatives="random")
    method.fit(tiny.history)
    assert method.details["last_loss"] < method.details["first_loss"] - 0.05 and method.details["tasks"] == ["mbp"]
