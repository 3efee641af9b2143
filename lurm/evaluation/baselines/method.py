"""What every method of the evaluation is: it sees a history, and gives one row per user, or scores learned from labels.

In: a `History`, events before a cut and the catalogue. Out: a representation per user (`Method`), or class probabilities learned on the
training users of a fold (`SupervisedMethod`), or of all questions together (`JointMethod`). Nothing here knows a task, a probe or a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from scipy import sparse


@dataclass(frozen=True)
class History:
    """Everything a method may see: events before the cut, and the catalogue.

    Methods read the titles of items with events only, and no event at or after the cut, even if somebody hands them more.
    """

    events: pa.Table  # user_id text, item_id text, timestamp (us, UTC); sorted by user_id, timestamp
    items: pa.Table  # item_id text, title text, category list<text> (empty list where there is none)
    as_of: str  # YYYY-MM-DD; every event is before its midnight UTC
    seed: int = 0  # of what the history itself draws (none of the methods); a method's own seed is the factory's


@dataclass(frozen=True)
class Budget:
    """What a method may spend; the same for all, so that nobody wins by effort."""

    steps: int = 300  # optimizer steps of each training
    batch_size: int = 64  # users a step
    max_behaviours: int = 50  # the last ones of a user that a sequence model reads
    max_users: int | None = None  # training users, by hash
    learning_rate: float = 1e-3  # of Adam, of all that lurm.evaluation.baselines.learning trains; LURM has its own


@runtime_checkable
class Method(Protocol):
    """Frozen user representations without labels."""

    name: str
    details: dict  # plain data that the tables may show: n_interests, seconds, steps, chosen settings

    def fit(self, history: History) -> None:
        """Learn all that is learned without labels."""
        ...

    def embed(self, users: Sequence[str]) -> np.ndarray | sparse.csr_matrix:
        """(B, width) float32, rows in the order asked, at history.as_of; a user without events is a row of zeros."""
        ...


@runtime_checkable
class SupervisedMethod(Protocol):
    """Trained on the labels of the training users of a fold; gives scores."""

    name: str
    details: dict

    def fit(self, history: History) -> None:
        """Vocabularies, sequences and pre-training; no labels."""
        ...

    def scores(self, users: Sequence[str], labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """labels (n,) class numbers 0..C-1; train and test row numbers. (len(test), C) float64 class probabilities, rows sum to 1."""
        ...


@dataclass(frozen=True)
class Question:
    """Labels of some of the users."""

    rows: np.ndarray  # (n,) whom it is asked, as numbers into all users
    labels: np.ndarray  # (n,) class numbers 0..C-1
    n_classes: int


@runtime_checkable
class JointMethod(Protocol):
    """Trained on the labels of all questions together."""

    name: str
    details: dict

    def fit(self, history: History) -> None:
        """Vocabularies, sequences and pre-training; no labels."""
        ...

    def scores_of_all(self, users: Sequence[str], questions: Sequence[Question], parts: np.ndarray) -> list[np.ndarray]:
        """parts (len(users),) int: (n, C) float64 class probabilities of each question, a user's learned without any label of his part."""
        ...


AnyMethod = Method | SupervisedMethod | JointMethod
