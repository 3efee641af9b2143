"""A tiny world with a planted preference, shared by the tests of the baselines: small enough for every method, strong enough to be learned."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from lurm.evaluation.baselines.method import History
from lurm.evaluation.probe import one_scale

TOPICS = ("apple pear plum cherry", "hammer nail drill saw", "novel poem essay atlas", "shirt coat scarf glove")
FILLERS = "new small large pack classic".split()
MICROS = 86_400_000_000


@dataclass(frozen=True)
class TinyWorld:
    """60 users, half of each kind; a kind decides which two of four topics its users mostly act on."""

    history: History
    users: list[str]
    labels: np.ndarray  # (60,) 0 or 1, the planted preference


def tiny_world(n_users: int = 60, n_events: int = 24, seed: int = 3, as_of: str = "2021-01-01") -> TinyWorld:
    """Users are named in no order of time; every third one has a shorter life."""
    rng = np.random.default_rng(seed)
    items = [
        {"item_id": f"i{topic}-{number:02d}", "title": " ".join([*rng.permutation(words.split())[:3], rng.choice(FILLERS), f"{number % 7}xl"]),
         "category": [f"department {topic // 2}", f"shelf {topic}"]}
        for topic, words in enumerate(TOPICS)
        for number in range(12)
    ]  # fmt: skip
    cut = int(np.datetime64(as_of, "us").astype(np.int64))
    labels = np.arange(n_users) % 2
    rows = []
    for user in range(n_users):
        span = 100 if user % 3 == 2 else 420
        times = np.sort(cut - 1 - (rng.random(n_events) ** 1.5 * span * MICROS).astype(np.int64))
        topics = np.where(rng.random(n_events) < 0.85, 2 * labels[user], 2 * (1 - labels[user])) + rng.integers(0, 2, n_events)
        rows += [(f"u{user:03d}", f"i{topic}-{rng.integers(0, 12):02d}", time) for topic, time in zip(topics, times)]
    history = History(events_table(rows), pa.Table.from_pylist(items), as_of)
    return TinyWorld(history, [f"u{user:03d}" for user in range(n_users)], labels)


def events_table(rows: list[tuple[str, str, int]]) -> pa.Table:
    """Events as a history has them, from (user, item, microseconds)."""
    users, items, times = zip(*sorted(rows, key=lambda row: (row[0], row[2])))
    return pa.table({
        "user_id": pa.array(users, pa.string()), "item_id": pa.array(items, pa.string()),
        "timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    })  # fmt: skip


def recovered(rows: np.ndarray, labels: np.ndarray) -> float:
    """AUC of the planted preference from frozen rows (n, d), out of fold."""
    scores = cross_val_predict(LogisticRegression(C=10.0), one_scale(rows), labels, cv=5, method="decision_function")
    return float(roc_auc_score(labels, scores))


@pytest.fixture(scope="session")
def tiny() -> TinyWorld:
    return tiny_world()
