"""Sequence models trained on the labels, from scratch or from a pre-trained start; one training for all architectures.

In: the labels of the training users of a fold. Out: class probabilities of the test users, from a linear layer on the user vector. Adam
0.001, dropout 0.2, at most `Budget.steps` steps of `Budget.batch_size` users; a tenth of the training users decides by cross-entropy when to stop.

`label_share` trains on a share of the training users, those with the smallest hashes: 20 % of the labels are part of the 50 %.
`pretraining` says what the model starts from: none; ptum (both tasks), ptum-mbp, ptum-nbp; userbert; cp; tuned end to end.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lurm.errors import ConfigError
from lurm.evaluation.baselines.behaviours import places_of
from lurm.evaluation.baselines.learning import learn, seeded
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequence_models import DROPOUT, SequenceModel, new_model
from lurm.evaluation.baselines.sequences import Bundle, SequenceBatch, last_windows, make_batch, title_sequences
from lurm.sampling import hash_of_text
from lurm.training import choose_device

JUDGES = 0.1  # of the training users
FEWEST_JUDGES = 12  # below, everybody learns and the last weights are taken
PATIENCE = 4  # looks, of twelve, without improvement before training stops


class Trained:
    """Supervised: a model trained end to end on the labels of a fold. Families say what training starts from and how the model is fed."""

    def __init__(self, name: str, budget: Budget, seed: int, label_share: float = 1.0):
        self.name, self.budget, self.seed, self.label_share = name, budget, seed, label_share
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self.sequences = title_sequences(history)
        self.start, cost = self.begin(history)
        self.details = {"pretraining": cost} if cost else {}

    def begin(self, history: History) -> tuple[nn.Module, dict]:
        """The module that training starts from, not to be changed, from batches to vectors of its `dim`; and what it cost."""
        raise NotImplementedError

    def batch_of(self, numbers: np.ndarray) -> object:
        """What the module reads, of users by number."""
        raise NotImplementedError

    def scores(self, users: Sequence[str], labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        task = Task(users, places_of(self.sequences.behaviours, users), np.asarray(labels), train, test)
        found, cost = classify(self.start, self.batch_of, task, self.budget, self.seed, self.label_share)
        self.details = {**self.details, **cost, "label_share": self.label_share}
        return found


class SupervisedSequences(Trained):
    """Supervised, over title sequences."""

    def __init__(self, name: str, budget: Budget, seed: int, architecture: str, pretraining: str | None = None, label_share: float = 1.0):
        super().__init__(name, budget, seed, label_share)
        self.architecture, self.pretraining = architecture, pretraining

    def begin(self, history: History) -> tuple[SequenceModel, dict]:
        return starting_model(history, self.architecture, self.pretraining, self.budget, self.seed)

    def batch_of(self, numbers: np.ndarray) -> SequenceBatch:
        return make_batch(self.sequences, numbers, *last_windows(self.sequences, numbers, self.budget.max_behaviours))


@dataclass(frozen=True)
class Task:
    """One fold: n users with their numbers in the history (-1: no events) and labels, and the rows to train on and to score."""

    users: Sequence[str]
    places: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray


def classify(
    start: nn.Module, batch_of: Callable[[np.ndarray], object], task: Task, budget: Budget, seed: int, label_share: float = 1.0
) -> tuple[np.ndarray, dict]:  # fmt: skip
    """((len(test), C) probabilities, cost): a copy of `start`, a module from batches to vectors of its `dim`, trained with a linear layer on top.

    Users without events get the training users' shares of the classes.
    """
    labels, n_classes = task.labels, int(np.max(task.labels)) + 1
    hashes = hash_of_text(task.users, seed)
    usable = task.train[task.places[task.train] >= 0]
    usable = usable[np.argsort(hashes[usable], kind="stable")][: max(2, round(label_share * len(task.train)))]
    shares = (np.bincount(labels[task.train], minlength=n_classes) + 1) / (len(task.train) + n_classes)
    found = np.tile(shares, (len(task.test), 1)).astype(np.float64)
    known = np.flatnonzero(task.places[task.test] >= 0)
    if len(usable) < 2 or not len(known):
        return found, {}
    n_judges = int(JUDGES * len(usable))
    judges, learners = (usable[:n_judges], usable[n_judges:]) if n_judges >= FEWEST_JUDGES else (usable[:0], usable)
    with seeded(seed):
        network = Classifier(copy.deepcopy(start), n_classes)
        network.head.bias.data.copy_(torch.from_numpy(np.log(shares)))

    def make(rows: np.ndarray) -> Bundle:
        return Bundle(read=batch_of(task.places[rows]), labels=torch.from_numpy(labels[rows].astype(np.int64)))

    size = min(budget.batch_size, len(learners))
    cost = learn(
        network, budget, seed, lambda rng, step: make(rng.choice(learners, size, replace=False)),
        lambda batch: functional.cross_entropy(network(batch["read"]), batch["labels"]),
        [make(judges[first : first + 256]) for first in range(0, len(judges), 256)], patience=PATIENCE, untrained_counts=False,
    )  # fmt: skip
    found[known] = probabilities(network, batch_of, task.places[task.test[known]])
    return found, cost


@torch.no_grad()
def probabilities(network: nn.Module, batch_of: Callable[[np.ndarray], object], numbers: np.ndarray) -> np.ndarray:
    """(n, C) float64, rows sum to 1."""
    device = choose_device("auto")
    parts = [torch.softmax(network(batch_of(numbers[first : first + 256]).to(device)).double(), dim=1).cpu().numpy()
             for first in range(0, len(numbers), 256)]  # fmt: skip
    return np.concatenate(parts)


class Classifier(nn.Module):
    """A module from batches to vectors of its `dim`, and a linear layer on top."""

    def __init__(self, model: nn.Module, n_classes: int):
        super().__init__()
        self.model, self.dropout, self.head = model, nn.Dropout(DROPOUT), nn.Linear(model.dim, n_classes)

    def forward(self, batch) -> torch.Tensor:
        return self.head(self.dropout(self.model(batch)))


def starting_model(history: History, architecture: str, pretraining: str | None, budget: Budget, seed: int) -> tuple[SequenceModel, dict]:
    """The model that training starts from, not to be changed, and what pre-training it cost."""
    if pretraining is None:
        return new_model(history, architecture, budget.max_behaviours, seed), {}
    if pretraining.startswith("ptum"):
        from lurm.evaluation.baselines.ptum import pretrained

        return pretrained(history, budget, seed, architecture, mbp=not pretraining.endswith("-nbp"), nbp=not pretraining.endswith("-mbp"))
    if pretraining == "userbert":
        from lurm.evaluation.baselines.userbert import pretrained as userbert_pretrained

        return userbert_pretrained(history, budget, seed, architecture, ("mbp", "bsm"), "medium")
    if pretraining == "cp":
        from lurm.evaluation.baselines.augmentation import pretrained as cp_pretrained

        return cp_pretrained(history, budget, seed, architecture, ("crop", "mask", "reorder"))
    raise ConfigError(f"Expected pretraining ptum, ptum-mbp, ptum-nbp, userbert or cp, got {pretraining!r}; mend the method's settings.")
