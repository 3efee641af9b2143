"""All questions in one training: a model with a head for each of them, where a training for every fold of every question takes days.

In: a supervised method, whose start and batches are taken; questions, and the part of the users, 0 to P - 1, that each user is in. Out:
class probabilities of all users: those of a part from a network that was trained on the users of the other parts. Labels of a part, of
whatever question, never reach the network that scores it, so a question can't be answered by what is known of another one's answer.

    loss = mean over the batch's pairs of user and question with a label, of the cross-entropy

Adam, steps, judges and patience are those of `supervised`. Networks differ in how readily they say yes: their log-odds are compared within a
fold, so each network's are moved to the same mean over the users that it scores. That takes no label.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from lurm.evaluation.baselines.behaviours import places_of
from lurm.evaluation.baselines.method import Budget, History, Question
from lurm.evaluation.baselines.supervised import UNKNOWN, Trained, logits_of, train_heads
from lurm.sampling import hash_of_text


class Joint:
    """Supervised on all questions at once; starts from and reads what `inner` does."""

    def __init__(self, name: str, budget: Budget, seed: int, inner: Trained):
        self.name, self.budget, self.seed, self.inner = name, budget, seed, inner
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self.inner.fit(history)
        self.details = dict(self.inner.details)

    def scores_of_all(self, users: Sequence[str], questions: Sequence[Question], parts: np.ndarray) -> list[np.ndarray]:
        places = places_of(self.inner.sequences.behaviours, users)
        labels = np.full((len(users), len(questions)), UNKNOWN)
        for place, question in enumerate(questions):
            labels[question.rows, place] = question.labels
        sizes = [question.n_classes for question in questions]
        found = [np.zeros((len(users), size)) for size in sizes]
        order = hash_of_text(users, self.seed)
        costs = []
        for part in np.unique(parts):
            learners = np.flatnonzero((parts != part) & (places >= 0) & (labels != UNKNOWN).any(axis=1))
            learners = learners[np.argsort(order[learners], kind="stable")]
            learners = learners[: max(2, round(self.inner.label_share * len(learners)))]
            asked = np.flatnonzero(parts == part)
            answers, cost = _train_and_score(self.inner.start, self.inner.batch_of, places, labels, sizes, learners, asked, self.budget, self.seed)
            costs.append(cost)
            for scores, values in zip(found, answers, strict=True):
                scores[asked] = values
        self.details = {**self.details, "label_share": self.inner.label_share, "questions": len(questions), **_sum_of(costs)}
        return [scores[question.rows] for scores, question in zip(found, questions, strict=True)]


def _train_and_score(
    start: nn.Module, batch_of: Callable[[np.ndarray], object], places: np.ndarray, labels: np.ndarray, sizes: Sequence[int], learners: np.ndarray,
    asked: np.ndarray, budget: Budget, seed: int,
) -> tuple[list[np.ndarray], dict]:  # fmt: skip
    """((len(asked), C) probabilities of each question, cost); `learners` and `asked` are rows of places and labels (n, Q)."""
    counted = [np.bincount(labels[learners, place][labels[learners, place] >= 0], minlength=size) + 1.0 for place, size in enumerate(sizes)]
    logs = [np.log(counts / counts.sum()) for counts in counted]
    found = [np.tile(np.exp(log), (len(asked), 1)) for log in logs]
    known = np.flatnonzero(places[asked] >= 0)
    if len(learners) < 2 or not len(known):
        return found, {}
    network, cost = train_heads(start, batch_of, places, labels, logs, learners, budget, seed)
    for place, (values, log) in enumerate(zip(logits_of(network, batch_of, places[asked[known]]), logs, strict=True)):
        moved = torch.log_softmax(values, dim=1)
        moved = moved - moved.mean(dim=0) + torch.from_numpy(log)
        found[place][known] = torch.softmax(moved, dim=1).numpy()
    return found, cost


def _sum_of(costs: Sequence[dict]) -> dict:
    """What the networks cost together, and where each stopped."""
    costs = [cost for cost in costs if cost]
    return {"steps": sum(cost["steps"] for cost in costs), "best_steps": [cost["best_step"] for cost in costs],
            "seconds": round(sum(cost["seconds"] for cost in costs), 1)}  # fmt: skip
