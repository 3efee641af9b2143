"""Training on labels: shares of labels are nested, and what was pre-trained is not changed by it."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lurm.errors import ConfigError
from lurm.evaluation.baselines.behaviours import behaviours_of, places_of
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import Bundle
from lurm.evaluation.baselines.supervised import UNKNOWN, Heads, SupervisedSequences, Task, classify, loss_of_known, starting_model

BUDGET = Budget(steps=40, batch_size=16, max_behaviours=12)


@pytest.mark.parametrize("architecture", ["textcnn", "gru4rec", "naml"])
def test_the_planted_preference_is_learned(architecture, tiny):
    method = SupervisedSequences("x", BUDGET, 0, architecture)
    method.fit(tiny.history)
    scores = method.scores(tiny.users, tiny.labels, np.arange(40), np.arange(40, 60))
    assert roc_auc_score(tiny.labels[40:], scores[:, 1]) > 0.8
    assert method.details["last_loss"] < method.details["first_loss"]


def test_fine_tuning_leaves_the_shared_start_as_it_was(tiny):
    method = SupervisedSequences("x", Budget(steps=3, batch_size=8, max_behaviours=8), 0, "hsa", pretraining="ptum")
    method.fit(tiny.history)
    before = copy.deepcopy(method.start.state_dict())
    method.scores(tiny.users, tiny.labels, np.arange(40), np.arange(40, 60))
    assert all(torch.equal(value, before[name]) for name, value in method.start.state_dict().items())
    assert method.details["pretraining"]["steps"] == 3


def test_fewer_labels_are_part_of_more_and_strangers_are_given_shares(tiny):
    seen: list[set] = []

    class Blind(torch.nn.Module):
        dim = 2

        def forward(self, batch):
            seen[-1].update(batch["places"].tolist())
            return torch.zeros(len(batch["places"]), 2)

    users = [*tiny.users, "nobody"]
    task = Task(users, places_of(behaviours_of(tiny.history), users), np.append(tiny.labels, 0), np.arange(50), np.arange(50, 61))
    for share in (0.2, 0.5, 1.0):
        seen.append(set())
        scores, _ = classify(Blind(), lambda numbers: Bundle(places=torch.from_numpy(numbers)), task, Budget(steps=60, batch_size=8), 3, share)
        assert np.allclose(scores[-1], [0.5, 0.5])  # 25 of each among 50
    learners = [found & set(range(50)) for found in seen]
    assert [len(found) for found in learners] == [10, 25, 50] and learners[0] < learners[1] < learners[2]


def test_an_unknown_start_is_told(tiny):
    with pytest.raises(ConfigError, match="got 'bert'"):
        starting_model(tiny.history, "hsa", "bert", BUDGET, 0)


def test_the_loss_is_a_mean_over_known_labels():
    logits = [torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])]
    labels = torch.tensor([[1, UNKNOWN], [0, 2]])
    expected = (np.log(2) + np.log1p(np.exp(-2)) + np.log(3)) / 3
    assert float(loss_of_known(logits, labels)) == pytest.approx(expected, rel=1e-6)
    assert float(loss_of_known(logits, torch.full((2, 2), UNKNOWN))) == 0.0


def test_each_question_has_a_head_of_its_own():
    model = torch.nn.Linear(3, 4)
    model.dim = 4
    heads = Heads(model, [2, 3]).eval()
    assert [tuple(one.shape) for one in heads(torch.zeros(5, 3))] == [(5, 2), (5, 3)]
