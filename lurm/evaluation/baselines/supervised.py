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
UNKNOWN = -1  # the label of a user whom a question is not asked
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
    network, cost = train_heads(start, batch_of, task.places, labels[:, None], [np.log(shares)], usable, budget, seed)
    found[known] = torch.softmax(logits_of(network, batch_of, task.places[task.test[known]])[0], dim=1).numpy()
    return found, cost


class Heads(nn.Module):
    """A model from batches to vectors of its `dim`, and a linear layer for each question."""

    def __init__(self, model: nn.Module, sizes: Sequence[int]):
        super().__init__()
        self.model, self.dropout, self.head, self.sizes = model, nn.Dropout(DROPOUT), nn.Linear(model.dim, sum(sizes)), list(sizes)

    def forward(self, batch) -> tuple[torch.Tensor, ...]:
        """(B, C) logits of each question."""
        return self.head(self.dropout(self.model(batch))).split(self.sizes, dim=1)


def train_heads(
    start: nn.Module, batch_of: Callable[[np.ndarray], object], places: np.ndarray, labels: np.ndarray, logs: Sequence[np.ndarray],
    learners: np.ndarray, budget: Budget, seed: int,
) -> tuple[Heads, dict]:  # fmt: skip
    """(network, cost): a copy of `start` with a head for each of Q questions, trained on the rows `learners` of places (n,) and labels (n, Q).

    `logs`, Q arrays (C,), are the log shares that the heads start from; of the learners the first tenth judges.
    """
    n_judges = int(JUDGES * len(learners))
    judges, learners = (learners[:n_judges], learners[n_judges:]) if n_judges >= FEWEST_JUDGES else (learners[:0], learners)
    with seeded(seed):
        network = Heads(copy.deepcopy(start), [len(log) for log in logs])
        network.head.bias.data.copy_(torch.from_numpy(np.concatenate(logs)))

    def make(rows: np.ndarray) -> Bundle:
        return Bundle(read=batch_of(places[rows]), labels=torch.from_numpy(labels[rows].astype(np.int64)))

    size = min(budget.batch_size, len(learners))
    cost = learn(
        network, budget, seed, lambda rng, step: make(rng.choice(learners, size, replace=False)),
        lambda batch: loss_of_known(network(batch["read"]), batch["labels"]),
        [make(judges[first : first + 256]) for first in range(0, len(judges), 256)], patience=PATIENCE, untrained_counts=False,
    )  # fmt: skip
    return network, cost


def loss_of_known(logits: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labels (B, Q) that are known; 0 where none is."""
    losses = [functional.cross_entropy(values, labels[:, place], ignore_index=UNKNOWN, reduction="sum") for place, values in enumerate(logits)]
    return torch.stack(losses).sum() / (labels != UNKNOWN).sum().clamp_min(1)


@torch.no_grad()
def logits_of(network: Heads, batch_of: Callable[[np.ndarray], object], numbers: np.ndarray) -> list[torch.Tensor]:
    """(n, C) float64 of each question."""
    device = choose_device("auto")
    parts = [network(batch_of(numbers[first : first + 256]).to(device)) for first in range(0, len(numbers), 256)]
    return [torch.cat([part[place] for part in parts]).double().cpu() for place in range(len(network.sizes))]


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
