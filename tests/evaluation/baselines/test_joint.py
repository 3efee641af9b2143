"""All questions in one training: what is planted is learned, and no label of a part reaches the scores of that part."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lurm.evaluation.baselines.joint import Joint
from lurm.evaluation.baselines.method import Budget, Question
from lurm.evaluation.baselines.sequences import Bundle
from lurm.evaluation.baselines.supervised import SupervisedSequences

BUDGET = Budget(steps=60, batch_size=16, max_behaviours=12)


def method(budget: Budget = BUDGET, **settings) -> Joint:
    return Joint("x", budget, 0, SupervisedSequences("x", budget, 0, "textcnn", **settings))


def questions_of(tiny, rng) -> list[Question]:
    """What is planted, asked of everybody; the same of half of the users; a question of chance with three classes."""
    half = np.arange(0, len(tiny.users), 2) + np.arange(len(tiny.users) // 2) % 2
    return [Question(np.arange(len(tiny.users)), tiny.labels, 2), Question(half, 1 - tiny.labels[half], 2),
            Question(np.arange(len(tiny.users)), rng.integers(0, 3, len(tiny.users)), 3)]  # fmt: skip


def test_planted_answers_are_learned_together(tiny):
    joint = method()
    joint.fit(tiny.history)
    questions = questions_of(tiny, np.random.default_rng(0))
    scores = joint.scores_of_all(tiny.users, questions, np.arange(len(tiny.users)) // 2 % 3)
    assert [one.shape for one in scores] == [(60, 2), (30, 2), (60, 3)]
    assert all(np.allclose(one.sum(axis=1), 1) and (one >= 0).all() for one in scores)
    assert roc_auc_score(questions[0].labels, scores[0][:, 1]) > 0.85 and roc_auc_score(questions[1].labels, scores[1][:, 1]) > 0.8
    assert joint.details["questions"] == 3 and joint.details["steps"] > 3 * 10 and len(joint.details["best_steps"]) == 3


def test_no_label_of_a_part_reaches_its_scores(tiny):
    """Of any question: answers to one would tell those to another."""
    parts = np.arange(len(tiny.users)) // 2 % 3
    joint = method(Budget(steps=6, batch_size=16, max_behaviours=8))
    joint.fit(tiny.history)
    questions = questions_of(tiny, np.random.default_rng(0))
    before = joint.scores_of_all(tiny.users, questions, parts)
    turned = [Question(one.rows, np.where(parts[one.rows] == 1, (one.labels + 1) % one.n_classes, one.labels), one.n_classes) for one in questions]
    after = joint.scores_of_all(tiny.users, turned, parts)
    for question, one, other in zip(questions, before, after, strict=True):
        same = parts[question.rows] == 1
        assert np.array_equal(one[same], other[same]) and not np.allclose(one[~same], other[~same])


def test_users_without_events_get_the_shares_of_the_others(tiny):
    users = [*tiny.users, "nobody"]
    joint = method(Budget(steps=2, batch_size=8, max_behaviours=8))
    joint.fit(tiny.history)
    labels = np.append((np.arange(60) < 20).astype(int), 0)
    parts = np.append(np.arange(60) % 2, 0)
    scores = joint.scores_of_all(users, [Question(np.arange(61), labels, 2)], parts)[0]
    assert scores[-1] == pytest.approx([21 / 32, 11 / 32])  # 20 and 10 of 30, one more each


def test_fewer_labels_are_part_of_more(tiny):
    """A blind model records whom it is trained on; of each half of the users the share of the other half."""
    seen: list[set] = []

    class Blind(torch.nn.Module):
        dim = 2

        def forward(self, batch):
            if self.training:
                seen[-1].update(batch["places"].tolist())
            return torch.zeros(len(batch["places"]), 2)

    odd = np.arange(60) % 2
    for share in (0.2, 0.5, 1.0):
        joint = method(Budget(steps=60, batch_size=8), label_share=share)
        joint.fit(tiny.history)
        joint.inner.start, joint.inner.batch_of = Blind(), lambda numbers: Bundle(places=torch.from_numpy(numbers))
        seen.append(set())
        joint.scores_of_all(tiny.users, [Question(np.arange(60), tiny.labels, 2)], odd)
    assert [len(one) for one in seen] == [12, 30, 60] and seen[0] < seen[1] < seen[2]
